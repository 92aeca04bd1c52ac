"""How a client's accuracy is computed: five sums over one set of per-row predictions.

A protocol maps one cell's `View` to (correct f64[K], total i64[K]); accuracy is correct / total, and
total 0 means that the protocol defines no accuracy for that client. NumPy only.
"""

from collections.abc import Callable, Sequence
from math import fsum
from typing import NamedTuple

import numpy as np

Counts = tuple[np.ndarray, np.ndarray]


class View(NamedTuple):
    """What a protocol may look at: one cell, one global model."""

    train_correct: np.ndarray  # bool[N], the model's per-row correctness; False where not predicted
    test_correct: np.ndarray  # bool[M]
    train_labels: np.ndarray  # i[N]
    test_labels: np.ndarray  # i[M]
    train_rows: Sequence[np.ndarray]  # K arrays, rows that each client trains on
    holdout_rows: Sequence[np.ndarray]  # K arrays, train rows kept out of training
    num_classes: int


class Protocol(NamedTuple):
    """A protocol and which train rows it reads: "train", "holdout" or neither (test rows always exist)."""

    counts: Callable[[View], Counts]
    reads: tuple[str, ...] = ()


def train_rows(view: View) -> Counts:
    """The client's own training rows: the published TextCNN column."""
    return _over_rows(view.train_correct, view.train_rows)


def holdout(view: View) -> Counts:
    """The client's own rows that were kept out of training."""
    return _over_rows(view.train_correct, view.holdout_rows)


def label_filtered(view: View) -> Counts:
    """Test rows whose class occurs among the client's train rows: the published DistilBERT column."""
    held = _class_shares(view) > 0
    correct, total = _per_class(view)
    return held @ correct, (held @ total).astype(np.int64)


def label_matched(view: View) -> Counts:
    """Test rows reweighted to the client's class distribution: accuracy = sum_c p_k(c) * recall(c).

    Classes without test rows are left out and p_k is renormalised; `total` counts the test rows of the
    client's classes, and `correct` = accuracy * total is fractional.
    """
    correct, total = _per_class(view)
    shares = _class_shares(view) * (total > 0)
    recall = correct / np.maximum(total, 1)
    # Rounded once: a matrix product rounds otherwise on other machines, and for clients that mix classes alike.
    mass, hit = (np.array([fsum(row) for row in terms]) for terms in (shares, shares * recall))
    rows = (shares > 0) @ total
    return rows * hit / np.where(mass > 0, mass, 1.0), rows.astype(np.int64)


def global_(view: View) -> Counts:
    """All test rows, the same for every client."""
    clients = len(view.train_rows)
    return np.full(clients, float(view.test_correct.sum())), np.full(clients, len(view.test_correct))


PROTOCOLS: dict[str, Protocol] = {
    "train_rows": Protocol(train_rows, ("train",)),
    "label_filtered": Protocol(label_filtered),
    "label_matched": Protocol(label_matched),
    "holdout": Protocol(holdout, ("holdout",)),
    "global": Protocol(global_),
}


def _over_rows(correct: np.ndarray, clients: Sequence[np.ndarray]) -> Counts:
    return (
        np.array([correct[rows].sum() for rows in clients], np.float64),
        np.array([len(rows) for rows in clients], np.int64),
    )


def _per_class(view: View) -> tuple[np.ndarray, np.ndarray]:
    """f64[C] correct and total test rows of each class."""
    total = np.bincount(view.test_labels, minlength=view.num_classes).astype(np.float64)
    return np.bincount(view.test_labels, view.test_correct, view.num_classes), total


def _class_shares(view: View) -> np.ndarray:
    """f64[K, C], each client's class distribution over its train rows; zeros for a client without rows."""
    counts = np.stack([np.bincount(view.train_labels[rows], minlength=view.num_classes) for rows in view.train_rows])
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
