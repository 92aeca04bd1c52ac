"""Which figures the data at hand allow, and what each of them shows."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from fedjax_paradox.report import figures
from fedjax_paradox.report.tables import Row, is_reference, number, stem
from fedjax_paradox.report.view import View, is_base

INTERVALS = "Bars are 95 % intervals over partitions; points of one partition have none."
VERDICTS, SKEW, CLIENTS, ROUNDS, WORST, METHODS = "verdicts", "skew", "clients", "rounds", "worst", "methods"  # parts
_COLUMNS = {"gap": "gap (points)", "worst": "worst client (%)"}


class Picture(NamedTuple):
    """A figure and its words; `name` is the stem of its files, `part` the section that it belongs to."""

    name: str
    part: str
    caption: str
    alt: str
    figure: Figure


def pictures(view: View) -> list[Picture]:
    """The figures that the data allow, in the order of a report; most of them one for each corpus."""
    corpora = list(dict.fromkeys(row.setting["corpus"] for row in view.rows))
    made = []
    for make in (_skew, _clients, _rounds, _worst, _methods):
        for corpus in corpora:
            suffix = f"-{stem(corpus)}" if len(corpora) > 1 else ""
            made += [picture._replace(name=picture.name + suffix) for picture in make(view, corpus)]
    return made


def _skew(view: View, corpus: str) -> Iterator[Picture]:
    rows = [row for row in view.rows if is_base(view, row.setting) and row.setting["corpus"] == corpus]
    yield from _against(rows, "alpha", view, ("gap-and-worst", SKEW, "Dirichlet α", f"label skew on {corpus}"))


def _clients(view: View, corpus: str) -> Iterator[Picture]:
    """At the alpha that has most numbers of clients, the models that have several."""
    here = [row for row in view.rows if row.setting["corpus"] == corpus]
    here = [row for row in here if is_base(view, {**row.setting, "num_clients": view.num_clients})]
    found = Counter(alpha for alpha, _ in {(row.setting["alpha"], row.setting["num_clients"]) for row in here})
    alpha = min(found, key=lambda alpha: (-found[alpha], alpha), default=0.0)
    rows = [row for row in here if row.setting["alpha"] == alpha]
    several = {row.setting["model"] for row in rows if row.setting["num_clients"] != view.num_clients}
    rows = [row for row in rows if row.setting["model"] in several]
    what = f"the number of clients on {corpus}, α = {alpha:g}"
    yield from _against(rows, "num_clients", view, ("number-of-clients", CLIENTS, "number of clients K", what))


def _against(rows: Sequence[Row], column: str, view: View, words: tuple[str, str, str, str]) -> Iterator[Picture]:
    """Gap and worst client against a column that has several values, a row of panels per protocol that can differ."""
    name, part, axis, what = words
    protocols = sorted({row.setting["protocol"] for row in rows} - {"global"}, key=lambda p: (p != view.protocol, p))
    if len({row.setting[column] for row in rows}) < 2 or not protocols:
        return
    panels = {
        protocol: {
            title: _lines([row for row in rows if row.setting["protocol"] == protocol], lambda s: s[column], measure)
            for measure, title in _COLUMNS.items()
        }
        for protocol in protocols
    }
    yield Picture(
        name,
        part,
        f"Gap (mean minus worst client) and worst client against {what} {view.when}, under each protocol"
        f"{_ended([row for row in rows if row.setting['protocol'] == protocols[0]])}. {INTERVALS}",
        f"Gap against {what} under {protocols[0]}: "
        + _spoken(panels[protocols[0]][_COLUMNS["gap"]], lambda x: f"{column.replace('_', ' ')} {x:g}"),
        figures.against(panels, axis),
    )


def _rounds(view: View, corpus: str) -> Iterator[Picture]:
    runs = [run for run in view.runs if run["corpus"] == corpus]
    alphas = sorted({run["alpha"] for run in runs})
    panels = {
        model: {
            f"α = {number(alpha)}": _curves(
                view, [r["cell"] for r in runs if (r["model"], r["alpha"]) == (model, alpha)]
            )
            for alpha in dict.fromkeys([*alphas[:1], *alphas[-1:]])
        }
        for model in dict.fromkeys(run["model"] for run in runs)
    }
    drawn = [(model, alpha, c) for model, row in panels.items() for alpha, c in row.items() if len(c.rounds)]
    if not any(len(curves.rounds) > 1 for *_, curves in drawn):
        return
    spoken = (
        f"{model}, {alpha}: mean {100 * c.average[0]:.1f} to {100 * c.average[-1]:.1f} %, worst "
        f"{100 * c.worst[:, 0].mean():.1f} to {100 * c.worst[:, -1].mean():.1f} %"
        for model, alpha, c in drawn
    )
    yield Picture(
        "learning-curves",
        ROUNDS,
        f"Mean and worst client round by round on {corpus} under {view.protocol}, mean over runs, as far as all of "
        f"them reach; {view.told}. A run that diverged stays at its last finite round.",
        f"Learning curves, first to last round. {'; '.join(spoken)}.",
        figures.learning_curves(panels),
    )


def _curves(view: View, cells: Sequence[str]) -> figures.Curves:
    """The rounds that all runs have; one that diverged has those to come as well, with its last values."""
    runs = [_scored_rounds(view, cell) for cell in cells]
    every = sorted({round_ for run in runs for round_ in run})
    rounds = [round_ for round_ in every if all(round_ in run for run in runs)]
    if not rounds:
        return figures.Curves(np.zeros(0), np.zeros(0), np.zeros((0, 0)))
    values = np.array([[run[round_] for round_ in rounds] for run in runs]).reshape(len(runs), len(rounds), 2)
    return figures.Curves(np.array(rounds), values[..., 0].mean(axis=0), values[..., 1])


def _scored_rounds(view: View, cell: str) -> dict[int, tuple[float, float]]:
    """Round -> mean and worst client of a run."""
    wanted = (view.measured["cell"].to_numpy() == cell) & (view.measured["protocol"].to_numpy() == view.protocol)
    rows = view.measured.filter(pa.array(wanted)).sort_by("round").to_pylist()
    found = {row["round"]: (row["average"], row["worst"]) for row in rows}
    last = rows[-1]
    carried = range(last["round"] + 1, last["rounds"] + 1) if last["diverged"] else ()
    return found | dict.fromkeys(carried, found[last["round"]])


def _worst(view: View, corpus: str) -> Iterator[Picture]:
    runs = [run for run in view.runs if run["corpus"] == corpus]
    runs = [run for run in runs if run["alpha"] == min(run["alpha"] for run in runs)]
    if not runs:
        return
    audits = [view.audits[run["cell"]] for run in runs if run["cell"] in view.audits]
    classes = audits[0].classes if len(audits) == len(runs) else ()
    panels = {
        model: _together([_scored(view, run, classes) for run in runs if run["model"] == model])
        for model in dict.fromkeys(run["model"] for run in runs)
    }
    told = " ".join(_who(model, clients, classes) for model, clients in panels.items())
    missing = "" if classes else " What classes they hold is not known: the corpus could not be read again."
    colour = "; colour: the class that a client holds most of" if classes else ""
    yield Picture(
        "worst-clients",
        WORST,
        f"Every client's accuracy against its train rows on {corpus}, α = {number(runs[0]['alpha'])}, under "
        f"{view.protocol} {_after(runs)}, clients of all runs together{colour}; {view.told}. {told}{missing}",
        f"Scatter plot of clients. {told}",
        figures.clients_by_rows(panels, classes),
    )


def _scored(view: View, run: Mapping[str, Any], classes: Sequence[str]) -> figures.Clients:
    """The clients of a run that have an accuracy."""
    wanted = np.logical_and.reduce([view.table[key].to_numpy() == run[key] for key in ("cell", "round", "protocol")])
    table = view.table.filter(pa.array(wanted)).sort_by("client")
    client, correct, total, rows = (table[name].to_numpy() for name in ("client", "correct", "total", "train_rows"))
    kept = (total > 0) & (rows > 0)
    accuracy = correct[kept] / total[kept]
    held = view.audits[run["cell"]].setting.train.argmax(axis=1)[client] if classes else np.zeros(len(rows), int)
    worst = np.arange(len(accuracy)) == (accuracy.argmin() if len(accuracy) else -1)
    return figures.Clients(rows[kept], accuracy, held[kept], worst)


def _together(clients: Sequence[figures.Clients]) -> figures.Clients:
    return figures.Clients(*map(np.concatenate, zip(*clients, strict=True)))


def _who(model: str, clients: figures.Clients, classes: Sequence[str]) -> str:
    """A sentence on the worst clients of a model's runs."""
    rows, runs = clients.rows[clients.worst], int(clients.worst.sum())
    if not runs:
        return f"{model}: no client has an accuracy."
    told = f"{model}: the worst client has {rows.min():,} to {rows.max():,} train rows"
    if classes:
        ((group, count),) = Counter(clients.group[clients.worst].tolist()).most_common(1)
        told += f", and holds mostly {classes[group]} in {count} of {runs} runs"
    return f"{told}."


def _methods(view: View, corpus: str) -> Iterator[Picture]:
    shown = {"protocol": view.protocol, "num_clients": view.num_clients, "corpus": corpus}
    rows = [row for row in view.rows if shown.items() <= row.setting.items()]
    rules: dict[float, set[str]] = {}
    for row in rows:
        rules.setdefault(row.setting["alpha"], set()).add(row.setting["rule"])
    rows = [row for row in rows if len(rules[row.setting["alpha"]]) > 1]
    compared = [row for row in rows if not is_reference(row.setting)]
    if not compared:
        return
    means = {row.setting["rule"]: np.nan_to_num(row.estimates["worst"].value, nan=-1.0) for row in reversed(compared)}
    names = sorted(means, key=lambda name: (-means[name], name))
    panels, references = {}, {}
    for alpha in sorted({row.setting["alpha"] for row in rows}):
        title = f"α = {number(alpha)}"
        here = [row for row in compared if row.setting["alpha"] == alpha]
        lines = [row for row in rows if row.setting["alpha"] == alpha and is_reference(row.setting)]
        panels[title] = {
            label: _lines(here, lambda setting: names.index(setting["rule"]), measure)
            for measure, label in reversed(_COLUMNS.items())
        }
        references[title] = {label: _references(lines, measure) for measure, label in _COLUMNS.items()}
    told = [name.replace("local.", "").replace("objective=", "") for name in names]
    dashed = (
        " Dashed: not federated, to compare with." if any(row["gap (points)"] for row in references.values()) else ""
    )
    first = next(iter(panels.values()))[_COLUMNS["worst"]]
    yield Picture(
        "methods",
        METHODS,
        f"Worst client and gap by method on {corpus} under {view.protocol} {view.when}; {view.num_clients} "
        f"clients{_ended(rows)}. {INTERVALS}{dashed}",
        f"Worst client in % by method, {next(iter(panels))}: {_spoken(first, lambda x: names[int(x)])}",
        figures.methods(panels, told, references),
    )


def _references(rows: Sequence[Row], measure: str) -> list[figures.Line]:
    """Rules that others are compared with, by name and, where there are several, by model."""
    models = {row.setting["model"] for row in rows}
    return [
        line._replace(label=row.setting["rule"] + (f" ({line.label})" if len(models) > 1 else ""))
        for row in rows
        for line in _lines([row], lambda _: 0, measure)
    ]


def _after(runs: Sequence[Mapping[str, Any]]) -> str:
    """The rounds of single clients' accuracies, by model where they differ; a mean of rounds ends with its round."""
    found: dict[str, list[int]] = {}
    for run in runs:
        found.setdefault(run["model"], []).append(run["round"])
    told = {model: _spelled(min(rounds), max(rounds)) for model, rounds in found.items()}
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return "(" + ", ".join(f"{model} {after}" for model, after in told.items()) + ")"


def _spelled(first: int, last: int) -> str:
    return f"after round {first}" if first == last else f"after rounds {first} to {last}"


def _ended(rows: Sequence[Row]) -> str:
    """How many of the runs behind the rows of one protocol diverged."""
    diverged, every = sum(row.diverged for row in rows), sum(row.estimates["gap"].runs for row in rows)
    return f"; {diverged} of {every} runs diverged and count with their last finite round" if diverged else ""


def _lines(rows: Sequence[Row], place: Callable[[dict], float], measure: str) -> list[figures.Line]:
    """A line per model; `place` gives a row's x."""
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for row in rows:
        estimate = row.estimates[measure]
        points.setdefault(row.setting["model"], []).append((place(row.setting), *estimate[:3]))
    return [figures.Line(label, *np.array(sorted(found)).T) for label, found in points.items()]


def _spoken(lines: Sequence[figures.Line], name: Callable[[float], str]) -> str:
    """The means of a panel in words, for those who cannot see it."""
    told = (
        f"{line.label} " + ", ".join(f"{name(x)} {_percent(y)}" for x, y in zip(line.x, line.value, strict=True))
        for line in lines
    )
    return "; ".join(told) + "."


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if np.isfinite(value) else "without a number"
