"""Pictures that compare: methods, and models by their size."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fedjax_paradox.analysis.runs import Size
from fedjax_paradox.report import figures, scatter
from fedjax_paradox.report.drawing import Line
from fedjax_paradox.report.picture import COLUMNS, INTERVALS, METHODS, SIZES, Picture, ended, lines, percent, spoken
from fedjax_paradox.report.tables import Row, is_reference, number
from fedjax_paradox.report.view import View, is_base


def methods(view: View, corpus: str) -> Iterator[Picture]:
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
        others = [row for row in rows if row.setting["alpha"] == alpha and is_reference(row.setting)]
        panels[title] = {
            label: lines(here, lambda setting: names.index(setting["rule"]), measure)
            for measure, label in reversed(COLUMNS.items())
        }
        references[title] = {label: _references(others, measure) for measure, label in COLUMNS.items()}
    told = [name.replace("local.", "").replace("objective=", "") for name in names]
    dashed = (
        " Dashed: not federated, to compare with." if any(row["gap (points)"] for row in references.values()) else ""
    )
    first = next(iter(panels.values()))[COLUMNS["worst"]]
    yield Picture(
        "methods",
        METHODS,
        f"Worst client and gap by method on {corpus} under {view.protocol} {view.when}; {view.num_clients} "
        f"clients{ended(rows)}. {INTERVALS}{dashed}",
        f"Worst client in % by method, {next(iter(panels))}: {spoken(first, lambda x: names[int(x)])}",
        figures.methods(panels, told, references),
    )


def _references(rows: Sequence[Row], measure: str) -> list[Line]:
    """Rules that others are compared with, by name and, where there are several, by model."""
    models = {row.setting["model"] for row in rows}
    return [
        line._replace(label=row.setting["rule"] + (f" ({line.label})" if len(models) > 1 else ""))
        for row in rows
        for line in lines([row], lambda _: 0, measure)
    ]


def sizes(view: View, corpus: str) -> Iterator[Picture]:
    """Three models or more whose sizes are known, at the smallest alpha that has so many."""
    here = [row for row in view.rows if is_base(view, row.setting) and row.setting["protocol"] == view.protocol]
    here = [row for row in here if row.setting["corpus"] == corpus and (corpus, row.setting["model"]) in view.sizes]
    found = Counter(row.setting["alpha"] for row in here)
    alpha = min((alpha for alpha, count in found.items() if count > 2), default=None)
    if alpha is None:
        return
    rows = [row for row in here if row.setting["alpha"] == alpha]
    own = {row.setting["model"]: view.sizes[corpus, row.setting["model"]] for row in rows}
    panels = {
        measure: {kind: lines(rows, partial(_size, own, kind), measure) for kind in _SIZES}
        for measure in reversed(COLUMNS)
    }
    worst = {line.label: percent(line.value[0]) for line in panels["worst"]["trainable"]}
    told = (
        f"{model} ({size.start}; {size.trainable:,} of {size.parameters:,} parameters trained) {worst[model]}"
        for model, size in own.items()
    )
    yield Picture(
        "sizes",
        SIZES,
        f"Worst client and gap against the parameters that are trained and all there are, on {corpus}, "
        f"α = {number(alpha)}, under {view.protocol} {view.when}; {view.told}{ended(rows)}. {INTERVALS}",
        f"Worst client in % by model: {'; '.join(told)}.",
        scatter.by_size(panels, (COLUMNS, _SIZES), {model: size.start for model, size in own.items()}),
    )


def _size(sizes: Mapping[str, Size], kind: str, setting: Mapping[str, Any]) -> int:
    return getattr(sizes[setting["model"]], kind)


_SIZES = {"trainable": "trained parameters", "parameters": "all parameters"}
