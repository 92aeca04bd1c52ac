import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_paradox.data.partition import (
    class_counts,
    dirichlet_partition,
    iid_partition,
    repair_minimum,
    shard_partition,
    split_holdout,
)
from fedjax_paradox.errors import InputError

AG_NEWS = np.repeat(np.arange(4), 30_000)


# Published: smallest and largest client of AG News, 10 clients, seed 42 (arXiv:2605.08992).
@pytest.mark.parametrize(
    ("alpha", "smallest", "largest"),
    [(0.1, 118, 34_742), (0.5, 3_807, 27_178), (1.0, 3_830, 30_844), (5.0, 6_522, 16_291)],
)
def test_published_client_sizes(alpha, smallest, largest):
    sizes = [len(rows) for rows in dirichlet_partition(AG_NEWS, 10, alpha, 42)]
    assert (min(sizes), max(sizes)) == (smallest, largest)


def test_published_class_structure_at_alpha_01():
    counts = class_counts(dirichlet_partition(AG_NEWS, 10, 0.1, 42), AG_NEWS, 4)
    assert counts[3].tolist() == [0, 0, 0, 11_697]  # Sci/Tech only
    assert counts.sum(axis=1)[9] == 118
    assert (counts[9] > 0).all()


def test_sizes_depend_on_class_sizes_alone():
    mixed = np.random.default_rng(0).permutation(AG_NEWS)
    sorted_sizes = [len(rows) for rows in dirichlet_partition(AG_NEWS, 10, 0.1, 42)]
    assert [len(rows) for rows in dirichlet_partition(mixed, 10, 0.1, 42)] == sorted_sizes


def test_same_seed_same_rows_and_other_seed_other_rows():
    one, again, other = (dirichlet_partition(AG_NEWS, 10, 0.5, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


labels_and_clients = st.tuples(
    st.lists(st.integers(0, 4), min_size=8, max_size=200).map(np.array), st.integers(1, 8), st.integers(0, 1000)
)


@settings(max_examples=50, deadline=None)
@given(labels_and_clients, st.floats(0.05, 50.0), st.sampled_from(["dirichlet", "iid", "shards"]), st.data())
def test_every_row_exactly_once(drawn, alpha, kind, data):
    labels, clients, seed = drawn
    shards = data.draw(st.integers(1, len(labels) // clients))
    partition = {
        "dirichlet": lambda: dirichlet_partition(labels, clients, alpha, seed),
        "iid": lambda: iid_partition(labels, clients, seed),
        "shards": lambda: shard_partition(labels, clients, shards, seed),
    }[kind]()
    assert len(partition) == clients
    assert sorted(np.concatenate(partition).tolist()) == list(range(len(labels)))
    sizes = [len(rows) for rows in partition]
    if kind == "iid":
        assert max(sizes) - min(sizes) <= 1
    if kind == "shards":
        assert max(sizes) - min(sizes) <= shards


@settings(max_examples=50, deadline=None)
@given(labels_and_clients, st.data())
def test_repair_reaches_the_minimum_and_loses_no_row(drawn, data):
    labels, clients, seed = drawn
    minimum = data.draw(st.integers(0, len(labels) // clients))
    before = dirichlet_partition(labels, clients, 0.05, seed)
    after = repair_minimum(before, minimum, seed)
    assert min(map(len, after)) >= minimum
    assert sorted(np.concatenate(after).tolist()) == list(range(len(labels)))
    for old, new in zip(before, after, strict=True):
        assert set(new) <= set(old) or set(old) <= set(new)  # a client gives or takes, never both


def test_repair_leaves_a_good_partition_alone():
    before = iid_partition(AG_NEWS, 10, 0)
    after = repair_minimum(before, 12_000, 0)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_shards_give_few_classes():
    counts = class_counts(shard_partition(AG_NEWS, 10, 2, 0), AG_NEWS, 4)
    # 20 shards of 6,000 rows lie within one class each (30,000 = 5 shards), so two shards are at most two classes.
    assert ((counts > 0).sum(axis=1) <= 2).all()


def test_holdout_takes_the_stated_share_and_keeps_one_row():
    partition = [np.arange(10), np.array([10]), np.array([], np.int64), np.arange(11, 14)]
    train, out = split_holdout(partition, 0.34, seed=3)
    assert [len(rows) for rows in out] == [3, 0, 0, 1]
    for whole, kept, held in zip(partition, train, out, strict=True):
        assert sorted([*kept, *held]) == sorted(whole)
        assert np.array_equal(kept, [row for row in whole if row in set(kept)])  # order kept


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dirichlet_partition(AG_NEWS, 10, 0.0, 1), "alpha must be > 0, got 0.0"),
        (lambda: dirichlet_partition(AG_NEWS, 10, float("nan"), 1), "alpha must be > 0, got nan"),
        (lambda: dirichlet_partition(AG_NEWS, 10, 1e-320, 1), "too small"),
        (lambda: dirichlet_partition(AG_NEWS, 0, 1.0, 1), "num_clients must lie in 1..120000"),
        (lambda: iid_partition(np.zeros(3, int), 4, 1), "num_clients must lie in 1..3"),
        (lambda: shard_partition(np.zeros(3, int), 2, 2, 1), "got 4"),
        (lambda: repair_minimum([np.arange(3), np.arange(3, 5)], 3, 1), "use at most 2"),
    ],
)
def test_errors_name_rule_value_and_remedy(call, message):
    with pytest.raises(InputError, match=message):
        call()
