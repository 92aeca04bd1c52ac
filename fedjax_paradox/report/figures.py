"""The figures of a report: from numbers in [0, 1] to Matplotlib figures in per cent, the same for page and paper."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from fedjax_paradox.report import drawing
from fedjax_paradox.report.drawing import COLOURS, LINES, MARKERS, STYLE, WIDTH


class Line(NamedTuple):
    """One series with its intervals; where low and high are NaN the point has none."""

    label: str
    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Curve(NamedTuple):
    """One run, round by round."""

    rounds: np.ndarray  # i[R]
    average: np.ndarray  # f[R]
    worst: np.ndarray  # f[R]
    worst_client: np.ndarray  # i[R]


class Grid(NamedTuple):
    """The clients of one partition. Axes: K clients, C classes; no class counts where C is 0."""

    classes: Sequence[str]
    counts: np.ndarray  # i[K, C]
    rows: np.ndarray  # i[K], train rows
    accuracies: Mapping[str, np.ndarray]  # label -> f[K], NaN where a client has none


@mpl.rc_context(STYLE)
def gap_against(panels: Mapping[str, Sequence[Line]], what: str) -> Figure:
    """A panel per protocol; x = `what`, on a logarithmic axis with a tick at every value."""
    figure, axes = drawing.panels(list(panels), what, "gap (percentage points)")
    labels = _labels(panels)
    values = sorted({float(x) for lines in panels.values() for line in lines for x in line.x})
    for axis, lines in zip(axes, panels.values(), strict=True):
        _draw_lines(axis, lines, labels, spread=0.03, log=True)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(FixedLocator(values))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlim(min(values) / 1.5, max(values) * 1.5)
    drawing.from_zero(axes)
    drawing.legend(figure, labels)
    return figure


@mpl.rc_context(STYLE)
def learning_curves(panels: Mapping[str, Curve]) -> Figure:
    """A panel per run: mean and worst client, with the worst client's number wherever it changes."""
    figure, axes = drawing.panels(list(panels), "round", "accuracy (%)", most=2)
    for axis, curve in zip(axes, panels.values(), strict=True):
        axis.plot(curve.rounds, 100 * curve.average, LINES[0], color=COLOURS[0], label="mean of clients")
        axis.plot(curve.rounds, 100 * curve.worst, LINES[1], color=COLOURS[1], label="worst client")
        _mark_changes(axis, curve)
        axis.margins(x=0.06)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    drawing.up_to_all(axes, [curve.worst for curve in panels.values()])
    handles, _ = axes[0].get_legend_handles_labels()
    changed = Line2D([], [], color=COLOURS[1], marker="o", linestyle="", label="k: from here client k is the worst")
    figure.legend(handles=[*handles, changed], loc="outside upper left", ncols=3)
    return figure


def _mark_changes(axis: Axes, curve: Curve) -> None:
    changed = np.flatnonzero(np.diff(curve.worst_client, prepend=-2))
    axis.plot(curve.rounds[changed], 100 * curve.worst[changed], "o", color=COLOURS[1], markersize=4)
    reach = (curve.rounds[-1] - curve.rounds[0]) / 25  # nearer than that, numbers would overlap
    written = -np.inf
    for place in changed:
        if curve.rounds[place] - written < reach:
            continue
        written = curve.rounds[place]
        axis.annotate(
            str(curve.worst_client[place]),
            (written, 100 * curve.worst[place]),
            xytext=(0, -12),  # away from the mean
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )


@mpl.rc_context(STYLE)
def clients_by_class(grid: Grid) -> Figure:
    """Left what each client holds, right how it is served; a row per client."""
    clients, classes = grid.counts.shape
    shown, columns = clients <= 25, classes + len(grid.accuracies)
    figure = Figure(figsize=(WIDTH, 1.1 + min(clients, 50) * 0.24), layout="constrained")
    widths = [width for width in (classes, len(grid.accuracies)) if width]
    axes = np.atleast_1d(figure.subplots(1, len(widths), sharey=True, width_ratios=widths))
    size = 8 if columns <= 10 else 6
    if classes:
        sizes = grid.counts.sum(axis=1, keepdims=True)
        share = np.divide(grid.counts, sizes, out=np.zeros(grid.counts.shape), where=sizes > 0)
        text = np.array([f"{count:,}" if count else "·" for count in grid.counts.flat]).reshape(share.shape)
        told = text if shown else None
        _heat(figure, axes[0], share, text=told, size=size, names=list(grid.classes), colours="Blues")
        axes[0].set_title("train rows by class (colour: % of the client's rows)", loc="left")
    measured = np.column_stack(list(grid.accuracies.values()))
    text = np.array([f"{100 * a:.1f}" if a == a else "–" for a in measured.flat]).reshape(measured.shape)
    names = list(grid.accuracies)
    _heat(figure, axes[-1], measured, text=text if shown else None, size=size, names=names, colours="cividis")
    axes[-1].set_title("accuracy (%)", loc="left")
    axes[0].set_ylabel("client (train rows)")
    ticks = range(0, clients, 1 if shown else 5)
    axes[0].set_yticks(ticks, [f"{client} ({grid.rows[client]:,})" for client in ticks])
    return figure


def _heat(
    figure: Figure,
    axis: Axes,
    values: np.ndarray,
    *,
    text: np.ndarray | None,
    size: int,
    names: list[str],
    colours: str,
) -> None:
    image = axis.imshow(100 * values, aspect="auto", cmap=colours, vmin=0, vmax=100)
    axis.grid(visible=False)
    axis.set_xticks(range(len(names)), [drawing.shown(name, 16) for name in names])
    axis.tick_params(axis="x", labelsize=size)
    if len(names) > 3:
        axis.tick_params(axis="x", rotation=20)
    for (row, column), written in np.ndenumerate(text if text is not None else np.empty((0, 0))):
        red, green, blue, _ = image.to_rgba(100 * values[row, column])
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 or not np.isfinite(values[row, column])
        axis.text(column, row, written, ha="center", va="center", fontsize=size, color="black" if light else "white")
    if text is None:
        figure.colorbar(image, ax=axis, label="%")


@mpl.rc_context(STYLE)
def strip(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """A panel per alpha, a column per setting, a dot per client; bar = mean of clients."""
    labels = list(dict.fromkeys(label for columns in panels.values() for label in columns))
    figure, axes = drawing.panels(list(panels), "", "accuracy (%)", high=1.25)
    for axis, columns in zip(axes, panels.values(), strict=True):
        for label, accuracies in columns.items():
            place = labels.index(label)
            _dots(axis, place, accuracies[np.isfinite(accuracies)])
        axis.set_xlim(-0.6, len(labels) - 0.4)
        drawing.named_ticks(axis, labels)
    drawing.up_to_all(axes, [values for columns in panels.values() for values in columns.values()])
    return figure


def _dots(axis: Axes, place: int, accuracies: np.ndarray) -> None:
    colour = COLOURS[place % len(COLOURS)]
    accuracies = np.sort(accuracies)
    # Dots of about the same height stand beside each other.
    bins = np.floor(accuracies * 50).astype(int)
    first, sizes = np.searchsorted(bins, bins), np.bincount(bins, minlength=1)[bins]
    turn = np.arange(len(bins)) - first
    offsets = np.where(turn % 2, 1, -1) * ((turn + 1) // 2) * np.minimum(0.07, 0.8 / sizes)
    axis.plot(
        place + offsets,
        100 * accuracies,
        MARKERS[place % len(MARKERS)],
        color=colour,
        alpha=0.75,
        markersize=4,
        markeredgewidth=0,
    )
    if len(accuracies):
        axis.hlines(100 * accuracies.mean(), place - 0.35, place + 0.35, color="black", linewidth=1.4)


@mpl.rc_context(STYLE)
def compare(
    panels: Mapping[str, Sequence[Line]],
    names: Sequence[str],
    unit: str,
    joined: bool,
    references: Mapping[str, Mapping[str, float]] = {},
) -> Figure:
    """A panel per condition; x = one of `names` by number, joined where the predictions are the same.

    references: panel -> lines to compare with, by name.
    """
    figure, axes = drawing.panels(list(panels), "", unit, high=1.25)
    labels = _labels(panels)
    for axis, (panel, lines) in zip(axes, panels.items(), strict=True):
        for name, value in references.get(panel, {}).items():
            axis.axhline(value, color="0.4", linewidth=1, linestyle="--")
            axis.annotate(drawing.shown(name), (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        _draw_lines(axis, lines, labels, spread=0.12, log=False, joined=joined)
        axis.set_xlim(-0.5, len(names) - 0.5)
        drawing.named_ticks(axis, names)
    drawing.from_zero(axes)
    drawing.legend(figure, labels, joined)
    return figure


def _labels(panels: Mapping[str, Sequence[Line]]) -> list[str]:
    return list(dict.fromkeys(line.label for lines in panels.values() for line in lines))


def _draw_lines(
    axis: Axes, lines: Sequence[Line], labels: list[str], *, spread: float, log: bool, joined: bool = True
) -> None:
    """Lines stand a little beside each other, or their intervals would cover one another."""
    for line in lines:
        index = labels.index(line.label)
        shift = (index - (len(labels) - 1) / 2) * spread
        x = line.x * 10**shift if log else line.x + shift
        missing = np.isnan(line.low)
        below = np.where(missing, 0, line.value - line.low)
        above = np.where(missing, 0, line.high - line.value)
        axis.errorbar(
            x,
            100 * line.value,
            yerr=100 * np.stack([below, above]).clip(min=0),
            capsize=2.5,
            elinewidth=1.1,
            **drawing.look(index, joined),
        )
