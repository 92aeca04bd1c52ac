"""Verdicts on claims in words, as tables and as a figure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_paradox.analysis import verdicts
from fedjax_paradox.analysis.runs import FLOOR
from fedjax_paradox.report import figures, tables
from fedjax_paradox.report.drawing import COLOURS
from fedjax_paradox.report.picture import VERDICTS, Picture
from fedjax_paradox.report.tables import Table, percent


class Judged(NamedTuple):
    """A claim and what our runs say of it."""

    name: str
    verdict: str
    text: str
    source: str
    reasons: list[str]  # a sentence per comparison


def in_words(verdict: verdicts.Verdict) -> Judged:
    """A claim, its verdict and the reason of every comparison."""
    reasons = [f"{told}: {outcome.verdict}; {outcome.reason}." for told, outcome in _outcomes(verdict).items()]
    if verdict.by_round:
        told = ", ".join(f"{answer} at round {at}" for at, answer in verdict.by_round.items())
        reasons.append(f"by round, both {verdict.claim.matched[0]}: {told}.")
    return Judged(verdict.claim.id, verdict.verdict, verdict.claim.text, verdict.claim.source, reasons)


def _outcomes(verdict: verdicts.Verdict) -> dict[str, verdicts.Outcome]:
    """The comparisons of a claim by name; the one as published where something is."""
    published = {f"as published: {' / '.join(verdict.mix.protocols)}": verdict.mix}
    matched = {f"both {name}": outcome for name, outcome in verdict.matched.items()}
    return (published if verdict.claim.is_published else {}) | matched


def with_data(judged: Sequence[verdicts.Verdict]) -> Sequence[verdicts.Verdict]:
    """Claims that some comparison says something of; all where there is none."""
    return [one for one in judged if any(o.verdict != verdicts.NO_DATA for o in _outcomes(one).values())] or judged


_OUTSIDE = "† The published difference lies outside our interval over all clients."


def verdict_table(judged: Sequence[verdicts.Verdict]) -> Table:
    """A row per claim that has data: the verdict under one protocol for both sides, and the one as published."""
    judged, others = with_data(judged), len(judged) - len(with_data(judged))
    protocols = dict.fromkeys(one.claim.matched[0] for one in judged)
    published = any(one.claim.is_published for one in judged)
    kept = slice(None if published else 3)  # columns
    outcomes = [one.matched.get(one.claim.matched[0]) for one in judged]
    return Table(
        name="verdicts",
        caption=f"Verdicts with both sides under {' or '.join(protocols)}; a − b in points over clients of at "
        f"least {FLOOR} rows, with its 95 % interval."
        + " Last, the verdict as published, each side under its own."
        * published,
        columns=["claim", "verdict", "a − b", "published", "as published"][kept],
        numeric=[False, False, True, True, False][kept],
        rows=[
            [
                f"{one.claim.id}: {one.claim.text}",
                _ended(one.verdict, outcome),
                *_differences(outcome)[:2],
                one.mix.verdict if one.claim.is_published else tables.NONE,
            ][kept]
            for one, outcome in zip(judged, outcomes, strict=True)
        ],
        notes=[_OUTSIDE] * any(outcome and outcome.published_outside for outcome in outcomes)
        + _of_other_rounds(judged)
        + [f"Without data in these runs, and not shown: {others} of the claims."] * (others > 0),
    )


def _of_other_rounds(judged: Sequence[verdicts.Verdict]) -> list[str]:
    """Which claims compare a side with one that has trained for another number of rounds."""
    found: dict[str, list[str]] = {}
    for one in judged:
        outcome = one.matched.get(one.claim.matched[0])
        a, b = (max(rounds, default=0) for rounds in outcome.rounds) if outcome else (0, 0)
        if a != b and a and b:
            found.setdefault(f"after round {a} of a and {b} of b", []).append(one.claim.id)
    return [f"Sides of other rounds, {when}: {', '.join(names)}." for when, names in found.items()]


def comparison_table(judged: Sequence[verdicts.Verdict]) -> Table:
    """A row per claim and pair of protocols, with both sides and p."""
    outcomes = [named for one in judged for named in ((one.claim.id, *each) for each in _outcomes(one).items())]
    published = any(one.claim.is_published for one in judged)
    first = "first as published, each side under its own protocol; then both sides under one protocol"
    columns = ["claim", "protocols", "verdict", f"a − b, ≥ {FLOOR} rows", "published", "a − b", *_LAST]
    kept = [index for index, name in enumerate(columns) if published or name != "published"]
    return Table(
        name="claims",
        caption=f"Every comparison: {first if published else 'both sides under one protocol'}. a and b are the sides "
        f"of a claim{', published is the published a − b' * published}. Accuracies in %, gaps and differences in "
        "percentage points, with 95 % intervals.",
        columns=[columns[index] for index in kept],
        numeric=[index > 2 for index in kept],
        rows=[[row[index] for index in kept] for row in (_row(*outcome) for outcome in outcomes)],
        notes=[_OUTSIDE] * any(outcome.published_outside for *_, outcome in outcomes),
    )


_LAST = ("p", "p (Holm)", "a", "b")


def _row(claim: str, protocols: str, outcome: verdicts.Outcome) -> list[str]:
    p_values = [tables.decimal(p, "{:.3f}") for p in (outcome.p, outcome.p_holm)]
    sides = [percent(side) if side else tables.NONE for side in (outcome.a, outcome.b)]
    return [claim, protocols, _ended(outcome.verdict, outcome), *_differences(outcome), *p_values, *sides]


def _ended(verdict: str, outcome: verdicts.Outcome | None) -> str:
    return verdict + (f" ({outcome.ended})" if outcome and outcome.ended else "")


def _differences(outcome: verdicts.Outcome | None) -> list[str]:
    """Over clients above the floor, published, over all clients."""
    if outcome is None:
        return [tables.NONE] * 3
    published = tables.decimal(100 * outcome.published, "{:+.1f}") + "†" * outcome.published_outside
    found = [each and percent(each, signed=True) for each in (outcome.floored, outcome.difference)]
    floored, difference = ("equal" if outcome.same else each or tables.NONE for each in found)
    return [floored, published, difference]


def forest(judged: Sequence[verdicts.Verdict]) -> list[Picture]:
    """The figure of all comparisons that have data, if there are any."""
    claims = {one.claim.id: _comparisons(one) for one in judged}
    claims = {claim: found for claim, found in claims.items() if found}
    if not claims:
        return []
    spoken = "; ".join(
        f"{claim} "
        + ", ".join(f"{row.label} {100 * row.value:+.1f} {row.verdict}" for row in rows if row.value == row.value)
        for claim, rows in claims.items()
    )
    return [
        Picture(
            "forest",
            VERDICTS,
            f"Side a minus side b of every claim with its 95 % interval over partitions. {_first_rows(judged)} Over "
            f"clients of at least {FLOOR} rows, which verdicts go by. Arrow: the interval goes on.",
            f"Differences in points by claim and protocol: {spoken}.",
            figures.forest(claims, _LOOKS),
        )
    ]


def _first_rows(judged: Sequence[verdicts.Verdict]) -> str:
    """What the row with a claim's name shows."""
    firsts = " or ".join(dict.fromkeys(one.claim.matched[0] for one in judged if not one.claim.is_published))
    own = f"The row with a claim's name has both sides under {firsts}, rows below it under another."
    if all(not one.claim.is_published for one in judged):
        return own
    told = "The row with a claim's name is as published, each side under its own protocol; below it both are under one."
    return f"{told} Of a claim without published numbers it is under {firsts}." if firsts else told


def _comparisons(verdict: verdicts.Verdict) -> list[figures.Comparison]:
    """The published one first, with or without data; of the others those with."""
    found = ({"as published": verdict.mix} if verdict.claim.is_published else {}) | verdict.matched
    rows = [
        figures.Comparison(label, outcome.verdict, *(outcome.floored or _NOTHING)[:3], outcome.published)
        for label, outcome in found.items()
    ]
    known = [row for row in rows if row.value == row.value]
    return [row for row in rows if row in (rows[0], *known)] if known else []


_NOTHING = (float("nan"),) * 3


def _mark(colour: str, marker: str, filled: bool = True) -> dict[str, Any]:
    return {"color": colour, "marker": marker, "markerfacecolor": colour if filled else "white", "markersize": 4}


_LOOKS: Mapping[str, Mapping[str, Any]] = {
    verdicts.SUPPORTED: _mark(COLOURS[0], "o"),
    verdicts.CONTRADICTED: _mark(COLOURS[1], "s"),
    verdicts.EQUIVALENT: _mark(COLOURS[2], "D"),
    verdicts.TRUE_BY_CONSTRUCTION: _mark(COLOURS[0], "^"),
    verdicts.FALSE_BY_CONSTRUCTION: _mark(COLOURS[1], "v"),
    verdicts.UNDECIDED: _mark("#444444", "o", filled=False),
    verdicts.TOO_FEW: _mark("#888888", "d", filled=False),
    verdicts.NO_DATA: {"color": "#888888", "marker": ""},
}
