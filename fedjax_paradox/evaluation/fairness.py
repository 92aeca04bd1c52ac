"""How unequally a model serves its clients: spread measures of per-client accuracies. NumPy only.

Sums are rounded once (`math.fsum`), so that a measure has the same bits on every machine.
"""

from collections.abc import Iterable
from math import fsum, sqrt
from typing import NamedTuple

import numpy as np


class Summary(NamedTuple):
    """Accuracies in [0, 1]; measures are NaN where no client has an accuracy."""

    average: float  # mean over clients, each counting once
    worst: float
    gap: float  # average - worst, the published measure
    best_minus_worst: float
    std: float  # population standard deviation
    bottom_10: float  # mean of the ceil(K / 10) lowest accuracies
    gini: float  # 0 = equal, towards 1 = one client has it all
    jain: float  # 1 = equal, 1 / K = one client has it all
    worst_client: int  # lowest index among the worst; -1 where no client has an accuracy


def summarise(correct: np.ndarray, total: np.ndarray) -> Summary:
    """Spread of correct / total over the clients with total > 0.

    Args:
      correct: f[K]; total: i[K], as a protocol returns them.

    Sources: gap, arXiv:2605.08992; Gini, mean absolute difference over twice the mean; Jain et al., 1984,
    (sum x)^2 / (K sum x^2). Where every accuracy is 0 all are equal: Gini 0, Jain 1.
    """
    clients = np.flatnonzero(total > 0)
    if len(clients) == 0:
        nan = float("nan")
        return Summary(nan, nan, nan, nan, nan, nan, nan, nan, -1)
    # A sum of weighted recalls may pass the total by rounding, and a share above 1 is none.
    accuracy = np.minimum(correct[clients] / total[clients], 1.0)
    ordered = np.sort(accuracy)
    count, mean, worst = len(ordered), average(ordered), float(ordered[0])
    variance, positive = fsum((ordered - mean) ** 2) / count, bool(ordered[-1] > 0)
    ranks = 2 * np.arange(1, count + 1) - count - 1
    return Summary(
        average=mean,
        worst=worst,
        gap=mean - worst,
        best_minus_worst=float(ordered[-1]) - worst,
        std=sqrt(variance),
        bottom_10=average(ordered[: -(-count // 10)]),
        gini=fsum(ranks * ordered) / (count * fsum(ordered)) if positive else 0.0,
        jain=mean**2 / (mean**2 + variance) if positive else 1.0,
        worst_client=int(clients[np.argmin(accuracy)]),
    )


def average(values: Iterable[float]) -> float:
    """The mean, never outside the values: that of equal numbers is that number. NaN where one of them is."""
    numbers = [float(value) for value in values]
    return min(max(fsum(numbers) / len(numbers), min(numbers)), max(numbers))
