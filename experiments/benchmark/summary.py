"""From raw repeats to figures: medians, ratios, the issue's bars and the Markdown table. Pure functions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": median(values), "low": min(values), "high": max(values)}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times as fast the second is: the median over repeats, in each of which the two were neighbours in time,
    so that a machine whose speed drifts does less harm."""
    return median(s / f for s, f in zip(slow, fast, strict=True))


def shares(phases: Sequence[Mapping[str, float]], seconds: Sequence[float]) -> dict[str, float]:
    """Each phase's median share of its round; phases: one mapping a round, seconds: the rounds' lengths."""
    return {name: median(p[name] / s for p, s in zip(phases, seconds, strict=True)) for name in phases[0]}


def bookkeeping(phases: Sequence[Mapping[str, float]], seconds: Sequence[float]) -> float:
    """Median share of a round that neither trains nor predicts."""
    names = ("schedule", "aggregation", "checkpoint")
    return median(sum(p[name] for name in names) / s for p, s in zip(phases, seconds, strict=True))


class Bar(NamedTuple):
    """`path` leads to the figure in the results; `sign` is >=, <= or ==."""

    figure: str
    path: tuple[str, ...]
    sign: str
    bound: float


def _rival(model: str, name: str, theirs: str, bound: float) -> Bar:
    path = ("rounds", model, "ratios", f"{theirs} / ours float32")
    return Bar(f"{name} round, {theirs} / ours float32", path, ">=", bound)


BARS = (
    _rival("textcnn", "TextCNN", "PyTorch float32", 2.5),
    _rival("minilm", "MiniLM-sized", "PyTorch float32", 2.5),
    _rival("distilbert", "DistilBERT-sized", "PyTorch float32", 2.5),
    _rival("distilbert", "DistilBERT-sized", "PyTorch bfloat16 autocast", 1.0),
    *(Bar(f"TextCNN round, {n} clients, Flower / ours", ("flower", n, "ratio"), ">=", 3.0) for n in ("10", "100")),
    Bar("useful FLOP/s of the DistilBERT-sized step / matrix-product rate", ("step", "float32", "share"), ">=", 0.8),
    Bar("waste on the published partition at alpha 0.1", ("waste", "alpha 0.1", "chosen"), "<=", 0.03),
    Bar("waste on a grid of 4 alphas x 5 seeds", ("waste", "grid", "chosen"), "<=", 0.02),
    Bar("time per cell, 16 TextCNN cells / one cell", ("scaling", "cells", "per_cell", "16"), "<=", 1.05),
    Bar(
        "rows/s, TextCNN, 1,000 clients / 10 clients", ("scaling", "clients", "textcnn", "relative", "1000"), ">=", 0.9
    ),
    Bar(
        "rows/s, TextCNN in batches of 2, 10,000 clients of one step / 10 clients",
        ("scaling", "clients", "textcnn, batch 2, one epoch", "relative", "10000"),
        ">=",
        0.8,
    ),
    Bar("schedule + aggregation + checkpoint, share of a MiniLM-sized round", ("phases", "bookkeeping"), "<=", 0.03),
    Bar("training programs compiled for a 16-cell grid", ("scaling", "programs", "training"), "==", 1),
)


def bars(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every bar beside what was measured; `measured` and `met` are None where nothing was."""
    return [_judged(bar, _found(results, bar.path)) for bar in BARS]


def _judged(bar: Bar, measured: float | None) -> dict[str, Any]:
    verdicts = {">=": lambda x: x >= bar.bound, "<=": lambda x: x <= bar.bound, "==": lambda x: x == bar.bound}
    met = None if measured is None else verdicts[bar.sign](measured)
    return {"figure": bar.figure, "bar": f"{bar.sign} {bar.bound:g}", "measured": measured, "met": met}


def _found(results: Mapping[str, Any], path: Sequence[str]) -> float | None:
    at: Any = results
    for key in path:
        if not isinstance(at, Mapping) or key not in at:
            return None
        at = at[key]
    return at


# ---- Markdown


def markdown(results: Mapping[str, Any]) -> str:
    """The whole page: the bars, then a table for each section that was run."""
    machine = results["machine"]
    head = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB, "
        f"JAX on {machine['devices'][0]}\n\n"
        + "\n".join(f"- `{line}`" for line in sorted(set(results["commands"].values())))
    )
    sections = [(name, table) for name, table in TABLES.items() if name in results]
    parts = [f"### {name.capitalize()}\n\n{table(results[name])}" for name, table in sections]
    return "\n\n".join([head, f"### Bars\n\n{bar_table(results['bars'])}", *parts]) + "\n"


def machines(every: Mapping[str, Mapping[str, Any]]) -> str:
    """The bars of several machines or corpora side by side; every: name -> results."""
    rows = [
        ("machine", "", *(f"{one['machine']['processor']}, {one['machine']['cores']} cores" for one in every.values()))
    ]
    rows.append(("corpus", "", *(Path(one["corpus"]).parent.name or one["corpus"] for one in every.values())))
    rates = {name: None for one in every.values() for name in one.get("matrix", {})}
    for name in rates:
        found = (one.get("matrix", {}).get(name) for one in every.values())
        rows.append(
            (f"matrix products, {name}, GFLOP/s", "", *(_number(values and median(values)) for values in found))
        )
    for number, bar in enumerate(BARS):
        own = [bars(one)[number]["measured"] for one in every.values()]
        rows.append((bar.figure, f"{bar.sign} {bar.bound:g}", *map(_number, own)))
    return table(("", "bar", *every), rows) + "\n"


def bar_table(judged: Sequence[Mapping[str, Any]]) -> str:
    words = {None: "not measured", True: "met", False: "**not met**"}
    rows = [(bar["figure"], bar["bar"], _number(bar["measured"]), words[bar["met"]]) for bar in judged]
    return table(("figure", "bar", "measured", ""), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _spread(values: Sequence[float]) -> str:
    found = spread(values)
    return f"{_number(found['median'])} ({_number(found['low'])} to {_number(found['high'])})"


def _rounds(section: Mapping[str, Any]) -> str:
    rows = []
    for model, found in section.items():
        for name, one in found["contenders"].items():
            rate = _number(found["work"]["trained_rows"] / median(one["seconds"]))
            relative = _number(ratio(one["seconds"], found["contenders"]["ours float32"]["seconds"]))
            rows.append((model, name, f"{found['work']['train_rows']:,}", _spread(one["seconds"]), rate, relative))
    return table(("model", "", "train rows", "s a round (min to max)", "trained rows/s", "time / ours float32"), rows)


def _matrix(section: Mapping[str, Any]) -> str:
    return table(
        ("matrix products", "GFLOP/s (min to max)"), [(name, _spread(rates)) for name, rates in section.items()]
    )


def _flower(section: Mapping[str, Any]) -> str:
    rows = [
        (number, name, f"{found['work']['train_rows']:,}", _spread(one["seconds"]))
        for number, found in section.items()
        for name, one in found["contenders"].items()
    ]
    return table(("clients", "", "train rows", "s a round (min to max)"), rows)


def _step(section: Mapping[str, Any]) -> str:
    names = ("gflops_needed", "gflops_full", "matrix_gflops", "share", "share_full")
    rows = [(precision, *(_number(found[name]) for name in names)) for precision, found in section.items()]
    head = (
        "",
        "needed GFLOP/s",
        "with the whole last block",
        "matrix products, GFLOP/s",
        "share",
        "share, whole last block",
    )
    return table(head, rows)


def _scaling(section: Mapping[str, Any]) -> str:
    rows = []
    for model, found in section.get("clients", {}).items():
        rows += _points(f"clients, {model}", found, "rows_per_second", "rows/s")
    if "cells" in section:
        rows += _points("cells, TextCNN", section["cells"], "per_cell", "time per cell / one cell")
    for model, found in section.get("lanes", {}).items():
        rows += _points(f"lanes, {model}", found, "rows_per_second", "rows/s")
    if "devices" in section:
        rows += _points("simulated devices, TextCNN", section["devices"], "rows_per_second", "rows/s")
    return table(("against", "", "figure", "unit"), rows)


def _points(name: str, found: Mapping[str, Any], figure: str, unit: str) -> list[tuple[str, ...]]:
    measured = [(name, f"{int(x):,}", _number(y), unit) for x, y in found[figure].items()]
    return measured + [(name, f"{int(x):,}", "–", f"left out: {why}") for x, why in found.get("skipped", {}).items()]


def _waste(section: Mapping[str, Any]) -> str:
    lanes = list(next(iter(section.values()))["textcnn"]["lanes"])
    rows = [
        (name, model, *(f"{100 * found[model]['lanes'][n]:.2f}" for n in lanes), str(found[model]["chosen_lanes"]))
        for name, found in section.items()
        for model in ("textcnn", "transformer")
    ]
    return "Waste in % by lanes.\n\n" + table(("", "schedule of", *lanes, "chosen lanes"), rows)


def _phases(section: Mapping[str, Any]) -> str:
    rows = [(name, f"{100 * share:.2f} %") for name, share in section["shares"].items()]
    rows += [(f"compilation, {name}", f"{seconds:.2f} s") for name, seconds in section["compilation"].items()]
    return table(("MiniLM-sized", "share of a round, or time"), rows)


TABLES = {
    "matrix": _matrix,
    "rounds": _rounds,
    "flower": _flower,
    "step": _step,
    "scaling": _scaling,
    "waste": _waste,
    "phases": _phases,
}
