"""What all figures of a report share: their style, their panels, and how they become files.

Made for one column of a two-column paper. Colours are Okabe and Ito's (2008); markers and line styles say the same, so
that none is needed to read a figure. Nothing here depends on the clock or on global state: equal input gives equal
bytes.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from fedjax_paradox.text import printable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS, LINES = "osD^vPX", ("-", "--", "-.", ":")
SMALLEST = 7.0  # points, of all text
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib, so that a machine's fonts change nothing
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize"), SMALLEST),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), SMALLEST),
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.2,
    "legend.handletextpad": 0.5,
    "lines.markersize": 3.5,
    "lines.linewidth": 1.0,
    "text.parse_math": False,  # a name may hold a $
    "svg.hashsalt": "fedjax-paradox",
    "pdf.fonttype": 42,
}
WIDTH, PANEL = 3.3, 0.9  # inches: a column's width, a panel's height

Panels = Mapping[str, Mapping[str, Any]]  # row's name -> column's name -> what a panel shows


class Line(NamedTuple):
    """One series with its intervals; where low and high are NaN the point has none."""

    label: str
    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def save(figure: Figure) -> dict[str, bytes]:
    """{"svg": ..., "pdf": ...}, without dates."""
    files = {}
    with mpl.rc_context(STYLE):
        for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("pdf", {"CreationDate": None})):
            buffer = BytesIO()
            figure.savefig(buffer, format=kind, metadata=metadata)
            files[kind] = buffer.getvalue()
    return files


def shown(name: str, most: int = 60) -> str:
    """A name as a figure shows it: SVG knows no control characters, and a column is only so wide."""
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def grid(rows: Sequence[str], columns: int, high: float = PANEL, **shared: Any) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [rows, columns]; a row's name stands above its first panel."""
    figure = Figure(figsize=(WIDTH, 0.55 + len(rows) * (high + 0.17)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.03)  # type: ignore[union-attr, call-arg]
    axes = figure.subplots(len(rows), columns, squeeze=False, **shared)
    for first, name in zip(axes[:, 0], rows, strict=True):
        first.set_title(shown(name), loc="left", fontweight="bold")
    return figure, axes


def look(index: int, joined: bool = True) -> dict[str, Any]:
    """How the series of that number is drawn."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)] if joined else "",
    }


def bars(line: Line) -> np.ndarray:
    """f[2, points], lengths of its intervals below and above, in per cent."""
    ends = np.stack([line.value - line.low, line.high - line.value])
    return 100 * np.nan_to_num(ends).clip(min=0)


def legend(figure: Figure, labels: Sequence[str], more: Sequence[Line2D] = (), joined: bool = True) -> None:
    """One legend for all panels, above them."""
    handles = [Line2D([], [], label=shown(label, 40), **look(index, joined)) for index, label in enumerate(labels)]
    handles += more
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    columns = max(1, min(len(handles), 57 // (longest + 7)))  # so many letters a column, handles included
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, borderaxespad=0.2)


def log_axis(axis: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with a tick at every value that has room for its number."""
    axis.set_xscale("log")
    low, high = min(values) / 1.4, max(values) * 1.4
    axis.set_xlim(low, high)
    ticks: list[float] = []
    for value in values:
        if not ticks or np.log(value / ticks[-1]) > 0.12 * np.log(high / low):
            ticks.append(value)
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axis.xaxis.set_minor_locator(NullLocator())
