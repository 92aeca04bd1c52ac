"""What our runs say of claims: by intervals of paired differences, or by what partitions decide before training."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any, NamedTuple

import pyarrow as pa

from fedjax_paradox.analysis import remarks
from fedjax_paradox.analysis.claims import Claim
from fedjax_paradox.analysis.remarks import is_zero
from fedjax_paradox.analysis.runs import FLOOR, FLOORED, parse_rounds
from fedjax_paradox.analysis.sides import Runs, View, find, rounds_of, runs_at, selected
from fedjax_paradox.analysis.statistics import (
    FEWEST,
    Estimate,
    Pairs,
    Unmatched,
    by_side,
    contrast,
    holm,
    is_same,
    match,
)

SUPPORTED, CONTRADICTED, EQUIVALENT, UNDECIDED = "supported", "contradicted", "equivalent", "undecided"
TRUE_BY_CONSTRUCTION, FALSE_BY_CONSTRUCTION = "true by construction", "false by construction"
TOO_FEW, NO_DATA = "too few partitions", "no data"
BY_CONSTRUCTION = TRUE_BY_CONSTRUCTION, FALSE_BY_CONSTRUCTION
QUARTERS = 4  # rounds at which a verdict is looked at again


class Outcome(NamedTuple):
    """One comparison on our runs, the sides under `protocols` (of a, of b)."""

    protocols: tuple[str, str]
    verdict: str
    reason: str
    a: Estimate | None = None  # None where there is no data
    b: Estimate | None = None
    difference: Estimate | None = None  # over all clients
    floored: Estimate | None = None  # over clients of at least FLOOR rows, by which the verdict goes
    p: float = float("nan")  # of `floored` being the margin, by sign flips
    p_holm: float = float("nan")  # the same, for all claims with a verdict by an interval under these protocols
    published: float = float("nan")  # the published a - b
    published_outside: bool = False  # of the interval over all clients
    small: tuple[int, int] = (0, 0)  # runs of a and b with a client below the floor
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
    by_round: dict[int, str]  # round of a -> verdict under that protocol, at the quarters of each side's rounds


def judge(claims: Sequence[Claim], measured: pa.Table, when: str | None = None) -> list[Verdict]:
    """What the runs say of each claim.

    Supported or contradicted: the whole 95 % interval of the paired difference lies on one side of the margin.
    Equivalent: it lies within `equivalent_within` of 0. Undecided: neither, or there is no interval or one of no width.
    Too few: fewer than FEWEST partitions. True or false by construction: what the partitions make 0 in every run, or
    that the two sides of every pair are one run, decides the claim whatever the models; equal outcomes are no
    construction.

    The interval is that over clients of at least FLOOR rows, to train on and to be scored on. A run that diverged in
    round 1 counts with the least measure for its lower end and the greatest for its upper one. p is by sign flips, and
    adjusted by Holm for the claims that an interval decides or leaves undecided, protocols by protocols.

    Args:
      measured: `runs.measures` of the runs.
      when: "last", "round N" or "mean of last N" for all sides, or None for the published rounds.

    Raises:
      InputError: `when` is none of these, or a run has fewer than the N last rounds.
    """
    return adjusted([_verdict(claim, measured, when) for claim in claims])


def adjusted(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts with `p_holm`: claims under the same kind of comparison are one family."""
    kinds = dict.fromkeys(name for verdict in verdicts for name in verdict.matched)
    found = list(verdicts)
    for kind in (None, *kinds):
        having = [place for place, one in enumerate(found) if kind is None or kind in one.matched]
        p_values = holm([_tested(_of_kind(found[place], kind)) for place in having])
        for place, p in zip(having, p_values, strict=True):
            outcome = _of_kind(found[place], kind)._replace(p_holm=p)
            one = found[place]
            found[place] = (
                one._replace(mix=outcome) if kind is None else one._replace(matched=one.matched | {kind: outcome})
            )
    return found


def _tested(outcome: Outcome) -> float:
    return float("nan") if outcome.verdict == TOO_FEW else outcome.p


def _of_kind(verdict: Verdict, kind: str | None) -> Outcome:
    return verdict.mix if kind is None else verdict.matched[kind]


def _verdict(claim: Claim, measured: pa.Table, when: str | None) -> Verdict:
    published = {name: side.protocol for name, side in claim.sides.items()}
    whens = {name: when or f"round {side.round}" for name, side in claim.sides.items()}
    mix = _outcome(claim, measured, View(published, whens))
    same = dict.fromkeys(claim.sides, when or f"round {claim.round}")
    views = {name: View(dict.fromkeys(claim.sides, name), same) for name in claim.matched}
    matched = {name: _outcome(claim, measured, view) for name, view in views.items()}
    first = claim.matched[0]
    by_round = _by_round(claim, measured, views[first]) if matched[first].difference else {}
    return Verdict(claim, mix, matched, matched[first].verdict, by_round)


def _outcome(claim: Claim, measured: pa.Table, view: View) -> Outcome:
    blank = Outcome((view.protocols["a"], view.protocols["b"]), NO_DATA, "", published=claim.published)
    found = find(claim, measured, view)
    runs = runs_at(claim, found, view)
    problems = [f"side {name}: {side.problem}" for name, side in runs.items() if side.problem]
    if runs["a"].problem or runs["b"].problem:
        return blank._replace(reason="; ".join(problems))
    pairs = _pairs(claim, runs)
    if not pairs.rows:
        reason = "the sides have no (partition_seed, seed) in common"
        return blank._replace(reason=reason, unmatched=pairs.unmatched)
    outcome = _measured(claim, pairs, blank)
    notes = [*problems, *remarks.of_sides(runs), *remarks.alone(pairs)]
    return outcome._replace(
        reason="; ".join([outcome.reason, *notes]),
        selected=(selected(runs["a"].table), selected(runs["b"].table)),
        rounds=(rounds_of(runs["a"].table), rounds_of(runs["b"].table)),
    )


def _pairs(claim: Claim, runs: Mapping[str, Runs]) -> Pairs:
    """Of a, b and those between them that have runs."""
    varying = {"corpus", "model", "rule", "protocol", *(name for side in claim.sides.values() for name in side.where)}
    return match({name: side.table for name, side in runs.items() if not side.problem}, varying)


def _measured(claim: Claim, pairs: Pairs, blank: Outcome) -> Outcome:
    difference, _ = contrast(pairs, claim.measure, claim.weights(pairs.sides))
    a, b = by_side(pairs, claim.measure)[:2]
    sides = remarks.of_a_and_b(pairs)
    verdict, reason, floored, p = _judged(claim, pairs)
    published = blank.published
    return blank._replace(
        verdict=verdict,
        reason="; ".join([reason, *remarks.zeros(claim, pairs), *remarks.small(claim, pairs, difference)]),
        a=a,
        b=b,
        difference=difference,
        floored=floored,
        p=p,
        published_outside=published < difference.low or published > difference.high,
        small=(_with_small(sides["a"]), _with_small(sides["b"])),
        unmatched=pairs.unmatched,
        ended=remarks.ended(pairs),
        same=all(map(is_same, pairs.rows)),
    )


def _with_small(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(row["small"] > 0 for row in rows)


class _Judged(NamedTuple):
    verdict: str
    reason: str
    floored: Estimate
    p: float  # NaN where construction decides: nothing is tested


def _judged(claim: Claim, pairs: Pairs) -> _Judged:
    floored, p = contrast(pairs, f"{FLOORED}{claim.measure}", claim.weights(pairs.sides), claim.margin)
    least, most, why = _reach(claim, pairs)
    if verdict := _by_construction(claim, least, most):
        return _Judged(verdict, why, floored, float("nan"))
    verdict, reason = _decide(claim, floored)
    return _Judged(verdict, "; ".join([reason, *remarks.skewed(floored), *([why] if why else [])]), floored, p)


def _reach(claim: Claim, pairs: Pairs) -> tuple[float, float, str]:
    """(least, most a - b that any model could give, why), where construction narrows it; else "" for why."""
    if all(map(is_same, pairs.rows)):
        return 0.0, 0.0, "in every pair both sides are one run, which was trained once"
    weights = dict(zip(pairs.sides, claim.weights(pairs.sides), strict=True))
    fixed = [name for place, name in enumerate(pairs.sides) if all(is_zero(claim, rows[place]) for rows in pairs.rows)]
    free = [weight for name, weight in weights.items() if name not in fixed]
    told = (
        f"in every run of {' and '.join(fixed)} the partition scores all clients alike: the {claim.measure} is 0 "
        "whatever the model"
    )
    least, most = (sum(max(sign * weight, 0.0) for weight in free) * sign for sign in (-1, 1))
    return least, most, told if fixed else ""


def _by_round(claim: Claim, measured: pa.Table, view: View) -> dict[int, str]:
    """Round of side a -> the verdict there, each side being at the same quarter of its own rounds."""
    found = find(claim, measured, view)
    runs = {name: side for name, side in runs_at(claim, found, view).items() if not side.problem}
    last = {name: _last(view.whens[name], side) for name, side in runs.items()}
    verdicts = {}
    for quarter in range(1, QUARTERS + 1):
        at = {name: max(1, round(number * quarter / QUARTERS)) for name, number in last.items()}
        whens = {**view.whens, **{name: f"round {number}" for name, number in at.items()}}
        earlier = runs_at(claim, found, view._replace(whens=whens))
        if not (earlier["a"].problem or earlier["b"].problem):
            verdicts[at["a"]] = _judged(claim, _pairs(claim, earlier)).verdict
    return {} if set(verdicts.values()) <= {*BY_CONSTRUCTION, TOO_FEW} else verdicts


def _last(when: str, side: Runs) -> int:
    """The round that is looked at, of a side at its last rounds one that all runs have."""
    kind, number = parse_rounds(when)
    finished = [row["round"] for row in side.table.to_pylist() if not row["diverged"]]
    return number if kind == "round" else min(finished or rounds_of(side.table))


def _decide(claim: Claim, difference: Estimate) -> tuple[str, str]:
    """The verdict by measurement, and why."""
    value, low, high = (100 * number for number in difference[:3])
    partitions = difference.partitions
    if isnan(low):
        none = f"there is no a - b over clients of at least {FLOOR} rows"
        told = none if isnan(value) else f"a - b = {value:.1f} points without an interval"
        return (TOO_FEW if partitions < FEWEST else UNDECIDED), f"{told}: {difference.reason}"
    told = (
        f"a - b = {value:.1f} points over clients of at least {FLOOR} rows, 95 % interval {low:.1f} to {high:.1f} "
        f"({difference.method}, {partitions} partitions, {difference.runs} pairs of runs)"
    )
    if partitions < FEWEST:
        return TOO_FEW, f"{told}; {FEWEST} partitions are needed for a verdict"
    return _by_interval(claim, difference, told)


def _by_interval(claim: Claim, difference: Estimate, told: str) -> tuple[str, str]:
    if difference.high - difference.low < 1e-9:
        return UNDECIDED, f"{told}; an interval of no width decides nothing"
    above, below = difference.low > claim.margin, difference.high < claim.margin
    within = max(abs(difference.low), abs(difference.high)) <= claim.equivalent_within
    small = f"all of it within {100 * claim.equivalent_within:g} points of 0"
    if above or below:
        verdict = SUPPORTED if above == (claim.direction == "greater") else CONTRADICTED
        return verdict, f"{told}{f'; {small}, too small to matter' if within else ''}"
    if within:
        return EQUIVALENT, f"{told}; {small}"
    return UNDECIDED, f"{told} contains {100 * claim.margin:g}: more partitions are needed to tell"


def _by_construction(claim: Claim, least: float, most: float) -> str:
    """Of a claim about a - b, which lies between `least` and `most` whatever the models; "" where it stays open."""
    if claim.direction == "less":
        least, most = -most, -least
    margin = claim.margin if claim.direction == "greater" else -claim.margin
    if most <= margin:
        return FALSE_BY_CONSTRUCTION
    return TRUE_BY_CONSTRUCTION if least > margin else ""
