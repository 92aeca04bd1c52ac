"""What a picture of a report is, and what several of them share."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from fedjax_paradox.report.drawing import Line
from fedjax_paradox.report.tables import Row

INTERVALS = "Bars are 95 % intervals over partitions; points of one partition have none."
# Parts of a report.
VERDICTS, SKEW, CLIENTS, SIZES = "verdicts", "skew", "clients", "sizes"
ROUNDS, WORST, METHODS = "rounds", "worst", "methods"
COLUMNS = {"gap": "gap (points)", "worst": "worst client (%)"}


class Picture(NamedTuple):
    """A figure and its words; `name` is the stem of its files, `part` the section that it belongs to."""

    name: str
    part: str
    caption: str
    alt: str
    figure: Figure


def ended(rows: Sequence[Row]) -> str:
    """How many of the runs behind the rows of one protocol diverged."""
    diverged, every = sum(row.diverged for row in rows), sum(row.estimates["gap"].runs for row in rows)
    return f"; {diverged} of {every} runs diverged and count with their last finite round" if diverged else ""


def lines(rows: Sequence[Row], place: Callable[[dict], float], measure: str) -> list[Line]:
    """A line per model; `place` gives a row's x."""
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for row in rows:
        estimate = row.estimates[measure]
        points.setdefault(row.setting["model"], []).append((place(row.setting), *estimate[:3]))
    return [Line(label, *np.array(sorted(found)).T) for label, found in points.items()]


def spoken(lines: Sequence[Line], name: Callable[[float], str]) -> str:
    """The means of a panel in words, for those who cannot see it."""
    told = (
        f"{line.label} " + ", ".join(f"{name(x)} {percent(y)}" for x, y in zip(line.x, line.value, strict=True))
        for line in lines
    )
    return "; ".join(told) + "."


def percent(value: float) -> str:
    return f"{100 * value:.1f}" if np.isfinite(value) else "without a number"
