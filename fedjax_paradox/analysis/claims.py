"""Published claims as data and what our runs say of each, by intervals alone."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import isnan
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from fedjax_paradox.analysis.runs import MEASURES, RUN, ends, parse_rounds, pick, reaching
from fedjax_paradox.analysis.statistics import SETTING, Estimate, Paired, Unmatched, paired
from fedjax_paradox.errors import InputError

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
BY_CONSTRUCTION, NO_DATA = "decided by construction", "no data"
_ZERO_IF_EQUAL = ("gap", "best_minus_worst", "std", "gini")  # measures that equal accuracies fix at 0
_LABELS = ("cell", "corpus", "model", "rule")  # where `, key=value` says what has no column

Scalar = str | int | float | bool | None
Alternatives = Annotated[
    tuple[Scalar, ...],
    BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
    Field(min_length=1),
]
Where = dict[str, Alternatives]
Measure = Literal["average", "worst", "gap", "best_minus_worst", "std", "bottom_10", "gini", "jain"]
Percent = Annotated[float, Field(ge=-100, le=100), AfterValidator(lambda percent: percent / 100)]
Round = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = {"frozen": True, "extra": "forbid"}


class Side(_Section):
    """`where`: column -> alternatives, of which the first with runs is used; or a setting that has no column
    (`local.mu`) -> values that all fit, null for a run that does not name it."""

    where: Where
    protocol: str
    round: Round
    published: dict[Measure, Percent]  # in the file per cent, here in [0, 1]


class Claim(_Section):
    """Side a's measure minus side b's is greater (or less) than `margin`."""

    id: str
    text: str
    source: str
    measure: Measure = "gap"
    direction: Literal["greater", "less"] = "greater"
    margin: Percent = 0.0  # in the file points, here in [-1, 1]
    where: Where  # of both sides
    round: Round  # of both sides under a matched protocol; under the published mix each side has its own
    a: Side
    b: Side
    matched: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "label_matched",
        "label_filtered",
        "train_rows",
        "holdout",
    )


class Outcome(NamedTuple):
    """One comparison on our runs, the sides under `protocols` (of a, of b)."""

    protocols: tuple[str, str]
    verdict: str
    reason: str
    a: Estimate | None = None  # None where there is no data
    b: Estimate | None = None
    difference: Estimate | None = None
    flip: float = float("nan")  # confidence that the order is the other one
    selected: tuple[dict[str, Any], dict[str, Any]] = ({}, {})  # of a and b: corpus, model, ... used
    rounds: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    unmatched: tuple[Unmatched, ...] = ()
    ended: str = ""  # how many runs of the sides diverged, "" where none did
    same: bool = False  # the sides are one run in every pair


class Verdict(NamedTuple):
    claim: Claim
    mix: Outcome  # as published: each side under its own protocol and at its own round
    matched: dict[str, Outcome]  # protocol -> both sides under it
    verdict: str  # of the first matched protocol


def load(path: str | Path) -> tuple[Claim, ...]:
    """The claims of a YAML file.

    Raises:
      InputError: the file is unreadable, a claim has a missing, unknown or invalid key, or an id occurs twice.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        claims = TypeAdapter(tuple[Claim, ...]).validate_python(data)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the claims of {path}: {error}; give a YAML list of claims") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r:.80})" for e in error.errors()]
        raise InputError(f"{path} holds no valid claims; correct:\n  " + "\n  ".join(lines)) from error
    ids = [claim.id for claim in claims]
    if repeated := [name for name in ids if ids.count(name) > 1]:
        raise InputError(f"{path} has the id {repeated[0]!r} twice; give every claim its own")
    return claims


def judge(claims: Sequence[Claim], measured: pa.Table, when: str | None = None) -> list[Verdict]:
    """What the runs say of each claim.

    Supported or contradicted: the whole 95 % interval of the paired difference lies on one side of the margin.
    Undecided: it does not, or there is no interval, or a run that diverged in round 1 has no number. Decided by
    construction: in every run of a side, all clients have the same correct and total, so that its measure is 0
    whatever the model; or the two sides of every pair are one run.

    Args:
      measured: `runs.measures` of the runs.
      when: "last", "round N" or "mean of last N" for all sides, or None for the published rounds.

    Raises:
      InputError: `when` is none of these, or a run has fewer than the N last rounds.
    """
    return [_verdict(claim, measured, when) for claim in claims]


def _verdict(claim: Claim, measured: pa.Table, when: str | None) -> Verdict:
    own = (when or f"round {claim.a.round}", when or f"round {claim.b.round}")
    same = (when or f"round {claim.round}",) * 2
    mix = _outcome(claim, measured, (claim.a.protocol, claim.b.protocol), own)
    matched = {name: _outcome(claim, measured, (name, name), same) for name in claim.matched}
    return Verdict(claim, mix, matched, matched[claim.matched[0]].verdict)


class _Runs(NamedTuple):
    """Our runs for one side at the picked round, why they will not do ("" if they will), what to know of them."""

    table: pa.Table
    problem: str
    notes: list[str]


def _outcome(claim: Claim, measured: pa.Table, protocols: tuple[str, str], whens: tuple[str, str]) -> Outcome:
    found = _find(claim, measured, protocols)
    a = _runs("a", claim, found[0], protocols[0], whens[0])
    b = _runs("b", claim, found[1], protocols[1], whens[1])
    if a.problem or b.problem:
        return Outcome(protocols, NO_DATA, "; ".join(filter(None, [a.problem, b.problem])))
    varying = {"corpus", "model", "rule", "protocol", *claim.a.where, *claim.b.where}
    pair = paired(a.table, b.table, claim.measure, varying)
    if not pair.difference.runs:
        reason = "the sides have no (partition_seed, seed) in common"
        return Outcome(protocols, NO_DATA, reason, unmatched=pair.unmatched)
    verdict, reason = _decide(claim, pair, (_all_identical(a.table), _all_identical(b.table)))
    alone = [f"{len(pair.unmatched)} runs have no partner with the same seeds"] if pair.unmatched else []
    if 0 < pair.same < pair.difference.runs:
        alone.append(f"in {pair.same} of {pair.difference.runs} pairs both sides are one run by construction")
    return Outcome(
        protocols,
        verdict,
        "; ".join([reason, *a.notes, *b.notes, *alone]),
        pair.a,
        pair.b,
        pair.difference,
        pair.flip,
        (_selected(a.table), _selected(b.table)),
        (_rounds(a.table), _rounds(b.table)),
        pair.unmatched,
        "; ".join(f"{side}: {told}" for side, runs in (("a", a), ("b", b)) if (told := ends(runs.table.to_pylist()))),
        _is_one_run(pair),
    )


def _is_one_run(pair: Paired) -> bool:
    return pair.same == pair.difference.runs


def _decide(claim: Claim, pair: Paired, fixed: tuple[bool, bool]) -> tuple[str, str]:
    """The verdict and why; fixed: of a and b, whether equal accuracies are built in."""
    if _is_one_run(pair):
        return BY_CONSTRUCTION, "equal by construction: in every pair both sides are one run, which was trained once"
    if any(fixed) and claim.measure in _ZERO_IF_EQUAL:
        sides = " and ".join(name for name, is_fixed in zip("ab", fixed, strict=True) if is_fixed)
        return BY_CONSTRUCTION, (
            f"in every run of {sides}, all clients have the same correct and total: the {claim.measure} is 0 "
            "whatever the model"
        )
    mean, low, high = (100 * value for value in pair.difference[:3])
    if pair.difference.reason:
        told = "there is no a - b" if isnan(mean) else f"a - b = {mean:.1f} points without an interval"
        return UNDECIDED, f"{told}: {pair.difference.reason}"
    told = (
        f"a - b = {mean:.1f} points, 95 % interval {low:.1f} to {high:.1f} ({pair.difference.method}, "
        f"{pair.difference.partitions} partitions, {pair.difference.runs} pairs of runs)"
    )
    above, below = pair.difference.low > claim.margin, pair.difference.high < claim.margin
    if not (above or below):
        return UNDECIDED, f"{told} contains {100 * claim.margin:g}: more seeds are needed to tell"
    return SUPPORTED if above == (claim.direction == "greater") else CONTRADICTED, told


def _find(claim: Claim, measured: pa.Table, protocols: tuple[str, str]) -> tuple[pa.Table, pa.Table]:
    """The runs of both sides, under the first alternatives of what they share that have runs of most sides."""
    found = []
    for shared in _choices(claim.where):
        where = {**claim.where, **shared}
        found.append((_first(measured, where, claim.a, protocols[0]), _first(measured, where, claim.b, protocols[1])))
    a, b = max(found, key=lambda sides: sum(len(side) > 0 for side in sides))
    return _alike(a, b), _alike(b, a)


def _alike(runs: pa.Table, other: pa.Table) -> pa.Table:
    """The runs of settings that the other side has too, if there are any: those of one study belong together."""
    theirs = {tuple(_settings(row).items()) for row in other.select(_LABELS).to_pylist()}
    fits = [tuple(_settings(row).items()) in theirs for row in runs.select(_LABELS).to_pylist()]
    return runs.filter(pa.array(fits)) if any(fits) else runs


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
    # Where the runs of two folders have one name, `folder` tells them apart; it is no setting.
    return {key: _number(value) for key, value in sorted(found) if key not in (*RUN, "folder")}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _runs(name: Literal["a", "b"], claim: Claim, found: pa.Table, protocol: str, when: str) -> _Runs:
    """The runs found for a side, at the round `when` as far as they reach it."""
    side = claim.a if name == "a" else claim.b
    kind, number = parse_rounds(when)
    picked = pick(reaching(found, number) if kind == "round" else found, when)
    if not len(found):
        problem = f"no run of {_told({**side.where, **claim.where})} under {protocol}"
    elif not len(picked):
        problem = f"no run has {when}, the last is {max(found['round'].to_pylist())}; choose 'last', or train longer"
    else:
        problem = _ambiguity(picked)
    notes = [] if problem else _notes({**claim.where, **side.where}, found, picked)
    return _Runs(picked, problem and f"side {name}: {problem}", [f"side {name}: {note}" for note in notes])


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
    rounds = _rounds(picked.filter(pc.equal(picked["diverged"], 0)))
    notes += [f"rounds {', '.join(map(str, rounds))} are mixed"] if len(rounds) > 1 else []
    notes += [told] if (told := ends(picked.to_pylist())) else []
    fixed = sum(picked["identical"].to_pylist())
    partly = 0 < fixed < len(picked)
    return [*notes, f"all clients are scored alike in {fixed} of {len(picked)} runs"] if partly else notes


def _selected(picked: pa.Table) -> dict[str, Any]:
    return {name: picked[name][0].as_py() for name in SETTING if name != "protocol"}


def _rounds(picked: pa.Table) -> tuple[int, ...]:
    return tuple(sorted(picked["round"].unique().to_pylist()))


def _all_identical(picked: pa.Table) -> bool:
    return all(picked["identical"].to_pylist())


def _told(where: Mapping[str, Sequence[Scalar]]) -> str:
    return ", ".join(
        f"{name} {' or '.join('unset' if value is None else str(value) for value in values)}"
        for name, values in where.items()
    )
