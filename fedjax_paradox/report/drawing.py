"""What all figures of a report share: their style, their panels, and how they become files.

Colours are Okabe and Ito's (2008); markers and line styles say the same, so that none is needed to read a figure.
Nothing here depends on the clock or on global state: equal input gives equal bytes.
"""

from collections.abc import Sequence
from io import BytesIO
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedjax_paradox.text import printable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS, LINES = "osD^vPX", ("-", "--", "-.", ":")
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib, so that a machine's fonts change nothing
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.markersize": 5.0,
    "text.parse_math": False,  # a name may hold a $
    "svg.hashsalt": "fedjax-paradox",
    "pdf.fonttype": 42,
}
WIDTH, PANEL = 7.2, 2.3  # inches: a page's text width, a panel's height


def save(figure: Figure) -> dict[str, bytes]:
    """{"svg": ..., "pdf": ...}, without dates."""
    files = {}
    with mpl.rc_context(STYLE):
        for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("pdf", {"CreationDate": None})):
            buffer = BytesIO()
            figure.savefig(buffer, format=kind, metadata=metadata)
            files[kind] = buffer.getvalue()
    return files


def shown(name: str, most: int = 120) -> str:
    """A name as a figure shows it: SVG knows no control characters, and a page is only so wide."""
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def from_zero(axes: Sequence[Axes]) -> None:
    """From a little below 0, so that no marker there is cut."""
    top = min(axes[0].get_ylim()[1], 103.0)
    axes[0].set_ylim(-0.03 * top, top)


def up_to_all(axes: Sequence[Axes], accuracies: Sequence[np.ndarray]) -> None:
    """From the multiple of ten below the lowest accuracy to 100, with room for what is written below a point."""
    shown = np.concatenate(accuracies)
    bottom = 10 * np.floor(10 * shown[np.isfinite(shown)].min(initial=1.0))
    axes[0].set_ylim(bottom - 0.12 * (100 - bottom) - 1, 102)


def panels(titles: Sequence[str], x: str, y: str, most: int = 3, high: float = 1.0) -> tuple[Figure, list[Axes]]:
    """A figure with a panel per title, `most` in a row, all with one y axis; `x` and `y` name the axes."""
    columns = min(2 if len(titles) == 4 else most, len(titles))
    rows = -(-len(titles) // columns)
    width = WIDTH if columns > 1 else 0.65 * WIDTH
    figure = Figure(figsize=(width, 0.7 + rows * PANEL * high), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for unused in axes[len(titles) :]:
        unused.remove()
    for index, (axis, title) in enumerate(zip(axes, titles, strict=False)):
        axis.set_title(shown(title), loc="left")
        axis.set_ylabel("" if index % columns else y)
        axis.set_xlabel("" if index + columns < len(titles) else x)
    return figure, axes[: len(titles)]


def look(index: int, joined: bool) -> dict[str, Any]:
    """How the series of that number is drawn."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)] if joined else "",
        "linewidth": 1.3,
    }


def legend(figure: Figure, labels: Sequence[str], joined: bool = True) -> None:
    """One legend for all panels, above them."""
    handles = [Line2D([], [], label=shown(label), **look(index, joined)) for index, label in enumerate(labels)]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)


def named_ticks(axis: Axes, names: Sequence[str]) -> None:
    """Names instead of numbers on the x axis, slanted where they are long."""
    names = [shown(name) for name in names]
    wrapped = [fill(name, 18, break_long_words=False, break_on_hyphens=False) for name in names]
    slanted: dict[str, Any] = (
        {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 10 else {}
    )
    axis.set_xticks(range(len(names)), wrapped, **slanted)
    axis.grid(visible=False, axis="x")
