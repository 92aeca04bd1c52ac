"""What the figures of a report look at, where they can show only one rule, protocol or number of clients."""

from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import mean
from typing import Any, NamedTuple

import pyarrow as pa

from fedjax_paradox.analysis.runs import Known, Size, ends
from fedjax_paradox.report.tables import Row, is_reference
from fedjax_paradox.sweep.audits import Audit

PREFERRED = "label_matched"  # one and the same measurement for every model


class View(NamedTuple):
    """What figures show of a report's data: one protocol, rule and number of clients, where they show only one."""

    table: pa.Table  # clients
    measured: pa.Table  # runs.measures, every round
    rows: list[Row]  # means over the runs of a setting
    runs: list[dict[str, Any]]  # as picked under `protocol`, with numbers, of `base` and `num_clients` alone
    audits: Mapping[str, Audit]  # by cell
    protocol: str
    num_clients: int
    base: dict[tuple[str, str], str]  # (corpus, model) -> its rule, where figures do not compare rules
    when: str  # words for the rounds of `rows`
    sizes: Mapping[tuple[str, str], Size]  # (corpus, model) -> mean of its cells, where somebody says
    ended: str  # how many of all runs of that kind diverged, "" where none did

    @property
    def told(self) -> str:
        rules = dict.fromkeys(self.base.values())
        by_model = (f"{rule} ({model})" for (_, model), rule in self.base.items())
        named = next(iter(rules)) if len(rules) == 1 else "; ".join(by_model)
        return f"{named}; {self.num_clients} clients" + (f"; runs: {self.ended}" if self.ended else "")


class CellFacts(NamedTuple):
    """What is known of single cells and rules."""

    audits: Mapping[str, Audit]  # by cell
    known: Mapping[str, Known]  # cell -> what its folder says of it
    rules: Mapping[str, str]  # label of a rule -> the rule, without the settings that are written behind it


def look(
    table: pa.Table,
    measured: pa.Table,
    picked: pa.Table,
    *,
    rows: list[Row],
    facts: CellFacts,
    when: str,
) -> View:
    """Chooses what is shown where only one can be: the commonest rule and number of clients."""
    protocols = list(dict.fromkeys(picked["protocol"].to_pylist()))
    protocol = PREFERRED if PREFERRED in protocols else protocols[0]
    settings = [row.setting for row in rows if row.setting["protocol"] == protocol]
    num_clients, rule = _commonest((one["num_clients"], facts.rules[one["rule"]]) for one in settings)
    labels: dict[tuple[str, str], list[str]] = {}
    for one in settings:
        if (one["num_clients"], facts.rules[one["rule"]]) == (num_clients, rule):
            labels.setdefault((one["corpus"], one["model"]), []).append(one["rule"])
    base = {series: _commonest(found) for series, found in labels.items()}
    sizes = _sizes(facts.known.values())
    view = View(table, measured, rows, [], facts.audits, protocol, num_clients, base, when, sizes, "")
    runs = [run for run in picked.to_pylist() if run["protocol"] == protocol and is_base(view, run)]
    runs.sort(key=lambda run: (run["alpha"], run["corpus"], run["model"], run["partition_seed"], run["seed"]))
    return view._replace(runs=[run for run in runs if run["round"]], ended=ends(runs))


def _sizes(known: Iterable[Known]) -> dict[tuple[str, str], Size]:
    """Means over cells, of which each may have a vocabulary of its own."""
    found: dict[tuple[str, str], list[Size]] = {}
    for cell in known:
        if cell.size.parameters:
            found.setdefault((cell.facts["corpus"], cell.facts["model"]), []).append(cell.size)

    def average(sizes: list[Size]) -> Size:
        trainable = round(mean(size.trainable for size in sizes))
        return Size(trainable, round(mean(size.parameters for size in sizes)), sizes[0].start)

    return {model: average(sizes) for model, sizes in found.items()}


def _commonest(values: Iterable[Any]) -> Any:
    """Of those that are equally common FedAvg, from which others are told apart, and no line to compare with."""
    counts = Counter(values)

    def rank(value: Any) -> tuple:
        rule = value[-1] if isinstance(value, tuple) else value
        return is_reference({"rule": rule}), -counts[value], rule != "fedavg", value

    return min(counts, key=rank)


def is_base(view: View, setting: Mapping[str, Any]) -> bool:
    rule = view.base.get((setting["corpus"], setting["model"]))
    return setting["rule"] == rule and setting["num_clients"] == view.num_clients
