"""Tables of a report: one value for the page, for Markdown and for LaTeX."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fedjax_paradox.analysis.runs import FLOOR, FLOORED, Known
from fedjax_paradox.analysis.statistics import SETTING, Estimate, interval, possible

MEASURES = {"average": "avg", "worst": "worst", f"{FLOORED}gap": f"gap, ≥ {FLOOR} rows", "gap": "gap"}
NONE = "–"  # where no client has an accuracy
COLUMNS = {"corpus": "corpus", "model": "model", "rule": "rule", "alpha": "α", "num_clients": "K"}


class Table(NamedTuple):
    """Text all over: what is shown is what is stored."""

    name: str  # of the file, letters, digits and hyphens
    caption: str
    columns: Sequence[str]
    numeric: Sequence[bool]  # by column: right-aligned, sorted as numbers
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


class Row(NamedTuple):
    """One setting under one protocol: means over its runs, in [0, 1]."""

    setting: dict[str, Any]  # the columns of SETTING
    estimates: dict[str, Estimate]  # measure -> mean and interval
    rounds: tuple[int, int]  # fewest and most rounds of its runs
    fixed: bool  # in every run the partition scores all clients alike
    diverged: int  # of its runs, those that stopped early and count with their last finite round
    numberless: int  # of these, those that have none


# Rules that are no candidates but lines to compare with: no federation, by pooling the rows and by training alone.
REFERENCES = ("centralised", "local_only")


def is_reference(setting: Mapping[str, Any]) -> bool:
    """Whether a setting's rule is one of these, whatever stands behind its name."""
    return setting["rule"].partition(",")[0].partition("(")[0] in REFERENCES


def summarised(picked: pa.Table) -> list[Row]:
    """One row per setting and protocol, sorted by setting.

    Args:
      picked: `runs.pick`ed measures, a row per (run, protocol).
    """
    groups: dict[tuple, list[dict]] = {}
    for run in picked.to_pylist():
        groups.setdefault(tuple(run[name] for name in SETTING), []).append(run)
    return [_row(dict(zip(SETTING, key, strict=True)), groups[key]) for key in sorted(groups)]


def _row(setting: dict, runs: Sequence[dict]) -> Row:
    seeds = np.array([run["partition_seed"] for run in runs])
    rounds = [run["round"] for run in runs if run["round"]] or [0]
    first, diverged = (sum(0 < run["diverged"] <= most for run in runs) for most in (1, inf))
    estimates = {name: possible(interval(np.array([run[name] for run in runs]), seeds)) for name in MEASURES}
    fixed = all(run["fixed"] for run in runs)
    return Row(setting, estimates, (min(rounds), max(rounds)), fixed, diverged, first)


def accuracy(rows: Sequence[Row], protocol: str, when: str, same: Iterable[tuple[str, str]] = ()) -> Table:
    """Mean, worst and gap of every setting under one protocol, with 95 % intervals.

    Args:
      when: words for the rounds; same: pairs of settings that are one run by construction.
    """
    rows = sorted((row for row in rows if row.setting["protocol"] == protocol), key=_references_last)
    shown = _shown(rows)
    lines = [_accuracy_line(row, shown) for row in rows]
    notes = [f"* {_CONSTRUCTION}"] if any(row.fixed for row in rows) else []
    notes += [_DIVERGED] if any(row.diverged for row in rows) else []
    references = dict.fromkeys(row.setting["rule"] for row in rows if is_reference(row.setting))
    notes += [f"Lines to compare with, not federated: {', '.join(references)}."] if references else []
    pairs = "; ".join(f"{one} and {other}" for one, other in same)
    notes += [f"The same run by construction, trained once: {pairs}."] if pairs else []
    reasons = dict.fromkeys(row.estimates["gap"].reason for row in rows if row.estimates["gap"].reason)
    return Table(
        name=f"accuracy-{stem(protocol)}",
        caption=f"Accuracy of the clients under {protocol} {when}: mean over clients and worst client "
        "in %, gap in percentage points, with 95 % intervals over partitions.",
        columns=[*(COLUMNS[name] for name in shown), "runs", "round", *MEASURES.values()],
        numeric=[*(name in ("alpha", "num_clients") for name in shown), True, True, *(True for _ in MEASURES)],
        rows=lines,
        notes=[*notes, *(f"No interval: {reason}." for reason in reasons)],
    )


def _references_last(row: Row) -> bool:
    return is_reference(row.setting)


def stem(name: str) -> str:
    """Part of a file's name: letters, digits and hyphens, and a digest where they are not all that there is."""
    stem = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    plain_ = stem == name.lower().replace("_", "-") and "-" not in name and len(stem) <= 60
    return stem if plain_ else f"{stem[:60]}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def _shown(rows: Sequence[Row]) -> list[str]:
    """The columns of a setting that a table shows."""
    return [name for name in COLUMNS if name != "corpus" or len({row.setting["corpus"] for row in rows}) > 1]


_CONSTRUCTION = "Every client is scored on the same rows, so that the gap is 0 whatever the model."


def _accuracy_line(row: Row, shown: Sequence[str]) -> list[str]:
    low, high = row.rounds
    return [
        *(number(row.setting[name]) for name in shown),
        _runs(row),
        str(high) if low == high else f"{low} to {high}",
        *(percent(row.estimates[name]) + ("*" if row.fixed and name.endswith("gap") else "") for name in MEASURES),
    ]


_DIVERGED = (
    "Runs that diverged count with their last finite round. One that diverged in round 1 has no number, so that no "
    "mean over it has one."
)


def _runs(row: Row) -> str:
    """`8`, or `8 (2 diverged, 1 without a number)`."""
    told = [f"{row.diverged} diverged"] * (row.diverged > 0) + [f"{row.numberless} without a number"] * (
        row.numberless > 0
    )
    return str(row.estimates["gap"].runs) + (f" ({', '.join(told)})" if told else "")


def runs(picked: pa.Table, when: str, known: Mapping[str, Known]) -> Table:
    """Every run under every protocol, with all measures of spread, and how it ended where one diverged."""
    ended = any(one.diverged for one in known.values())
    percents = ("average", "worst", "worst_noise", "gap", "best_minus_worst", "std", "bottom_10")
    plain = ("gini", "jain")
    lines = [
        [
            *(str(run[name]) for name in ("cell", "partition_seed", "seed", "round", "protocol")),
            *(decimal(100 * run[name], "{:.1f}") for name in percents),
            *(decimal(run[name], "{:.3f}") for name in plain),
            str(run["worst_client"]) if run["clients"] else NONE,
            *([diverged(known[run["cell"]])] if ended else []),
        ]
        for run in picked.to_pylist()
    ]
    spread = ("avg", "worst", "± of worst", "gap", "best − worst", "std", "lowest 10 %", "Gini", "Jain", "worst client")
    return Table(
        name="runs",
        caption=f"Every run {when}: accuracies in %, their spread in percentage points; "
        "± is the binomial standard error. Gini (0 = equal) and Jain (1 = equal) have no unit.",
        columns=["cell", "partition seed", "seed", "round", "protocol", *spread, *["status"] * ended],
        numeric=[False, True, True, True, False, *(True for _ in spread), *[False] * ended],
        rows=lines,
    )


def diverged(one: Known) -> str:
    """How a run ended that stopped early, "" where it did not."""
    who = "the rule" if one.client < 0 else f"client {one.client}"
    return f"diverged in round {one.diverged} ({who})" if one.diverged else ""


def percent(estimate: Estimate, signed: bool = False) -> str:
    """`32.2 [30.1, 34.3]`, or `32.2` without an interval; in per cent or percentage points."""
    if np.isnan(estimate.value):
        return NONE
    sign = "+" if signed else ""
    mean = f"{100 * estimate.value:{sign}.1f}"
    if np.isnan(estimate.low):
        return mean
    return f"{mean} [{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"


def decimal(value: float, form: str) -> str:
    """The number in `form`, or NONE."""
    return NONE if np.isnan(value) else form.format(value)


def number(value: str | float | int) -> str:
    """Text as it is, numbers in their shortest form."""
    return value if isinstance(value, str) else f"{value:g}"
