"""Which figures the data at hand allow, and what each of them shows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from fedjax_paradox.report import figures
from fedjax_paradox.report.tables import Row, is_reference, number
from fedjax_paradox.report.view import View, is_base

INTERVALS = "Bars are 95 % intervals over partitions; points of one partition have none."


class Picture(NamedTuple):
    """A figure and its words; `name` is the stem of its files."""

    name: str
    caption: str
    alt: str
    figure: Figure


def pictures(view: View) -> list[Picture]:
    """The figures that the data allow, in the order of a report."""
    made = (_gap_against_alpha, _gap_against_clients, _learning, _clients, _strip, _rules, _protocols)
    return [picture for make in made for picture in make(view)]


def _gap_against_alpha(view: View) -> Iterator[Picture]:
    panels = _by_protocol([row for row in view.rows if is_base(view, row.setting)], "alpha", view)
    yield Picture(
        "gap-against-alpha",
        f"Gap (mean minus worst client) against label skew {view.when}, a panel per protocol; {view.told}. {INTERVALS}",
        f"Gap in percentage points against alpha. {_spoken(panels, 'alpha {:g}'.format)}",
        figures.gap_against(panels, "Dirichlet α"),
    )


def _gap_against_clients(view: View) -> Iterator[Picture]:
    """At the alpha that has most numbers of clients."""
    found: dict[float, set[int]] = {}
    for row in view.rows:
        found.setdefault(row.setting["alpha"], set()).add(row.setting["num_clients"])
    alpha = min(found, key=lambda alpha: (-len(found[alpha]), alpha))
    if len(found[alpha]) < 2:
        return
    here = [row for row in view.rows if row.setting["alpha"] == alpha]
    rows = [row for row in here if is_base(view, {**row.setting, "num_clients": view.num_clients})]
    panels = _by_protocol(rows, "num_clients", view)
    yield Picture(
        "gap-against-clients",
        f"Gap against the number of clients at α = {number(alpha)} {view.when}, a panel per protocol"
        f"{_ended([row for row in rows if row.setting['protocol'] == view.protocol])}. {INTERVALS}",
        f"Gap in percentage points against the number of clients. {_spoken(panels, '{:g} clients'.format)}",
        figures.gap_against(panels, "number of clients K"),
    )


def _by_protocol(rows: Sequence[Row], column: str, view: View) -> dict[str, list[figures.Line]]:
    protocols = sorted({row.setting["protocol"] for row in rows}, key=lambda name: (name != view.protocol, name))
    return {
        protocol: _lines([row for row in rows if row.setting["protocol"] == protocol], lambda s: s[column], view)
        for protocol in protocols
    }


def _learning(view: View) -> Iterator[Picture]:
    alphas = sorted({run["alpha"] for run in view.runs})
    panels, seeds = {}, set()
    for run in _first_runs(view, alphas[:1] + alphas[1:][-1:]):
        curve = _curve(view, run["cell"])
        if len(curve.rounds) > 1:
            ended = f", diverged in {run['diverged']}" if run["diverged"] else ""
            panels[f"{_series(run, view)}, α = {number(run['alpha'])}{ended}"] = curve
            seeds.add((run["partition_seed"], run["seed"]))
    if not panels:
        return
    told = " and ".join(f"partition seed {partition}, seed {seed}" for partition, seed in sorted(seeds))
    spoken = (
        f"{title}: mean {100 * c.average[0]:.1f} to {100 * c.average[-1]:.1f} %, worst {100 * c.worst[0]:.1f} to "
        f"{100 * c.worst[-1]:.1f} %, worst client at the end {c.worst_client[-1]}"
        for title, c in panels.items()
    )
    yield Picture(
        "learning-curves",
        f"Mean and worst client's accuracy round by round under {view.protocol}; {view.told}; {told}. "
        "A dot with a number says which client is the worst from there on.",
        f"Learning curves, first to last round. {'; '.join(spoken)}.",
        figures.learning_curves(panels),
    )


def _curve(view: View, cell: str) -> figures.Curve:
    wanted = (view.measured["cell"].to_numpy() == cell) & (view.measured["protocol"].to_numpy() == view.protocol)
    part = view.measured.filter(pa.array(wanted)).sort_by("round")
    return figures.Curve(*(part[name].to_numpy() for name in ("round", "average", "worst", "worst_client")))


def _clients(view: View) -> Iterator[Picture]:
    if not view.runs:
        return
    corpus = view.runs[0]["corpus"]
    runs = [run for run in _first_runs(view, [view.runs[0]["alpha"]]) if run["corpus"] == corpus]
    first = runs[0]
    runs = [run for run in runs if run["partition_seed"] == first["partition_seed"]]
    audit, rows = view.audits.get(first["cell"]), _clients_of(view, first)["train_rows"].to_numpy()
    grid = figures.Grid(
        audit.classes if audit else (),
        audit.setting.train if audit else np.zeros((len(rows), 0), int),
        rows,
        {run["model"]: _accuracies(_clients_of(view, run)) for run in runs},
    )
    missing = "" if audit else " The classes of the clients are not shown: the corpus could not be read again."
    where = f"{corpus}, α = {number(first['alpha'])}, partition seed {first['partition_seed']}"
    spoken = (
        f"{model}: worst client {int(np.nanargmin(values))} with {100 * np.nanmin(values):.1f} %"
        for model, values in grid.accuracies.items()
        if np.isfinite(values).any()
    )
    yield Picture(
        "clients-by-class",
        f"The clients of one partition ({where}) and their accuracy under {view.protocol} {_rounds(runs)}; "
        f"{view.told}.{missing}",
        f"Heat map with a row per client. {'; '.join(spoken)}.",
        figures.clients_by_class(grid),
    )


def _strip(view: View) -> Iterator[Picture]:
    if not view.runs:
        return
    panels: dict[str, dict[str, np.ndarray]] = {}
    for run in view.runs:
        column = panels.setdefault(f"α = {number(run['alpha'])}", {})
        values, before = _accuracies(_clients_of(view, run)), column.get(_series(run, view), np.empty(0))
        column[_series(run, view)] = np.concatenate([before, values])
    spoken = (
        f"{title}, {label}: {100 * np.nanmin(values):.1f} to {100 * np.nanmax(values):.1f} %"
        for title, column in panels.items()
        for label, values in column.items()
        if np.isfinite(values).any()
    )
    yield Picture(
        "clients",
        f"Every client's accuracy under {view.protocol} {_rounds(view.runs)}, the clients of all runs together; "
        f"{view.told}. The black bar is their mean.",
        f"Strip plot of clients. Range by alpha and model: {'; '.join(spoken)}.",
        figures.strip(panels),
    )


def _rules(view: View) -> Iterator[Picture]:
    shown = {"protocol": view.protocol, "num_clients": view.num_clients}
    rows = [row for row in view.rows if shown.items() <= row.setting.items()]
    rules: dict[float, set[str]] = {}
    for row in rows:
        rules.setdefault(row.setting["alpha"], set()).add(row.setting["rule"])
    rows = [row for row in rows if len(rules[row.setting["alpha"]]) > 1]
    compared = [row for row in rows if not is_reference(row.setting)]
    names = list(dict.fromkeys(row.setting["rule"] for row in compared))
    if not names:
        return
    told = [name.replace("local.", "").replace("objective=", "") for name in names]
    for measure, unit in (("gap", "gap (percentage points)"), ("worst", "worst client (%)")):
        panels = _by_alpha(compared, lambda setting: names.index(setting["rule"]), view, measure)
        caption = f"{unit[0].upper()}{unit[1:]} by rule under {view.protocol} {view.when}, a panel per α"
        lines = _reference_lines(rows, measure)
        dashed = " Dashed: not federated, to compare with." if lines else ""
        yield Picture(
            "rules" if measure == "gap" else f"rules-{measure}",
            f"{caption}; {view.num_clients} clients{_ended(rows)}. {INTERVALS}{dashed}",
            f"{unit[0].upper()}{unit[1:]} by rule. {_spoken(panels, lambda x: names[int(x)])}",
            figures.compare(panels, told, unit, joined=False, references=lines),
        )


def _reference_lines(rows: Sequence[Row], measure: str) -> dict[str, dict[str, float]]:
    """Panel of an alpha -> name and mean of the rules that others are compared with."""
    models = {row.setting["model"] for row in rows}
    lines: dict[str, dict[str, float]] = {}
    for row in rows:
        if is_reference(row.setting):
            name = row.setting["rule"] + (f" ({row.setting['model']})" if len(models) > 1 else "")
            mean = 100 * row.estimates[measure].value
            lines.setdefault(f"α = {number(row.setting['alpha'])}", {})[name] = mean
    return lines


def _protocols(view: View) -> Iterator[Picture]:
    rows = [row for row in view.rows if is_base(view, row.setting)]
    names = sorted({row.setting["protocol"] for row in rows})
    if len(names) < 2:
        return
    panels = _by_alpha(rows, lambda setting: names.index(setting["protocol"]), view)
    yield Picture(
        "protocols",
        f"The same predictions scored under every protocol {view.when}, a panel per α; {view.told}. {INTERVALS}",
        f"Gap in percentage points by protocol. {_spoken(panels, lambda x: names[int(x)])}",
        figures.compare(panels, names, "gap (percentage points)", joined=True),
    )


def _rounds(runs: Sequence[Mapping[str, Any]]) -> str:
    """The rounds of single clients' accuracies, by model where they differ; a mean of rounds ends with its round."""
    found: dict[str, set[int]] = {}
    for run in runs:
        found.setdefault(run["model"], set()).add(run["round"])
    told = {model: _after(sorted(rounds)) for model, rounds in found.items()}
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return "(" + ", ".join(f"{model} {after}" for model, after in told.items()) + ")"


def _after(rounds: Sequence[int]) -> str:
    return f"after round {rounds[0]}" if len(rounds) == 1 else f"after rounds {rounds[0]} to {rounds[-1]}"


def _ended(rows: Sequence[Row]) -> str:
    """How many of the runs behind the rows of one protocol diverged."""
    diverged, every = sum(row.diverged for row in rows), sum(row.estimates["gap"].runs for row in rows)
    return f"; {diverged} of {every} runs diverged and count with their last finite round" if diverged else ""


def _by_alpha(
    rows: Sequence[Row], place: Callable[[dict], float], view: View, measure: str = "gap"
) -> dict[str, list[figures.Line]]:
    alphas = sorted({row.setting["alpha"] for row in rows})
    return {
        f"α = {number(alpha)}": _lines([row for row in rows if row.setting["alpha"] == alpha], place, view, measure)
        for alpha in alphas
    }


def _lines(rows: Sequence[Row], place: Callable[[dict], float], view: View, measure: str = "gap") -> list[figures.Line]:
    """A line of gaps, or of another measure, per model; `place` gives a row's x."""
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for row in rows:
        gap = row.estimates[measure]
        points.setdefault(_series(row.setting, view), []).append((place(row.setting), gap.value, gap.low, gap.high))
    return [figures.Line(label, *np.array(sorted(found)).T) for label, found in points.items()]


def _series(setting: Mapping[str, Any], view: View) -> str:
    corpora = {row.setting["corpus"] for row in view.rows}
    return f"{setting['model']} ({setting['corpus']})" if len(corpora) > 1 else str(setting["model"])


def _first_runs(view: View, alphas: Sequence[float]) -> list[dict[str, Any]]:
    """The first run of every model (and corpus) at each alpha."""
    first: dict[tuple, dict] = {}
    for run in view.runs:
        if run["alpha"] in alphas:
            first.setdefault((run["alpha"], _series(run, view)), run)
    return list(first.values())


def _clients_of(view: View, run: Mapping[str, Any]) -> pa.Table:
    keys = ("cell", "round", "protocol")
    wanted = np.logical_and.reduce([view.table[key].to_numpy() == run[key] for key in keys])
    return view.table.filter(pa.array(wanted)).sort_by("client")


def _accuracies(clients: pa.Table) -> np.ndarray:
    """f[K]; NaN for a client without train rows or without an accuracy."""
    correct, total, rows = (clients[name].to_numpy() for name in ("correct", "total", "train_rows"))
    counted = np.where((total > 0) & (rows > 0), total, np.nan)
    return correct / counted


def _spoken(panels: Mapping[str, Sequence[figures.Line]], name: Callable[[float], str]) -> str:
    """The means of a figure as a sentence per panel, for those who cannot see it."""
    return " ".join(
        f"{title}: "
        + "; ".join(
            f"{line.label} " + ", ".join(f"{name(x)} {_gap(y)}" for x, y in zip(line.x, line.value, strict=True))
            for line in lines
        )
        + "."
        for title, lines in panels.items()
    )


def _gap(value: float) -> str:
    return f"{100 * value:.1f}" if np.isfinite(value) else "without a number"
