"""Which of our runs stand for the sides of a claim, at which round, and what to know of them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fedjax_paradox.analysis.claims import Claim, Scalar, Side
from fedjax_paradox.analysis.folders import SAMPLE
from fedjax_paradox.analysis.runs import MEASURES, RUN, ends, parse_rounds, pick, reaching
from fedjax_paradox.analysis.statistics import SETTING

_LABELS = ("cell", "corpus", "model", "rule")  # where `, key=value` says what has no column


class Runs(NamedTuple):
    """Our runs for one side at the picked round, why they will not do ("" if they will), what to know of them."""

    table: pa.Table
    problem: str
    notes: list[str]


class View(NamedTuple):
    """How every side is looked at, by name."""

    protocols: Mapping[str, str]
    whens: Mapping[str, str]


def find(claim: Claim, measured: pa.Table, view: View) -> dict[str, pa.Table]:
    """The runs of every side at all rounds, under the first alternatives of what they share that have runs of most
    sides."""
    found = []
    for shared in _choices(claim.where):
        where = {**claim.where, **shared}
        found.append({name: _first(measured, where, side, view.protocols[name]) for name, side in claim.sides.items()})
    best = max(found, key=lambda sides: sum(len(side) > 0 for side in sides.values()))
    return {name: _alike(runs, [best[other] for other in best if other != name]) for name, runs in best.items()}


def _alike(runs: pa.Table, others: Sequence[pa.Table]) -> pa.Table:
    """The runs of settings that all other sides with runs have too, if there are any: those of one study belong
    together."""
    theirs = [{tuple(_settings(row).items()) for row in other.select(_LABELS).to_pylist()} for other in others]
    fits = [
        all(tuple(_settings(row).items()) in settings for settings in theirs if settings)
        for row in runs.select(_LABELS).to_pylist()
    ]
    return runs.filter(pa.array(fits, pa.bool_())) if any(fits) else runs


def _first(measured: pa.Table, where: Mapping[str, Sequence[Scalar]], side: Side, protocol: str) -> pa.Table:
    found = measured.slice(0, 0)
    for own in _choices(side.where):
        found = _select(measured, {**where, **side.where, **own, "protocol": (protocol,)})
        if len(found):
            break
    return found


def _choices(where: Mapping[str, Sequence[Scalar]]) -> Iterator[dict[str, tuple[Scalar]]]:
    """Every choice of one alternative for each column, the earlier listed ones first."""
    columns = {name: values for name, values in where.items() if name in MEASURES.names}
    for values in product(*columns.values()):
        yield {name: (value,) for name, value in zip(columns, values, strict=True)}


def _select(measured: pa.Table, where: Mapping[str, Sequence[Scalar]]) -> pa.Table:
    for name in where.keys() & set(MEASURES.names):
        fitting = [value for value in measured[name].unique().to_pylist() if _base(value) in where[name]]
        measured = measured.filter(pc.is_in(measured[name], pa.array(fitting, measured[name].type)))
    settings = {name: values for name, values in where.items() if name not in MEASURES.names}
    fits = [
        all(_settings(row).get(name) in values for name, values in settings.items())
        for row in measured.select(_LABELS).to_pylist()
    ]
    return measured.filter(pa.array(fits, pa.bool_()))


def _base(value: Any) -> Any:
    """`fedavgw(beta=0.5), local.mu=0.1` -> `fedavgw(beta=0.5)`."""
    match = re.match(r"[^,(]*(?:\([^)]*\))?", value) if isinstance(value, str) else None
    return match[0] if match else value


def _settings(row: Mapping[str, Any]) -> dict[str, float | str]:
    """What the labels of a run say beyond its columns: `alpha=0.1,local.mu=0.01` -> {"local.mu": 0.01}."""
    text = re.sub(r"\([^)]*\)", "", ", ".join(row[name] for name in _LABELS))
    found = re.findall(r"([\w.]+)=([^,]+)", text)
    # Where the runs of two folders have one name, `folder` tells them apart; it is no setting, and nor is a sample of
    # the corpus that varies with the partition, which no label but the cell's name has.
    own = (*RUN, "folder", *([] if f"{SAMPLE}=" in row["corpus"] else [SAMPLE]))
    return {key: _number(value) for key, value in sorted(found) if key not in own}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def runs_at(claim: Claim, found: Mapping[str, pa.Table], view: View) -> dict[str, Runs]:
    """The runs found for every side, at its round as far as they reach it."""
    return {
        name: _at({**side.where, **claim.where, **side.where}, found[name], view.protocols[name], view.whens[name])
        for name, side in claim.sides.items()
    }


def _at(where: Mapping[str, Sequence[Scalar]], found: pa.Table, protocol: str, when: str) -> Runs:
    kind, number = parse_rounds(when)
    picked = pick(reaching(found, number) if kind == "round" else found, when)
    if not len(found):
        problem = f"no run of {_told(where)} under {protocol}"
    elif not len(picked):
        problem = f"no run has {when}, the last is {max(found['round'].to_pylist())}; choose 'last', or train longer"
    else:
        problem = _ambiguity(picked)
    return Runs(picked, problem, [] if problem else _notes(where, found, picked))


def _ambiguity(picked: pa.Table) -> str:
    """Why the runs cannot be averaged or paired."""
    settings = {(*(row[name] for name in _LABELS[1:]), *_settings(row).items()) for row in picked.to_pylist()}
    if len(settings) > 1:
        told = " and ".join(sorted(", ".join(map(_spelled, setting)) for setting in settings))
        return f"several settings fit ({told}); name one under `where`, or report their folders apart"
    seeds = list(zip(picked["partition_seed"].to_pylist(), picked["seed"].to_pylist(), strict=True))
    if len(set(seeds)) < len(seeds):
        cells = ", ".join(sorted(set(picked["cell"].to_pylist())))
        return f"several runs have the same seeds (cells {cells}); report their folders apart"
    return ""


def _spelled(setting: str | tuple[str, float | str]) -> str:
    if isinstance(setting, str):
        return _base(setting)
    name, value = setting
    return f"{name}={value}" if isinstance(value, str) else f"{name}={value:g}"


def _notes(where: Mapping[str, Sequence[Scalar]], found: pa.Table, picked: pa.Table) -> list[str]:
    used = {name: _base(picked[name][0].as_py()) for name in where if name in _LABELS}
    notes = [f"{value} stands in for {where[name][0]}" for name, value in used.items() if value != where[name][0]]
    late = len(found.select(RUN).group_by(list(RUN)).aggregate([])) - len(picked)
    notes += [f"{late} runs have not reached the round"] if late else []
    rounds = rounds_of(picked.filter(pc.equal(picked["diverged"], 0)))
    notes += [f"rounds {', '.join(map(str, rounds))} are mixed"] if len(rounds) > 1 else []
    notes += [told] if (told := ends(picked.to_pylist())) else []
    return notes


def selected(picked: pa.Table) -> dict[str, Any]:
    return {name: picked[name][0].as_py() for name in SETTING if name != "protocol"}


def rounds_of(picked: pa.Table) -> tuple[int, ...]:
    return tuple(sorted(picked["round"].unique().to_pylist()))


def _told(where: Mapping[str, Sequence[Scalar]]) -> str:
    return ", ".join(
        f"{name} {' or '.join('unset' if value is None else str(value) for value in values)}"
        for name, values in where.items()
    )
