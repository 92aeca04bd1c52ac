"""What our runs say of claims: by intervals of paired differences, or by what partitions decide before training."""

from collections.abc import Sequence
from math import isnan
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fedjax_paradox.analysis.claims import Claim
from fedjax_paradox.analysis.runs import FLOOR, FLOORED, ends
from fedjax_paradox.analysis.sides import Runs, find, rounds_of, runs_of, selected
from fedjax_paradox.analysis.statistics import Estimate, Paired, Unmatched, holm, paired, sign_flip

SUPPORTED, CONTRADICTED, EQUIVALENT, UNDECIDED = "supported", "contradicted", "equivalent", "undecided"
TRUE_BY_CONSTRUCTION, FALSE_BY_CONSTRUCTION = "true by construction", "false by construction"
TOO_FEW, NO_DATA = "too few partitions", "no data"
# With five the least p that signs can give is 0.06, and an interval of t says little where gaps are skewed.
FEWEST = 6
_ZERO_IF_EQUAL = ("gap", "best_minus_worst", "std", "gini")  # measures that equal accuracies fix at 0
QUARTERS = 4  # rounds at which a verdict is looked at again


class Outcome(NamedTuple):
    """One comparison on our runs, the sides under `protocols` (of a, of b)."""

    protocols: tuple[str, str]
    verdict: str
    reason: str
    a: Estimate | None = None  # None where there is no data
    b: Estimate | None = None
    difference: Estimate | None = None  # over all clients
    floored: Estimate | None = None  # over clients of at least FLOOR train rows, by which the verdict goes
    p: float = float("nan")  # of `floored` being the margin, by sign flips
    p_holm: float = float("nan")  # the same, for as many claims as were judged under these protocols
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
    by_round: dict[int, str]  # round -> verdict under that protocol, at the quarters of its rounds


def judge(claims: Sequence[Claim], measured: pa.Table, when: str | None = None) -> list[Verdict]:
    """What the runs say of each claim.

    Supported or contradicted: the whole 95 % interval of the paired difference lies on one side of the margin.
    Equivalent: it lies within `equivalent_within` of the margin. Undecided: neither, or there is no interval or one of
    no width, or a run that diverged in round 1 has no number. Too few: fewer than FEWEST partitions. True or false by
    construction: what the partitions make 0 in every run, or that the two sides of every pair are one run, decides the
    claim whatever the models; equal outcomes are no construction.

    The interval is that over clients of at least FLOOR train rows: where one partition in five has an all-wrong client
    of a few rows, intervals over all clients cover 73 to 88 % with 6 to 10 partitions, and those 93 to 95 %. p is by
    sign flips, and adjusted by Holm for the claims judged, protocols by protocols.

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
        p_values = holm([_of_kind(found[place], kind).p for place in having])
        for place, p in zip(having, p_values, strict=True):
            outcome = _of_kind(found[place], kind)._replace(p_holm=p)
            one = found[place]
            found[place] = (
                one._replace(mix=outcome) if kind is None else one._replace(matched=one.matched | {kind: outcome})
            )
    return found


def _of_kind(verdict: Verdict, kind: str | None) -> Outcome:
    return verdict.mix if kind is None else verdict.matched[kind]


def _verdict(claim: Claim, measured: pa.Table, when: str | None) -> Verdict:
    own = (when or f"round {claim.a.round}", when or f"round {claim.b.round}")
    same = (when or f"round {claim.round}",) * 2
    mix = _outcome(claim, measured, (claim.a.protocol, claim.b.protocol), own)
    matched = {name: _outcome(claim, measured, (name, name), same) for name in claim.matched}
    first = claim.matched[0]
    return Verdict(claim, mix, matched, matched[first].verdict, _by_round(claim, measured, first, matched[first]))


def _by_round(claim: Claim, measured: pa.Table, protocol: str, last: Outcome) -> dict[int, str]:
    reached = [max(rounds) for rounds in last.rounds if rounds]
    if len(reached) < 2 or last.verdict in (TRUE_BY_CONSTRUCTION, FALSE_BY_CONSTRUCTION, TOO_FEW, NO_DATA):
        return {}
    rounds = dict.fromkeys(max(1, round(min(reached) * quarter / QUARTERS)) for quarter in range(1, QUARTERS + 1))
    return {at: _outcome(claim, measured, (protocol,) * 2, (f"round {at}",) * 2).verdict for at in rounds}


def _outcome(claim: Claim, measured: pa.Table, protocols: tuple[str, str], whens: tuple[str, str]) -> Outcome:
    found = find(claim, measured, protocols)
    a = runs_of("a", claim, found[0], protocols[0], whens[0])
    b = runs_of("b", claim, found[1], protocols[1], whens[1])
    if a.problem or b.problem:
        return Outcome(protocols, NO_DATA, "; ".join(filter(None, [a.problem, b.problem])))
    varying = {"corpus", "model", "rule", "protocol", *claim.a.where, *claim.b.where}
    pair = paired(a.table, b.table, claim.measure, varying)
    if not pair.difference.runs:
        reason = "the sides have no (partition_seed, seed) in common"
        return Outcome(protocols, NO_DATA, reason, unmatched=pair.unmatched)
    floored = paired(a.table, b.table, f"{FLOORED}{claim.measure}", varying)
    fixed = _fixed(claim, pair, a, b)
    by_construction = _by_construction(claim, *fixed[:2]) if fixed else ""
    verdict, reason = (by_construction, fixed[2]) if fixed and by_construction else _decide(claim, floored)
    narrowed = [fixed[2]] if fixed and not by_construction else []
    notes = [*narrowed, *a.notes, *b.notes, *_zeros(claim, a, b, varying), *_small(claim, pair, a, b), *_alone(pair)]
    sides = [side.published.get(claim.measure, float("nan")) for side in (claim.a, claim.b)]
    published = sides[0] - sides[1]
    return Outcome(
        protocols,
        verdict,
        "; ".join([reason, *notes]),
        pair.a,
        pair.b,
        pair.difference,
        floored.difference,
        p=sign_flip(floored.differences, claim.margin),
        published=published,
        published_outside=published < pair.difference.low or published > pair.difference.high,
        small=(_with_small(a.table), _with_small(b.table)),
        selected=(selected(a.table), selected(b.table)),
        rounds=(rounds_of(a.table), rounds_of(b.table)),
        unmatched=pair.unmatched,
        ended="; ".join(
            f"{side}: {told}" for side, runs in (("a", a), ("b", b)) if (told := ends(runs.table.to_pylist()))
        ),
        same=_is_one_run(pair),
    )


def _is_one_run(pair: Paired) -> bool:
    return pair.same == pair.difference.runs


def _fixed(claim: Claim, pair: Paired, a: Runs, b: Runs) -> tuple[float, float, str] | None:
    """(least, most a - b that any model could give, why), where construction narrows it; None where it does not."""
    if _is_one_run(pair):
        return 0.0, 0.0, "in every pair both sides are one run, which was trained once"
    zero = [claim.measure in _ZERO_IF_EQUAL and all(side.table["fixed"].to_pylist()) for side in (a, b)]
    if not any(zero):
        return None
    sides = " and ".join(name for name, is_zero in zip("ab", zero, strict=True) if is_zero)
    told = (
        f"in every run of {sides} the partition scores all clients alike: the {claim.measure} is 0 whatever the model"
    )
    return 0.0 if zero[1] else -1.0, 0.0 if zero[0] else 1.0, told


def _decide(claim: Claim, pair: Paired) -> tuple[str, str]:
    """The verdict by measurement, and why."""
    mean, low, high = (100 * value for value in pair.difference[:3])
    partitions = pair.difference.partitions
    if pair.difference.reason:
        told = "there is no a - b" if isnan(mean) else f"a - b = {mean:.1f} points without an interval"
        verdict = UNDECIDED if isnan(mean) or partitions >= FEWEST else TOO_FEW
        return verdict, f"{told}: {pair.difference.reason}"
    told = (
        f"a - b = {mean:.1f} points over clients of at least {FLOOR} rows, 95 % interval {low:.1f} to {high:.1f} "
        f"({pair.difference.method}, {partitions} partitions, {pair.difference.runs} pairs of runs)"
    )
    if partitions < FEWEST:
        return TOO_FEW, f"{told}; {FEWEST} partitions are needed for a verdict"
    return _by_interval(claim, pair.difference, told)


def _by_interval(claim: Claim, difference: Estimate, told: str) -> tuple[str, str]:
    if difference.high - difference.low < 1e-9:
        return UNDECIDED, f"{told}; an interval of no width decides nothing"
    above, below = difference.low > claim.margin, difference.high < claim.margin
    within = max(abs(difference.low - claim.margin), abs(difference.high - claim.margin)) <= claim.equivalent_within
    small = f"all of it within {100 * claim.equivalent_within:g} points of {100 * claim.margin:g}"
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


def _zeros(claim: Claim, a: Runs, b: Runs, varying: set[str]) -> list[str]:
    """Of partitions that make the measure 0 in some runs, and what the others give."""
    if claim.measure not in _ZERO_IF_EQUAL:
        return []
    counts = [sum(side.table["fixed"].to_pylist()) for side in (a, b)]
    told = [
        f"side {name}: 0 by construction in {count} of {len(side.table)} runs"
        for name, side, count in zip("ab", (a, b), counts, strict=True)
        if 0 < count < len(side.table)
    ]
    if not told:
        return []
    free_a, free_b = (side.table.filter(pc.invert(side.table["fixed"])) for side in (a, b))
    if not (len(free_a) and len(free_b)):
        return told
    rest = paired(free_a, free_b, f"{FLOORED}{claim.measure}", varying).difference
    return [*told, f"without them a - b = {100 * rest.mean:.1f} points ({_counted(rest.partitions, 'partition')})"]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _with_small(table: pa.Table) -> int:
    return sum(small > 0 for small in table["small"].to_pylist())


def _small(claim: Claim, pair: Paired, a: Runs, b: Runs) -> list[str]:
    """What clients below the floor change, and how exactly the worst clients are known."""
    counts = _with_small(a.table), _with_small(b.table)
    told = []
    if any(counts):
        mean, low, high = (100 * value for value in pair.difference[:3])
        told.append(
            f"with the clients of fewer rows, in {counts[0]} of {len(a.table)} runs of a and {counts[1]} of "
            f"{len(b.table)} of b, a - b = {mean:.1f} points, {low:.1f} to {high:.1f}"
        )
    if claim.measure in ("gap", "worst"):
        noise = [100 * float(pc.mean(side.table["worst_noise"]).as_py() or 0) for side in (a, b)]
        told.append(f"a run's worst client is known to {noise[0]:.1f} points in a and {noise[1]:.1f} in b")
    return told


def _alone(pair: Paired) -> list[str]:
    alone = len(pair.unmatched)
    have = "run has" if alone == 1 else "runs have"
    told = [f"{alone} {have} no partner with the same seeds"] if alone else []
    if 0 < pair.same < pair.difference.runs:
        told.append(f"in {pair.same} of {pair.difference.runs} pairs both sides are one run by construction")
    return told
