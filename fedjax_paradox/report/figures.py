"""The figures of a report: from numbers in [0, 1] to Matplotlib figures in per cent, the same for page and paper."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedjax_paradox.report import drawing
from fedjax_paradox.report.drawing import COLOURS, LINES, STYLE, WIDTH, Line, Panels, bars


class Comparison(NamedTuple):
    """A difference under one pair of protocols, its interval (NaN: none) and the published one (NaN: none)."""

    label: str
    verdict: str
    value: float
    low: float
    high: float
    published: float


class Curves(NamedTuple):
    """Runs of one setting, round by round."""

    rounds: np.ndarray  # i[R]
    average: np.ndarray  # f[R], mean over runs of the mean client
    worst: np.ndarray  # f[N, R], the worst client of each run


@mpl.rc_context(STYLE)
def forest(claims: Mapping[str, Sequence[Comparison]], looks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A row per comparison, of which a claim's first bears the claim's name; looks: verdict -> how it is drawn."""
    every = [row for rows in claims.values() for row in rows]
    count = len(every) + _BETWEEN * len(claims)
    figure = Figure(figsize=(WIDTH, 0.85 + 0.115 * count), layout="constrained")
    axis = figure.subplots()
    limits = _reach(every)
    place, ticks = 0.0, {}
    for index, (claim, rows) in enumerate(claims.items()):
        if index % 2 == 0:
            reach = 0.5 + _BETWEEN / 2
            axis.axhspan(place - reach, place + len(rows) - 1 + reach, color="#f2f2f2", linewidth=0)
        for number, row in enumerate(rows):
            ticks[place] = drawing.shown(row.label if number else claim, 24)
            _compared(axis, place, row, limits, looks[row.verdict])
            place += 1
        place += _BETWEEN
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlim=limits, ylim=(count - 0.5 - _BETWEEN / 2, -0.5 - _BETWEEN / 2), xlabel="a − b (percentage points)")
    axis.set_yticks(list(ticks), list(ticks.values()))
    first = np.cumsum([0, *map(len, claims.values())])
    for index in first[:-1]:
        axis.get_yticklabels()[index].set_fontweight("bold")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(visible=False, axis="y")
    there = {row.verdict for row in every if not np.isnan(row.value)}
    handles = [Line2D([], [], linestyle="", label=name, **look) for name, look in looks.items() if name in there]
    if any(not np.isnan(row.published) for row in every):
        handles.append(Line2D([], [], linestyle="", label="published", **_PUBLISHED))
    drawing.legend(figure, [], handles)
    return figure


_BETWEEN = 0.4  # rows between two claims
_PUBLISHED: Any = {"marker": "x", "color": "black", "markersize": 4}


def _reach(rows: Sequence[Comparison]) -> tuple[float, float]:
    """Low and high of the axis: all points, and intervals up to half as far again as the farthest of them."""
    points = np.array([point for row in rows for point in (row.value, row.published)])
    ends = np.array([end for row in rows for end in (row.low, row.high)])
    most = 150 * np.nanmax(np.abs(points), initial=0.02)
    every = np.concatenate([100 * points, (100 * ends).clip(-most, most), [0.0]])
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def _compared(axis: Axes, place: float, row: Comparison, limits: tuple[float, float], look: Mapping[str, Any]) -> None:
    inner = np.array(limits) * 0.99
    ends = 100 * np.array([row.low, row.high])
    shown = ends.clip(*inner)
    axis.plot(shown, [place, place], color=look["color"], linewidth=1.0)
    for end, at, arrow in zip(ends, shown, "<>", strict=True):
        if end != at and not np.isnan(end):
            axis.plot(at, place, arrow, color=look["color"], markersize=3.5, clip_on=False)
    axis.plot(100 * row.published, place, linestyle="", **_PUBLISHED)
    axis.plot(100 * row.value, place, linestyle="", **look)


@mpl.rc_context(STYLE)
def against(panels: Panels, what: str) -> Figure:
    """A row per protocol, a column per measure; x = `what`, on a logarithmic axis."""
    columns = list(next(iter(panels.values())))
    figure, axes = drawing.grid(list(panels), len(columns), sharex=True, sharey="col")
    lines = [line for row in panels.values() for lines in row.values() for line in lines]
    labels = list(dict.fromkeys(line.label for line in lines))
    for row, measured in zip(axes, panels.values(), strict=True):
        for axis, name in zip(row, columns, strict=True):
            _draw_lines(axis, measured[name], labels)
            axis.set_ylabel(name)
    for axis in axes[-1]:
        drawing.log_axis(axis, sorted({float(x) for line in lines for x in line.x}))
        axis.set_xlabel(what)
        axis.set_ylim(-3, min(axis.get_ylim()[1], 103))
    drawing.legend(figure, labels)
    return figure


def _draw_lines(axis: Axes, lines: Sequence[Line], labels: list[str]) -> None:
    """Lines stand a little beside each other, or their intervals would cover one another."""
    for line in lines:
        index = labels.index(line.label)
        x = line.x * 10 ** ((index - (len(labels) - 1) / 2) * 0.05)
        axis.errorbar(x, 100 * line.value, yerr=bars(line), capsize=1.5, elinewidth=0.8, **drawing.look(index))


@mpl.rc_context(STYLE)
def learning_curves(panels: Panels) -> Figure:
    """A row per model, a column per alpha: the mean client, the mean worst client and every run's worst."""
    columns = list(next(iter(panels.values())))
    figure, axes = drawing.grid(list(panels), len(columns), sharey=True)
    for row, curves in zip(axes, panels.values(), strict=True):
        for axis, name in zip(row, columns, strict=True):
            axis.set_title(drawing.shown(name), loc="right")
            if len(curves[name].rounds):
                _draw_curves(axis, curves[name])
            else:
                axis.set_axis_off()
        row[0].set_ylabel("accuracy (%)")
    for axis in axes[-1]:
        axis.set_xlabel("round")
    axes[0, 0].set_ylim(-3, 103)
    drawing.legend(figure, [], [Line2D([], [], label=label, **look) for label, look in _CURVES.items()])
    return figure


_CURVES: Mapping[str, Mapping[str, Any]] = {
    "mean client": {"color": COLOURS[0], "linestyle": LINES[0], "linewidth": 1.4},
    "worst client": {"color": COLOURS[1], "linestyle": LINES[1], "linewidth": 1.4},
    "worst of each run": {"color": COLOURS[1], "linewidth": 0.5, "alpha": 0.55},
}


def _draw_curves(axis: Axes, curves: Curves) -> None:
    mean, worst, each = _CURVES.values()
    if len(curves.worst) > 1:
        axis.plot(curves.rounds, 100 * curves.worst.T, **each)
    axis.plot(curves.rounds, 100 * curves.average, **mean)
    axis.plot(curves.rounds, 100 * curves.worst.mean(axis=0), **worst)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


@mpl.rc_context(STYLE)
def methods(panels: Panels, names: Sequence[str], references: Mapping[str, Mapping[str, Sequence[Line]]]) -> Figure:
    """A row per condition, a column per measure, a line of marks per method; dashed: lines to compare with.

    Args:
      panels: lines whose x is the number of a method's name; references: row -> column -> lines of one value each.
    """
    columns = list(next(iter(panels.values())))
    wrapped = [fill(drawing.shown(name, 54), 18, break_long_words=False, break_on_hyphens=False) for name in names]
    figure, axes = drawing.grid(list(panels), len(columns), high=0.35 + _room(wrapped) * len(names), sharey=True)
    labels = list(dict.fromkeys(line.label for row in panels.values() for lines in row.values() for line in lines))
    compared = list(dict.fromkeys(line.label for row in references.values() for own in row.values() for line in own))
    for row, (panel, measured) in zip(axes, panels.items(), strict=True):
        for axis, name in zip(row, columns, strict=True):
            for line in references.get(panel, {}).get(name, ()):
                axis.axvline(100 * line.value[0], **_reference(compared.index(line.label)))
            _draw_marks(axis, measured[name], labels)
            axis.set_xlabel(name)
        row[0].set_yticks(range(len(names)), wrapped)
        row[0].set_ylim(len(names) - 0.5, -0.5)
    handles = [Line2D([], [], label=drawing.shown(name), **_reference(i)) for i, name in enumerate(compared)]
    drawing.legend(figure, labels if len(labels) > 1 else [], handles, joined=False)
    return figure


def _room(labels: Sequence[str]) -> float:
    """Inches that the longest of them needs."""
    return max(0.2, 0.06 + 0.115 * max(1 + label.count("\n") for label in labels))


def _reference(index: int) -> dict[str, Any]:
    return {"color": ("0.2", "0.65")[index // 3 % 2], "linewidth": 0.9, "linestyle": LINES[1:][index % 3]}


def _draw_marks(axis: Axes, lines: Sequence[Line], labels: list[str]) -> None:
    for line in lines:
        index = labels.index(line.label)
        y = line.x + (index - (len(labels) - 1) / 2) * min(0.25, 0.7 / len(labels))
        look = drawing.look(index, joined=False)
        axis.errorbar(100 * line.value, y, xerr=bars(line), capsize=1.5, elinewidth=0.8, **look)
    low, high = axis.get_xlim()
    axis.set_xlim(max(low, -4.0), min(high, 104.0))
    axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
