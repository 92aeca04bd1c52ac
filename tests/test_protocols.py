"""Hand-made predictions, counted by hand."""

from fractions import Fraction

import numpy as np
import pytest

from fedjax_paradox.evaluation.fairness import summarise
from fedjax_paradox.evaluation.protocols import PROTOCOLS, View

# Train rows 0..9; test: two rows of class 0 (one right), four of class 1 (all right), two of class 2 (none right).
VIEW = View(
    train_correct=np.array([1, 1, 0, 0, 1, 0, 1, 1, 0, 0], bool),
    test_correct=np.array([1, 0, 1, 1, 1, 1, 0, 0], bool),
    train_labels=np.array([0, 0, 0, 1, 1, 1, 2, 2, 0, 1]),
    test_labels=np.array([0, 0, 1, 1, 1, 1, 2, 2]),
    train_rows=[np.array([0, 1, 2, 3]), np.array([4, 5]), np.array([], int), np.array([6])],
    holdout_rows=[np.array([8]), np.array([9]), np.array([], int), np.array([7])],
    num_classes=3,
)


@pytest.mark.parametrize(
    ("name", "correct", "total"),
    [
        ("train_rows", [2, 1, 0, 1], [4, 2, 0, 1]),
        ("holdout", [0, 0, 0, 1], [1, 1, 0, 1]),
        ("label_filtered", [5, 4, 0, 0], [6, 4, 0, 2]),
        # client 0: 3/4 class 0 (recall 1/2) + 1/4 class 1 (recall 1) = 0.625 of 6 rows
        ("label_matched", [3.75, 4, 0, 0], [6, 4, 0, 2]),
        ("global", [5, 5, 5, 5], [8, 8, 8, 8]),
    ],
)
def test_counts_by_hand(name, correct, total):
    got = PROTOCOLS[name].counts(VIEW)
    assert got[0].tolist() == correct  # exact: sums of halves and quarters
    assert got[1].tolist() == total


def test_a_class_without_test_rows_is_left_out():
    view = VIEW._replace(test_correct=np.array([1, 0], bool), test_labels=np.array([0, 0]))
    correct, total = PROTOCOLS["label_matched"].counts(view)
    assert correct.tolist() == [1, 0, 0, 0]  # client 0 is scored on class 0 alone: 2 * 1/2
    assert total.tolist() == [2, 0, 0, 0]


def test_matched_equals_filtered_where_test_and_client_mix_classes_alike():
    labels = np.repeat([0, 1, 2], 20)
    right = np.random.default_rng(0).random(60) < 0.6
    view = View(right, right, labels, labels, [np.arange(60)], [np.array([], int)], 3)
    values = {
        name: PROTOCOLS[name].counts(view) for name in ("label_matched", "label_filtered", "global", "train_rows")
    }
    for correct, total in values.values():
        assert correct / total == pytest.approx(right.mean(), abs=1e-12)  # a few float64 roundings


def test_summary_by_hand():
    # accuracies 1/4, 3/4, 1; one undefined
    summary = summarise(np.array([1, 3, 4, 0]), np.array([4, 4, 4, 0]))
    assert summary.average == pytest.approx(2 / 3)
    assert (summary.worst, summary.worst_client) == (0.25, 0)
    assert summary.gap == pytest.approx(2 / 3 - 1 / 4)
    assert summary.best_minus_worst == 0.75
    assert summary.std == pytest.approx(np.std([0.25, 0.75, 1.0]))
    assert summary.bottom_10 == 0.25
    # Gini by its definition: mean absolute difference over all pairs / (2 * mean)
    values = np.array([0.25, 0.75, 1.0])
    assert summary.gini == pytest.approx(np.abs(values[:, None] - values).mean() / (2 * values.mean()))
    assert summary.jain == pytest.approx(values.sum() ** 2 / (3 * (values**2).sum()))


def test_bottom_tenth_of_any_number_of_clients():
    for clients, lowest in ((1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (25, 3)):
        summary = summarise(np.arange(clients, dtype=float), np.full(clients, 100))
        assert summary.bottom_10 == pytest.approx(np.mean(np.arange(lowest)) / 100)


def test_equal_and_extreme_clients():
    equal, zero = summarise(np.full(5, 3.0), np.full(5, 4)), summarise(np.zeros(5), np.full(5, 4))
    for summary in (equal, zero):
        assert (summary.gap, summary.gini, summary.jain) == (0.0, pytest.approx(0.0), pytest.approx(1.0))
    rounded = summarise(np.array([3.0, np.nextafter(3.0, 4.0)]), np.array([3, 3]))
    assert (rounded.average, rounded.worst, rounded.std) == (1.0, 1.0, 0.0)
    one = summarise(np.array([4.0, 0, 0, 0]), np.full(4, 4))
    assert (one.gini, one.jain) == (pytest.approx(0.75), pytest.approx(0.25))


@pytest.mark.parametrize("clients", [2, 3, 7, 10, 49])
def test_equal_clients_are_equal_to_the_last_bit(clients):
    """Or a worst client is printed above the average, and Gini as -0.000."""
    for right in range(1, 173):
        summary = summarise(np.full(clients, float(right)), np.full(clients, 173))
        accuracy = right / 173
        assert summary[:-1] == (accuracy, accuracy, 0, 0, 0, accuracy, 0, 1)
        assert not np.signbit(summary.gini)


def test_measures_are_those_of_exact_arithmetic():
    """Against fractions: within the roundings of the last division, on any machine."""
    generator = np.random.default_rng(0)
    for clients in (2, 5, 10, 33):
        right, rows = generator.integers(0, 40, clients), generator.integers(40, 60, clients)
        values = sorted(Fraction(float(a / b)) for a, b in zip(right, rows, strict=True))
        whole = sum(values)
        pairs = sum((2 * i - clients + 1) * value for i, value in enumerate(values))
        summary = summarise(right.astype(float), rows)
        assert summary.average == float(whole) / clients
        assert summary.gini == pytest.approx(float(pairs / (clients * whole)), rel=4e-16)
        squares = sum((value - whole / clients) ** 2 for value in values) / clients
        assert summary.std**2 == pytest.approx(float(squares), rel=2e-15)  # the mean's own rounding squared
        wanted = whole**2 / (clients * sum(value**2 for value in values))
        assert summary.jain == pytest.approx(float(wanted), rel=1e-15)
        assert summary.worst <= summary.bottom_10 <= summary.average


@pytest.mark.parametrize("clients", [3, 8, 17, 40])
def test_clients_that_mix_classes_alike_are_matched_alike(clients):
    """To the last bit: who comes last in the list is scored like the others, as exact sums rounded once say."""
    generator = np.random.default_rng(clients)
    for classes in (3, 7, 13):
        labels = np.tile(np.arange(classes).repeat(np.arange(1, classes + 1)), clients)
        test = np.repeat(np.arange(classes), 11)
        right = generator.random(len(test)) < 0.6
        rows = np.split(np.arange(len(labels)), clients)
        view = View(np.zeros(len(labels), bool), right, labels, test, rows, [np.arange(0)] * clients, classes)
        correct, total = PROTOCOLS["label_matched"].counts(view)
        count = classes * (classes + 1) // 2
        terms = [(c + 1) / count * (right[test == c].sum() / 11) for c in range(classes)]
        mass = float(sum(Fraction((c + 1) / count) for c in range(classes)))
        wanted = total[0] * float(sum(map(Fraction, terms))) / mass
        assert set(correct.tolist()) == {wanted}


def test_nobody_has_an_accuracy():
    summary = summarise(np.zeros(3), np.zeros(3, int))
    assert np.isnan(summary.gap)
    assert summary.worst_client == -1
