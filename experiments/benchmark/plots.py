"""The figures, as SVG and PNG; colours of Okabe and Ito, told apart by their place and label too."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7")
MARKERS = "osD^v"


def draw(results: Mapping[str, Any], out: Path) -> None:
    """One file of each kind for every section that was run and has a figure."""
    mpl.rcParams["svg.hashsalt"] = "benchmark"
    for name, figure in FIGURES.items():
        if name in results:
            drawn = figure(results[name])
            for kind in ("svg", "png"):
                drawn.savefig(out / f"{name}.{kind}", dpi=160, metadata={"Date": None} if kind == "svg" else None)
            plt.close(drawn)


def rounds(section: Mapping[str, Any]) -> Any:
    """Rows/s of every contender, one panel a model."""
    size = (3 * len(section) + 2, 2.6)
    figure, axes = plt.subplots(1, len(section), figsize=size, layout="constrained", squeeze=False, sharey=True)
    for ax, (model, found) in zip(axes[0], section.items(), strict=True):
        names = list(found["contenders"])
        for place, name in enumerate(names):
            rates = [found["work"]["trained_rows"] / s for s in found["contenders"][name]["seconds"]]
            middle = median(rates)
            error = [[middle - min(rates)], [max(rates) - middle]]
            colour = COLOURS[(0 if name.startswith("ours") else 2) + ("bfloat16" in name)]
            ax.barh(place, middle, xerr=error, color=colour, capsize=3)
        ax.set_yticks(range(len(names)), names)
        ax.set_xlabel("trained rows a second")
        ax.set_title(f"{model}, {found['work']['train_rows']:,} rows")
    axes[0, 0].invert_yaxis()
    return figure


def scaling(section: Mapping[str, Any]) -> Any:
    """Four panels: clients, cells, lanes, devices."""
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.2), layout="constrained")
    lines = {
        "clients": {name: one["relative"] for name, one in section["clients"].items()},
        "cells in one program": {"textcnn": section["cells"]["per_cell"]},
        "lanes": {name: one["relative"] for name, one in section["lanes"].items()},
        "simulated devices": {"textcnn": section["devices"]["relative"]},
    }
    for ax, (label, series) in zip(axes, lines.items(), strict=True):
        unit = "time a cell / one cell" if label.startswith("cells") else "rows a second / first point"
        _relative(ax, label, unit, series)
    return figure


def _relative(ax: Axes, label: str, unit: str, series: Mapping[str, Mapping[str, float]]) -> None:
    for (name, points), colour, marker in zip(series.items(), COLOURS[::2], MARKERS, strict=False):
        ax.plot([int(x) for x in points], list(points.values()), color=colour, marker=marker, label=name)
    ax.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    ticks = sorted({int(x) for points in series.values() for x in points})
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{x:,}" for x in ticks])
    ax.minorticks_off()
    ax.set_ylim(0, 1.1 * max(1, *(y for points in series.values() for y in points.values())))
    ax.set_xlabel(label)
    ax.set_ylabel(unit)
    ax.legend(frameon=False, fontsize="small", loc="lower left")


def waste(section: Mapping[str, Any]) -> Any:
    """Padded steps against lanes."""
    figure, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for (name, found), colour in zip(section.items(), COLOURS[::2], strict=False):
        # The two schedules nearly coincide: a line for one, rings for the other.
        for model, style in (("transformer", "o-"), ("textcnn", "o")):
            lanes = [int(n) for n in found[model]["lanes"]]
            rings = {"markersize": 11, "markerfacecolor": "none"} if model == "textcnn" else {}
            shares = [100 * share for share in found[model]["lanes"].values()]
            ax.plot(lanes, shares, style, color=colour, label=f"{name}, {model}", **rings)
    ax.set_xscale("log", base=2)
    ax.set_xticks(lanes, map(str, lanes))
    ax.set_xlabel("lanes")
    ax.set_ylabel("steps that train nothing, %")
    ax.legend(frameon=False, fontsize="small")
    return figure


def phases(section: Mapping[str, Any]) -> Any:
    """One stacked bar, the small shares named with their numbers."""
    figure, ax = plt.subplots(figsize=(8, 2), layout="constrained")
    left = 0.0
    ax.set_xlim(0, 100)
    for (name, share), colour in zip(section["shares"].items(), COLOURS, strict=False):
        ax.barh(0, 100 * share, left=left, color=colour, label=f"{name} {100 * share:.2f} %")
        left += 100 * share
    ax.set_yticks([])
    ax.set_xlabel("share of a MiniLM-sized round, %")
    ax.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


FIGURES = {"rounds": rounds, "scaling": scaling, "waste": waste, "phases": phases}
