"""Which figures the data at hand allow, and what each of them shows."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fedjax_paradox.report import figures, scatter
from fedjax_paradox.report.compared import methods, sizes
from fedjax_paradox.report.picture import (
    CLIENTS,
    COLUMNS,
    INTERVALS,
    ROUNDS,
    SKEW,
    WORST,
    Picture,
    ended,
    lines,
    spoken,
)
from fedjax_paradox.report.tables import Row, number, stem
from fedjax_paradox.report.view import View, is_base


def pictures(view: View) -> list[Picture]:
    """The figures that the data allow, in the order of a report; most of them one for each corpus."""
    corpora = list(dict.fromkeys(row.setting["corpus"] for row in view.rows))
    made = []
    for make in (_skew, _clients, sizes, _rounds, _worst, methods):
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
            title: lines([row for row in rows if row.setting["protocol"] == protocol], lambda s: s[column], measure)
            for measure, title in COLUMNS.items()
        }
        for protocol in protocols
    }
    yield Picture(
        name,
        part,
        f"Gap (mean minus worst client) and worst client against {what} {view.when}, under each protocol"
        f"{ended([row for row in rows if row.setting['protocol'] == protocols[0]])}. {INTERVALS}",
        f"Gap against {what} under {protocols[0]}: "
        + spoken(panels[protocols[0]][COLUMNS["gap"]], lambda x: f"{column.replace('_', ' ')} {x:g}"),
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
        scatter.clients_by_rows(panels, classes),
    )


def _scored(view: View, run: Mapping[str, Any], classes: Sequence[str]) -> scatter.Clients:
    """The clients of a run that have an accuracy."""
    wanted = np.logical_and.reduce([view.table[key].to_numpy() == run[key] for key in ("cell", "round", "protocol")])
    table = view.table.filter(pa.array(wanted)).sort_by("client")
    client, correct, total, rows = (table[name].to_numpy() for name in ("client", "correct", "total", "train_rows"))
    kept = (total > 0) & (rows > 0)
    accuracy = correct[kept] / total[kept]
    held = view.audits[run["cell"]].setting.train.argmax(axis=1)[client] if classes else np.zeros(len(rows), int)
    worst = np.arange(len(accuracy)) == (accuracy.argmin() if len(accuracy) else -1)
    return scatter.Clients(rows[kept], accuracy, held[kept], worst)


def _together(clients: Sequence[scatter.Clients]) -> scatter.Clients:
    return scatter.Clients(*map(np.concatenate, zip(*clients, strict=True)))


def _who(model: str, clients: scatter.Clients, classes: Sequence[str]) -> str:
    """A sentence on the worst clients of a model's runs."""
    rows, runs = clients.rows[clients.worst], int(clients.worst.sum())
    if not runs:
        return f"{model}: no client has an accuracy."
    told = f"{model}: the worst client has {rows.min():,} to {rows.max():,} train rows"
    if classes:
        ((group, count),) = Counter(clients.group[clients.worst].tolist()).most_common(1)
        told += f", and holds mostly {classes[group]} in {count} of {runs} runs"
    return f"{told}."


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
