"""Estimates, intervals and tests over partitions, from measures of runs alone.

Accuracies, gaps and their differences are in [0, 1]. Training seeds of one partition are averaged first: the
independent units are partitions.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.special import stdtrit
from scipy.stats import rankdata

from fedjax_paradox.analysis.runs import FLOORED, MEASURES, require
from fedjax_paradox.errors import InputError
from fedjax_paradox.evaluation.fairness import Summary

# One value of each on a side of a comparison.
SETTING = ("corpus", "model", "rule", "alpha", "num_clients", "protocol")
LEVEL = 0.95
FEWEST = 6  # partitions: with fewer no distribution-free interval reaches LEVEL, and no sign-flip test 1 - LEVEL

_NAN = float("nan")
_DECIMALS = 12  # beyond these, differences are rounding


class Estimate(NamedTuple):
    """A value over partitions with its 95 % interval; low and high are NaN where `reason` says why there is none."""

    value: float  # what the interval is of: the typical partition from FEWEST partitions on, with fewer the mean
    low: float
    high: float
    runs: int
    reason: str = ""
    partitions: int = 0
    method: str = ""  # "signed-rank" or "t", "" without an interval
    mean: float = _NAN  # over partitions: a rare extreme partition moves it, and the value hardly


class Unmatched(NamedTuple):
    """A run of a side whose seeds another side lacks."""

    side: str
    partition_seed: int
    seed: int


class Pairs(NamedTuple):
    """Runs of all sides with the same (partition_seed, seed)."""

    sides: tuple[str, ...]
    rows: tuple[tuple[dict[str, Any], ...], ...]  # [pairs][sides], rows of schema MEASURES
    unmatched: tuple[Unmatched, ...]


def interval(values: np.ndarray, partition_seeds: np.ndarray, bounds: tuple[float, float] | None = None) -> Estimate:
    """The typical value over partitions (of their means over training seeds) and its 95 % interval.

    From FEWEST partitions on: the Hodges-Lehmann estimate, the median of the means of all two partitions, with the
    exact signed-rank interval (Hollander, Wolfe & Chicken, 2014, section 3.3). With fewer: the mean with Student's t
    interval. With one: no interval.
    Measured coverage of that median (4,000 simulations each, standard error 0.3 %) and in brackets that of the mean by
    Student's t, in %:
      partitions                          6        8        12       20
      normal                              97 (95)  96 (95)  96 (95)  95 (95)
      lognormal(0.6)                      96 (91)  96 (92)  94 (92)  95 (93)
      0.2 +- 0.05, one in five 0.85       96 (73)  95 (82)  96 (94)  94 (92)
    The last is a gap where one partition in five has an all-wrong client of a few rows. The price: a mean that such
    partitions make is not covered (there 74 to 82 %), it is a column of its own.

    Args:
      values: f[N], one a run, NaN where it has none; partition_seeds: i[N]. Runs of one partition differ in their
        training seed.
      bounds: between which values lie. A run without one then counts with the lower bound for `low` and with the upper
        one for `high`; without bounds there is no interval then.
    """
    values, clusters = np.asarray(values, np.float64), np.asarray(partition_seeds)
    known = np.isfinite(values)
    partitions, missing = len(np.unique(clusters)), int((~known).sum())
    if not known.any() or (missing and (bounds is None or partitions < FEWEST)):
        told = f"{missing} of {len(values)} runs have no accuracy" if missing else "no runs"
        return Estimate(_NAN, _NAN, _NAN, len(values), told, partitions)
    if missing and bounds:
        low, high = (interval(np.where(known, values, bound), clusters) for bound in bounds)
        means = _partition_means(values[known], clusters[known])
        return low._replace(value=float(np.median(_averages(means))), high=high.high, mean=float(means.mean()))
    means = _partition_means(values, clusters)
    if partitions == 1:
        told = "one partition seed: how results vary between partitions is unknown; add partition seeds"
        return Estimate(float(means[0]), _NAN, _NAN, len(values), told, 1, mean=float(means[0]))
    method, estimate = ("t", _student_t) if partitions < FEWEST else ("signed-rank", _signed_rank)
    return Estimate(*estimate(means), len(values), "", partitions, method, float(means.mean()))


def possible(estimate: Estimate, bounds: tuple[float, float] = (0.0, 1.0)) -> Estimate:
    """The interval without what lies outside `bounds`; by default those of an accuracy or a gap."""
    return estimate._replace(low=float(np.clip(estimate.low, *bounds)), high=float(np.clip(estimate.high, *bounds)))


def _partition_means(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    means = [values[clusters == cluster].mean() for cluster in np.unique(clusters)]
    return np.array(means).round(_DECIMALS)


def _student_t(means: np.ndarray) -> tuple[float, float, float]:
    """Mean, low and high, exact for normal partition means."""
    mean = means.mean()
    half = stdtrit(len(means) - 1, (1 + LEVEL) / 2) * means.std(ddof=1) / len(means) ** 0.5
    return float(mean), float(mean - half), float(mean + half)


def _signed_rank(means: np.ndarray) -> tuple[float, float, float]:
    """Median of the means of all two partitions, and the two of these that its exact interval ends at."""
    averages, end = _averages(means), _end(len(means))
    return float(np.median(averages)), float(averages[end - 1]), float(averages[-end])


@cache
def _end(count: int) -> int:
    """At which of the ordered averages of `count` partitions the interval ends, from either side."""
    return int(np.searchsorted(_sums(np.arange(1, count + 1)).cumsum(), (1 - LEVEL) / 2, side="right"))


def _averages(means: np.ndarray) -> np.ndarray:
    """The means of all two partitions and of each with itself, in order."""
    first, second = np.triu_indices(len(means))
    return np.sort((means[first] + means[second]) / 2)


def _sums(ranks: np.ndarray) -> np.ndarray:
    """f64[sum + 1]: the probability of every sum of the ranks that fair coins choose. Exact up to 52 of them."""
    chances = np.ones(1)
    for rank in ranks:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    return chances


def sign_flip(
    values: np.ndarray, partition_seeds: np.ndarray, center: float = 0.0, bounds: tuple[float, float] = (-1.0, 1.0)
) -> float:
    """Exact two-sided p that the values lie around `center`: all 2^n signs of the partitions' ranks, n >= 1.

    The signed-rank test as a sign-flip test (ties share ranks, a partition at the center has no sign), so that p
    and the interval of `interval` rest on the same distribution. NaN without values.

    Args:
      bounds: what a run without a value counts as, whichever makes p larger.
    """
    values, clusters = np.asarray(values, np.float64), np.asarray(partition_seeds)
    if not np.isfinite(values).any():
        return _NAN
    filled = [np.where(np.isfinite(values), values, bound) for bound in bounds]
    return max(_sign_flip(_partition_means(each, clusters) - center) for each in filled)


def _sign_flip(differences: np.ndarray) -> float:
    differences = differences.round(_DECIMALS)
    ranks = (2 * rankdata(np.abs(differences))).astype(np.int64)  # twice, since tied ones may end in a half
    chances = _sums(ranks[differences != 0])
    positive = int(ranks[differences > 0].sum())
    return float(min(1.0, 2 * min(chances[: positive + 1].sum(), chances[positive:].sum())))


def holm(ps: Sequence[float]) -> list[float]:
    """Every p after Holm's correction for all of them that are numbers (Holm, 1979); NaN stays and counts nowhere."""
    order = sorted((p, place) for place, p in enumerate(ps) if np.isfinite(p))
    adjusted, largest = [_NAN] * len(ps), 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted


def match(sides: Mapping[str, pa.Table], varying: Collection[str] = ("model", "rule")) -> Pairs:
    """The runs of two or more sides by their (partition_seed, seed).

    Args:
      sides: name -> `pick`ed rows of one setting.
      varying: the columns of SETTING in which the sides may differ.

    Raises:
      InputError: an empty side, a side of several settings, sides that differ in another column than `varying`,
        or two rows of a side with the same seeds.
    """
    settings = {name: _setting(name, table) for name, table in sides.items()}
    (first, expected), *others = settings.items()
    for name in set(SETTING) - set(varying):
        for other, setting in others:
            if setting[name] != expected[name]:
                raise InputError(
                    f"sides {first} and {other} differ in {name} ({expected[name]!r} and {setting[name]!r}); compare "
                    f"runs of one {name}, or name it in `varying` where the difference is meant"
                )
    found = {name: _by_seeds(name, table) for name, table in sides.items()}
    common = sorted(set.intersection(*(set(runs) for runs in found.values())))
    unmatched = (Unmatched(name, *seeds) for name, runs in found.items() for seeds in sorted(runs.keys() - common))
    rows = tuple(tuple(runs[seeds] for runs in found.values()) for seeds in common)
    return Pairs(tuple(sides), rows, tuple(unmatched))


def contrast(pairs: Pairs, measure: str, weights: Sequence[float], center: float = 0.0) -> tuple[Estimate, float]:
    """The weighted sum of the sides' measures over partitions, within what it can be, and its `sign_flip` p.

    Args:
      weights: one a side, of sum 0; (1, -1) is a difference.
      center: what p tests.

    Raises:
      InputError: an unknown measure.
    """
    sums = _values(pairs, measure) @ np.asarray(weights)
    partitions, reach = _partitions(pairs), float(np.clip(weights, 0, None).sum())
    bounds = -reach, reach
    return possible(interval(sums, partitions, bounds), bounds), sign_flip(sums, partitions, center, bounds)


def by_side(pairs: Pairs, measure: str) -> list[Estimate]:
    """Every side over the pairs alone."""
    return [possible(interval(values, _partitions(pairs))) for values in _values(pairs, measure).T]


def _values(pairs: Pairs, measure: str) -> np.ndarray:
    """f64[pairs, sides]"""
    if measure.removeprefix(FLOORED) not in Summary._fields[:-1]:
        raise InputError(f"measure must be one of {', '.join(Summary._fields[:-1])} (got {measure!r})")
    return np.array([[row[measure] for row in rows] for rows in pairs.rows]).reshape(-1, len(pairs.sides))


def _partitions(pairs: Pairs) -> np.ndarray:
    return np.array([rows[0]["partition_seed"] for rows in pairs.rows], np.int64)


def is_same(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the sides of a pair are one run."""
    first = rows[0]
    return first["run"] != "" and all(row[name] == first[name] for row in rows for name in ("run", "round", "protocol"))


def _setting(side: str, table: pa.Table) -> dict[str, Any]:
    """The one value of each column of SETTING."""
    require(table, MEASURES.names)
    found = {name: table[name].unique().to_pylist() for name in SETTING}
    if not len(table):
        raise InputError(f"side {side} of the comparison holds no run; check the selection")
    for name, values in found.items():
        if len(values) > 1:
            raise InputError(f"side {side} mixes {name} {values}; compare runs of one {name} at a time")
    return {name: values[0] for name, values in found.items()}


def _by_seeds(side: str, table: pa.Table) -> dict[tuple[int, int], dict[str, Any]]:
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for row in table.to_pylist():
        twin = found.setdefault((row["partition_seed"], row["seed"]), row)
        if twin is not row:
            raise InputError(
                f"side {side} has two rows for partition_seed {row['partition_seed']}, seed {row['seed']}: cell "
                f"{twin['cell']!r}, round {twin['round']}, and cell {row['cell']!r}, round {row['round']}; pick "
                "one round, and select one cell"
            )
    return found
