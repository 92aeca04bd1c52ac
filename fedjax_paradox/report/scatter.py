"""Figures with a mark for every client or model, against how large it is."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from fedjax_paradox.report import drawing
from fedjax_paradox.report.drawing import STYLE, Panels, bars


class Clients(NamedTuple):
    """The clients of several runs."""

    rows: np.ndarray  # i[N], train rows
    accuracy: np.ndarray  # f[N]
    group: np.ndarray  # i[N], number of the class that it holds most of, 0 where nobody knows
    worst: np.ndarray  # bool[N], of its run


@mpl.rc_context(STYLE)
def clients_by_rows(panels: Mapping[str, Clients], classes: Sequence[str]) -> Figure:
    """A panel per model: accuracy against train rows, a dot per client; colour = the class that it holds most of."""
    titles = [list(panels)[first : first + 2] for first in range(0, len(panels), 2)]
    figure, axes = drawing.grid([row[0] for row in titles], len(titles[0]), high=1.3, sharex=True, sharey=True)
    for axis, (model, clients) in zip(axes.flat, panels.items(), strict=False):
        axis.set_title(drawing.shown(model, 20), loc="left", fontweight="bold")
        axis.tick_params(labelbottom=True)
        _draw_clients(axis, clients)
    for axis in axes[-1]:
        axis.set_xlabel("client's train rows")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy (%)")
    if len(panels) < axes.size:
        axes.flat[-1].set_visible(False)
    rows = np.concatenate([clients.rows for clients in panels.values()])
    drawing.log_axis(axes[0, 0], [10.0**power for power in range(len(str(rows.max(initial=1))))])
    axes[0, 0].set_xlim(rows.min(initial=rows.max(initial=1)) / 1.4, rows.max(initial=1) * 1.4)
    axes[0, 0].set_ylim(-5, 105)
    drawing.legend(figure, classes, [Line2D([], [], label="worst of its run", **_RING)], joined=False)
    return figure


def _draw_clients(axis: Axes, clients: Clients) -> None:
    for index in np.unique(clients.group):
        own = clients.group == index
        look = {**drawing.look(int(index), joined=False), "markersize": 3, "alpha": 0.75, "markeredgewidth": 0}
        axis.plot(clients.rows[own], 100 * clients.accuracy[own], **look)
    axis.plot(clients.rows[clients.worst], 100 * clients.accuracy[clients.worst], **_RING)


_RING: Any = {"marker": "o", "linestyle": "", "color": "black", "fillstyle": "none", "markersize": 6}


@mpl.rc_context(STYLE)
def by_size(panels: Panels, words: tuple[Mapping[str, str], Mapping[str, str]], starts: Mapping[str, str]) -> Figure:
    """A row per measure, a column per kind of size, on a logarithmic axis; a mark per model.

    Args:
      words: names of measures and kinds as axes tell them; starts: model -> what it is trained from, which fills it.
    """
    measures, kinds = words
    figure, axes = drawing.grid([""] * len(panels), len(kinds), sharex="col", sharey="row")
    labels = list(starts)
    fills = {start: _FILLS[index % len(_FILLS)] for index, start in enumerate(sorted(set(starts.values())))}
    for row, (measure, panel) in zip(axes, panels.items(), strict=True):
        for axis, lines in zip(row, panel.values(), strict=True):
            for line in lines:
                index = labels.index(line.label)
                look = {**drawing.look(index, joined=False), "fillstyle": fills[starts[line.label]]}
                # A little beside each other: models that differ in what is trained are of one size.
                x = line.x * 10 ** ((index - (len(labels) - 1) / 2) * 0.03)
                axis.errorbar(x, 100 * line.value, yerr=bars(line), capsize=1.5, elinewidth=0.8, **look)
        row[0].set_ylabel(measures[measure])
        row[0].set_ylim(-3, min(1.1 * row[0].get_ylim()[1], 105))
    for axis, kind in zip(axes[-1], kinds.values(), strict=True):
        sizes = [value for line in axis.containers for value in line.lines[0].get_xdata()]
        drawing.log_axis(axis, _round_numbers(min(sizes), max(sizes)))
        axis.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_xlabel(kind)
    shape: Any = {"color": "0.3", "marker": "o", "linestyle": ""}
    shapes = [Line2D([], [], label=start, fillstyle=fill, **shape) for start, fill in fills.items()]
    drawing.legend(figure, labels, shapes, joined=False)
    return figure


_FILLS: Any = ("full", "none", "left")


def _round_numbers(low: float, high: float) -> list[float]:
    """Powers of ten, of few also three times as much, from one below `low` to one above `high`."""
    steps = (1, 3) if high < 50 * low else (1,)
    every = [step * 10.0**power for power in range(len(str(int(high))) + 1) for step in steps]
    return [value for value in every if low / 3 < value < 3 * high]
