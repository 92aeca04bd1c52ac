"""Estimates and intervals over partitions and training seeds, from measures of runs alone.

Accuracies, gaps and their differences are in [0, 1]. The random effects are nested: a partition has its own
effect, and training seeds differ within it. Where the same few seeds serve all partitions and a seed acts alike
on all of them, intervals are too narrow (see `interval`).
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.special import stdtr, stdtrit

from fedjax_paradox.analysis.runs import FLOORED, MEASURES, require
from fedjax_paradox.errors import InputError
from fedjax_paradox.evaluation.fairness import Summary

# One value of each on a side of a comparison.
SETTING = ("corpus", "model", "rule", "alpha", "num_clients", "protocol")
LEVEL = 0.95
RESAMPLES = 9_999
BOOTSTRAP_FROM = 8  # distinct partition means; with fewer, resampling them cannot show how they spread

_NAN = float("nan")


class Estimate(NamedTuple):
    """A mean with its 95 % interval; low and high are NaN where `reason` says why there is none."""

    mean: float
    low: float
    high: float
    runs: int
    reason: str = ""
    partitions: int = 0
    method: str = ""  # "t" or "bootstrap-t", "" without an interval


class Unmatched(NamedTuple):
    """A run of side "a" or "b" whose seeds the other side lacks."""

    side: str
    partition_seed: int
    seed: int


class Paired(NamedTuple):
    """a - b over the runs with the same seeds; `a` and `b` are over those runs alone."""

    difference: Estimate
    a: Estimate
    b: Estimate
    flip: float  # confidence that the true difference has the other sign; NaN without an interval
    unmatched: tuple[Unmatched, ...]
    same: int = 0  # pairs whose two sides are one run by construction
    differences: tuple[float, ...] = ()  # of each partition, the mean over its training seeds


def interval(values: np.ndarray, partition_seeds: np.ndarray, resamples: int = RESAMPLES) -> Estimate:
    """Mean over partitions (of their means over training seeds) and its 95 % interval.

    From BOOTSTRAP_FROM distinct partition means on: hierarchical bootstrap-t, partitions and the runs within each
    resampled. With fewer: Student's t over the partition means. With one partition: no interval.
    Measured coverage (4,000 simulations each, standard error 0.3 %; partition and training effects, 1 or 3 seeds a
    partition), in %:
      partitions        3          5          10         20
      normal            95.2-95.4  94.9-95.0  94.4-94.8  94.7-95.1
      beta(2, 6)        93.6-94.8  93.4-95.6  94.0-95.6  94.7-95.2
      lognormal(0.6)    91.7-94.8  90.3-95.1  92.8-94.6  93.2-94.2
    If 2 seeds serve all partitions and act alike on them, with 0.3 (0.5) of the partitions' standard deviation, it
    is 93 (90) with 5 partitions and 87 (73) with 20, since more partitions do not average a seed out.

    Args:
      values: f[N], one a run; partition_seeds: i[N]. Runs of one partition differ in their training seed.
    """
    return _interval(np.asarray(values, np.float64), np.asarray(partition_seeds), resamples)[0]


def possible(estimate: Estimate) -> Estimate:
    """The interval of an accuracy or a gap, which lie in [0, 1], without what lies outside."""
    return estimate._replace(low=float(np.clip(estimate.low, 0, 1)), high=float(np.clip(estimate.high, 0, 1)))


def _interval(values: np.ndarray, clusters: np.ndarray, resamples: int) -> tuple[Estimate, float]:
    """The estimate, and the confidence that the true mean has the other sign than the estimated one."""
    undefined = int((~np.isfinite(values)).sum())
    if undefined or not len(values):
        told = f"{undefined} of {len(values)} runs have no accuracy" if undefined else "no runs"
        return Estimate(_NAN, _NAN, _NAN, len(values), told, len(np.unique(clusters))), _NAN
    groups = [values[clusters == cluster] for cluster in np.unique(clusters)]
    means = np.array([group.mean() for group in groups])
    mean, count = float(means.mean()), len(means)
    if count == 1:
        told = "one partition seed: how results vary between partitions is unknown; add partition seeds"
        return Estimate(mean, _NAN, _NAN, len(values), told, 1), _NAN
    bootstrap = len(np.unique(means)) >= BOOTSTRAP_FROM
    low, high, flip = _bootstrap_t(groups, resamples) if bootstrap else _student_t(means)
    method = "bootstrap-t" if bootstrap else "t"
    return Estimate(mean, low, high, len(values), "", count, method), flip


def _student_t(means: np.ndarray) -> tuple[float, float, float]:
    """Low, high and confidence in the other sign, from the partition means alone (exact for normal ones)."""
    mean, freedom, error = means.mean(), len(means) - 1, _standard_error(means)
    if error == 0:
        return float(mean), float(mean), 0.0 if mean else 0.5
    half = stdtrit(freedom, (1 + LEVEL) / 2) * error
    return float(mean - half), float(mean + half), float(stdtr(freedom, -abs(mean) / error))


def _bootstrap_t(groups: Sequence[np.ndarray], resamples: int) -> tuple[float, float, float]:
    """Low, high and confidence in the other sign: partitions are resampled, then the runs within each.

    Studentised by the standard error of each resample (Davison & Hinkley, 1997, section 5.2.1): percentiles of
    the resampled means would be too narrow. Always the same random numbers.
    """
    means = np.array([group.mean() for group in groups])
    mean = means.mean()
    drawn = _resampled_means(groups, resamples)
    errors = _standard_error(drawn)
    kept = errors > 0  # a resample of one partition alone has no spread
    ratios = (drawn.mean(axis=1)[kept] - mean) / errors[kept]
    draws = mean - _standard_error(means) * ratios
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high), float((draws * np.sign(mean) < 0).mean())


def _resampled_means(groups: Sequence[np.ndarray], resamples: int) -> np.ndarray:
    """f64[resamples, partitions]: means of resampled runs of resampled partitions."""
    random = np.random.default_rng(0)
    sizes = np.array([len(group) for group in groups])
    padded = np.zeros((len(groups), sizes.max()))
    for row, group in zip(padded, groups, strict=True):
        row[: len(group)] = group
    chosen = random.integers(len(groups), size=(resamples, len(groups)))[..., None]
    size = sizes[chosen]
    runs = (random.random((resamples, len(groups), sizes.max())) * size).astype(np.int64)
    counted = np.arange(sizes.max()) < size
    return (padded[chosen, runs] * counted).sum(axis=2) / size[..., 0]


def _standard_error(means: np.ndarray) -> Any:
    """Of the mean of f64[..., partitions], over the last axis; 0 where rounding alone tells them apart."""
    spread = means.std(axis=-1, ddof=1)
    return np.where(spread > 1e-12, spread, 0.0) / means.shape[-1] ** 0.5


def paired(a: pa.Table, b: pa.Table, measure: str = "gap", varying: Collection[str] = ("model", "rule")) -> Paired:
    """Difference a - b of a measure over runs with the same (partition_seed, seed).

    Args:
      a, b: `pick`ed rows of one setting each.
      varying: the columns of SETTING in which a and b may differ.

    Raises:
      InputError: an unknown measure, an empty side, a side of several settings, sides that differ in another
        column than `varying`, or two rows of a side with the same seeds.
    """
    if measure.removeprefix(FLOORED) not in Summary._fields[:-1]:
        raise InputError(f"measure must be one of {', '.join(Summary._fields[:-1])} (got {measure!r})")
    settings = {side: _setting(side, table) for side, table in (("a", a), ("b", b))}
    for name in set(SETTING) - set(varying):
        if settings["a"][name] != settings["b"][name]:
            raise InputError(
                f"sides a and b differ in {name} ({settings['a'][name]!r} and {settings['b'][name]!r}); compare "
                f"runs of one {name}, or name it in `varying` where the difference is meant"
            )
    of_a, of_b = _by_seeds("a", a), _by_seeds("b", b)
    common = sorted(of_a.keys() & of_b.keys())
    unmatched = [Unmatched("a", *seeds) for seeds in sorted(of_a.keys() - of_b.keys())]
    unmatched += [Unmatched("b", *seeds) for seeds in sorted(of_b.keys() - of_a.keys())]
    values = np.array([(of_a[seeds][measure], of_b[seeds][measure]) for seeds in common]).reshape(-1, 2)
    same = sum(_is_same(of_a[seeds], of_b[seeds]) for seeds in common)
    partitions = np.array([partition for partition, _ in common], np.int64)
    differences = values[:, 0] - values[:, 1]
    difference, flip = _interval(differences, partitions, RESAMPLES)
    mean_a, mean_b = (possible(interval(side, partitions)) for side in values.T)
    means = tuple(float(differences[partitions == one].mean()) for one in np.unique(partitions))
    return Paired(difference, mean_a, mean_b, flip, tuple(unmatched), same, means)


EXACT_UP_TO = 16  # partitions, of which 65,536 choices of signs can be counted


def sign_flip(differences: Sequence[float], expected: float = 0.0) -> float:
    """Two-sided p of the partitions' mean difference being `expected`, each being as likely above as below it.

    All 2^n choices of signs, or from EXACT_UP_TO partitions on 99,999 of them at random, always the same ones, and the
    one that was observed (Fisher, 1935, sec. 21). With n partitions it is never below 2 / 2^n: 0.03 with six. NaN where
    a difference has no number.
    """
    values = np.asarray(differences, np.float64) - expected
    if not len(values) or not np.isfinite(values).all():
        return _NAN
    count = len(values)
    if count <= EXACT_UP_TO:
        signs = 1.0 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        drawn = np.random.default_rng(0).integers(0, 2, (RESAMPLES * 10 + 9, count))
        signs = np.concatenate([np.ones((1, count)), 1.0 - 2.0 * drawn])
    means = np.abs(signs @ values)
    return float((means >= abs(values.sum()) * (1 - 1e-12)).mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted for several tests (Holm, 1979), in the order given; NaN stays NaN and counts for none."""
    known = sorted((p, place) for place, p in enumerate(p_values) if p == p)
    adjusted, largest = [_NAN] * len(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = largest
    return adjusted


def _is_same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a["run"] != "" and all(a[name] == b[name] for name in ("run", "round", "protocol"))


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
