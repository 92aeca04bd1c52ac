"""What to know of the runs behind a comparison: a part of a sentence each."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedjax_paradox.analysis.claims import Claim
from fedjax_paradox.analysis.runs import FLOORED, ends
from fedjax_paradox.analysis.sides import Runs
from fedjax_paradox.analysis.statistics import Estimate, Pairs, contrast, is_same

_ZERO_IF_EQUAL = ("gap", "best_minus_worst", "std", "gini")  # measures that equal accuracies fix at 0


def is_zero(claim: Claim, row: Mapping[str, Any]) -> bool:
    """Whether the partition alone makes the measure of a run 0."""
    return row["fixed"] and claim.measure in _ZERO_IF_EQUAL


def of_a_and_b(pairs: Pairs) -> dict[str, list[dict[str, Any]]]:
    """The rows of the pairs, by side."""
    return {name: [rows[place] for rows in pairs.rows] for place, name in enumerate("ab")}


def of_sides(runs: Mapping[str, Runs]) -> list[str]:
    """Every note on the selection once, with the sides that it is of."""
    found: dict[str, list[str]] = {}
    for name, side in runs.items():
        for note in side.notes:
            found.setdefault(note, []).append(name)
    return [f"side{'s' * (len(names) > 1)} {', '.join(names)}: {note}" for note, names in found.items()]


def zeros(claim: Claim, pairs: Pairs) -> list[str]:
    """Of partitions that make the measure 0 in some runs, and what the others give."""
    told, count = [], len(pairs.rows)
    for name, rows in of_a_and_b(pairs).items():
        if 0 < (fixed := sum(is_zero(claim, row) for row in rows)) < count:
            told.append(f"side {name}: 0 by construction in {fixed} of {count} runs")
    free = tuple(rows for rows in pairs.rows if not any(is_zero(claim, row) for row in rows))
    if told and free:
        weights = claim.weights(pairs.sides)
        rest, _ = contrast(pairs._replace(rows=free), f"{FLOORED}{claim.measure}", weights)
        partitions = f"{rest.partitions} partition{'' if rest.partitions == 1 else 's'}"
        told.append(f"without them a - b = {100 * rest.value:.1f} points ({partitions})")
    return told


def small(claim: Claim, pairs: Pairs, difference: Estimate) -> list[str]:
    """What clients below the floor change, and how exactly the worst clients are known.

    Args:
      difference: over all clients.
    """
    sides = of_a_and_b(pairs)
    counts = {name: sum(row["small"] > 0 for row in rows) for name, rows in sides.items()}
    told = []
    if any(counts.values()):
        value, low, high = (100 * number for number in difference[:3])
        told.append(
            f"with the clients of fewer rows, in {counts['a']} of {len(pairs.rows)} runs of a and {counts['b']} of "
            f"{len(pairs.rows)} of b, a - b = {value:.1f} points, {low:.1f} to {high:.1f}"
        )
    if claim.measure in ("gap", "worst"):
        noise = {name: _mean([row["worst_noise"] for row in rows]) for name, rows in sides.items()}
        told.append(f"a run's worst client is known to {noise['a']:.1f} points in a and {noise['b']:.1f} in b")
    return told


def _mean(noise: Sequence[float]) -> float:
    """In points, of the runs that have a worst client."""
    known = [number for number in noise if number == number]
    return 100 * sum(known) / max(len(known), 1)


def alone(pairs: Pairs) -> list[str]:
    """Runs without a partner, and pairs that are one run."""
    count, same = len(pairs.unmatched), sum(map(is_same, pairs.rows))
    told = [f"{count} {'run has' if count == 1 else 'runs have'} no partner with the same seeds"] if count else []
    if 0 < same < len(pairs.rows):
        told.append(f"in {same} of {len(pairs.rows)} pairs both sides are one run by construction")
    return told


def ended(pairs: Pairs) -> str:
    """How many runs of a and of b diverged, "" where none did."""
    return "; ".join(f"{name}: {told}" for name, rows in of_a_and_b(pairs).items() if (told := ends(rows)))


def skewed(difference: Estimate) -> list[str]:
    """That a few partitions make the mean another than the typical partition's."""
    if difference.low <= difference.mean <= difference.high or difference.low != difference.low:
        return []
    return [
        f"a few partitions are another matter: the mean is {100 * difference.mean:.1f} points, outside the interval"
    ]
