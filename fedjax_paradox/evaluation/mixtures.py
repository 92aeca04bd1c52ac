"""Every protocol as a mixture of recalls: accuracy of client k = sum over classes of m_k(c) * recall(c).

The mixtures follow from class counts, so they decide before any training whose accuracies are bound to be
equal and how much of a gap sampling noise makes. NumPy only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

DRAWS = 10_000


class Setting(NamedTuple):
    """What is known before training. Axes: K clients, C classes."""

    train: np.ndarray  # i[K, C], train rows
    holdout: np.ndarray  # i[K, C], rows kept out of training
    test: np.ndarray  # i[C], rows of the official test split
    available: np.ndarray  # bool[K], may take part in training
    scored: np.ndarray  # bool[K]


class Evaluation(NamedTuple):
    """One protocol: the accuracy of client k is `mixture[k] @ recall`. Zero where it has no accuracy."""

    rows: np.ndarray  # i[K, C], evaluation rows
    mixture: np.ndarray  # f64[K, C], sums to 1 over the classes
    common: bool  # the rows come from the test split, the same for all; else each client has its own


def effective_classes(counts: np.ndarray) -> np.ndarray:
    """f64[K]: exp of the entropy of each client's class distribution; 0 for an empty client.

    Args:
      counts: i[K, C].
    """
    shares = _normalised(counts)
    entropy = -np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=1)
    return np.where(counts.sum(axis=1) > 0, np.exp(entropy), 0.0)


def _filtered_rows(setting: Setting) -> np.ndarray:
    return (setting.train > 0) * setting.test


def _global_rows(setting: Setting) -> np.ndarray:
    return setting.train.any(axis=1, keepdims=True) * setting.test


# Clients without train rows have no accuracy here, as they are left out of every average in a report.
EVALUATIONS: dict[str, Callable[[Setting], Evaluation]] = {
    "train_rows": lambda s: Evaluation(s.train, _normalised(s.train), False),
    "holdout": lambda s: Evaluation(s.holdout, _normalised(s.holdout), False),
    "label_filtered": lambda s: Evaluation(_filtered_rows(s), _normalised(_filtered_rows(s)), True),
    "label_matched": lambda s: Evaluation(_filtered_rows(s), _normalised(s.train * (s.test > 0)), True),
    "global": lambda s: Evaluation(_global_rows(s), _normalised(_global_rows(s)), True),
}


def evaluated(protocol: str, setting: Setting) -> Evaluation:
    """What a protocol of `EVALUATIONS` gives those who are scored."""
    every = EVALUATIONS[protocol](setting)
    own = setting.scored[:, None]
    return every._replace(rows=every.rows * own, mixture=every.mixture * own)


def effective_rows(evaluation: Evaluation) -> np.ndarray:
    """f64[K]: rows of a plain average whose accuracy is as uncertain as the client's; 0 where undefined.

    The variance of sum_c m_c recall_c at equal recalls p is p (1 - p) sum_c m_c^2 / rows_c.
    """
    variance = np.sum(evaluation.mixture**2 / np.maximum(evaluation.rows, 1), axis=1)
    return np.divide(1.0, variance, out=np.zeros(len(variance)), where=variance > 0)


def equal_accuracy(evaluation: Evaluation) -> list[np.ndarray]:
    """Clients that have an accuracy, grouped: within a group it is equal whatever the model. Largest first."""
    return _groups(evaluation, evaluation.mixture)


def equal_rows(evaluation: Evaluation) -> list[np.ndarray]:
    """Clients that have an accuracy, grouped by the set of rows they are scored on. Largest first."""
    return _groups(evaluation, evaluation.rows)


def defined(evaluation: Evaluation) -> np.ndarray:
    """bool[K]: the client has an accuracy."""
    return np.asarray(evaluation.rows.any(axis=1))


def noise_gap(evaluation: Evaluation, accuracy: float = 0.9) -> tuple[float, float]:
    """(mean, 95 % quantile) of the gap if the model served every client and class equally well.

    Each distinct evaluation row is right with probability `accuracy`, independently; clients that share rows
    share the outcome. Monte Carlo with a fixed seed; the gap is mean - min over clients, in [0, 1].
    """
    clients = np.flatnonzero(defined(evaluation))
    generator = np.random.default_rng(0)
    if evaluation.common:
        sizes = evaluation.rows.max(axis=0)
        recall = generator.binomial(sizes, accuracy, (DRAWS, len(sizes))) / np.maximum(sizes, 1)
        accuracies = np.zeros((DRAWS, len(clients)))
        # Class by class: a matrix product rounds otherwise on other machines.
        for column, share in zip(recall.T, evaluation.mixture[clients].T, strict=True):
            accuracies += column[:, None] * share
    else:
        sizes = evaluation.rows[clients].sum(axis=1)
        accuracies = generator.binomial(sizes, accuracy, (DRAWS, len(sizes))) / sizes
    gaps = accuracies.mean(axis=1) - accuracies.min(axis=1)
    return float(gaps.mean()), float(np.quantile(gaps, 0.95))


def _groups(evaluation: Evaluation, by: np.ndarray) -> list[np.ndarray]:
    groups: dict[Any, list[int]] = {}
    for client in np.flatnonzero(defined(evaluation)):
        groups.setdefault(by[client].tobytes() if evaluation.common else client, []).append(int(client))
    return sorted(map(np.array, groups.values()), key=len, reverse=True)


def _normalised(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
