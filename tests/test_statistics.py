"""Against scipy, closed forms and simulated runs whose truth is known."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from fedjax_paradox.analysis.runs import MEASURES, RUN, Known, measures, pick
from fedjax_paradox.analysis.statistics import BOOTSTRAP_FROM, Unmatched, holm, interval, paired, possible, sign_flip
from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import results

FACTS = {
    "cell": "single",
    "corpus": "toy",
    "model": "textcnn",
    "rule": "fedavg",
    "alpha": 0.1,
    "num_clients": 4,
    "partition_seed": 1,
    "seed": 2,
    "round": 1,
}


def table(rows, counts, **facts):
    arrays = {name: (np.array(correct, float), np.array(total)) for name, (correct, total) in counts.items()}
    return results.records({**FACTS, **facts}, np.array(rows), arrays)


def side(gaps, **facts):
    """Picked rows: gaps is {(partition_seed, seed): gap}."""
    blank = dict.fromkeys(MEASURES.names, 0) | FACTS | {"protocol": "global", "fixed": False, "run": ""} | facts
    rows = [{**blank, "partition_seed": p, "seed": s, "gap": gap} for (p, s), gap in gaps.items()]
    return pa.Table.from_pylist(rows, MEASURES)


def test_measures_by_hand():
    # Client 2 holds no train rows, client 3 has no evaluation rows; the rows come in any order.
    counts = {"holdout": ([1, 3, 4, 0], [4, 4, 4, 0]), "global": ([2, 2, 2, 2], [4, 4, 4, 4])}
    two = pa.concat_tables([table([5, 5, 0, 5], counts), table([5, 5, 0, 5], counts, seed=3)])
    order = np.random.default_rng(0).permutation(len(two))
    got = measures(two.take(order))
    assert got.schema == MEASURES
    assert len(got) == 4
    for row in got.to_pylist():
        if row["protocol"] == "holdout":
            assert (row["average"], row["worst"], row["gap"]) == (0.5, 0.25, 0.25)
            assert (row["worst_client"], row["clients"]) == (0, 2)
            # 1 of 4, with two successes and two failures more: 3 of 8.
            assert row["worst_noise"] == pytest.approx((3 / 8 * 5 / 8 / 8) ** 0.5)
        else:
            assert (row["gap"], row["clients"]) == (0.0, 3)
        assert not row["fixed"]  # equal outcomes are no construction


def test_what_the_audit_says_is_fixed_and_nothing_else():
    counts = {"holdout": ([1, 2], [4, 4]), "global": ([2, 2], [4, 4])}
    got = measures(table([50, 50], counts), fixed={"single": {"holdout"}})
    assert dict(zip(got["protocol"].to_pylist(), got["fixed"].to_pylist(), strict=True)) == {
        "holdout": True,
        "global": False,
    }


def test_clients_of_few_rows_are_left_out_of_the_floored_measures():
    """Of 50, 29, 30 and 0 train rows: accuracies 3/4, 0 and 1/2 count with all, 3/4 and 1/2 above the floor."""
    row = measures(table([50, 29, 30, 0], {"global": ([3, 0, 2, 4], [4, 4, 4, 4])})).to_pylist()[0]
    assert (row["average"], row["worst"], row["worst_client"]) == (pytest.approx(1.25 / 3), 0.0, 1)
    assert (row["floored_average"], row["floored_worst"], row["floored_gap"]) == (0.625, 0.5, 0.125)
    assert row["small"] == 1
    none = measures(table([5, 5], {"global": ([1, 2], [4, 4])})).to_pylist()[0]
    assert np.isnan(none["floored_gap"])
    assert none["small"] == 2


def test_no_client_with_an_accuracy():
    row = measures(table([5, 5], {"holdout": ([0, 0], [0, 0])})).to_pylist()[0]
    assert np.isnan(row["gap"])
    assert (row["clients"], row["worst_client"]) == (0, -1)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (lambda good: good.drop_columns(["alpha"]), "lacks the column 'alpha'"),
        (lambda good: good.slice(0, 0), "no finished round"),
        (lambda good: pa.concat_tables([good, good]), "a client occurs twice"),
    ],
)
def test_bad_tables_are_explained(bad, told):
    with pytest.raises(InputError, match=told):
        measures(bad(table([5, 5], {"global": ([1, 2], [4, 4])})))


@pytest.fixture
def rounds():
    """Two clients over three rounds; client 0 is the worst in rounds 2 and 3, client 1 in round 1."""
    correct = {3: [3, 4], 1: [2, 0], 2: [1, 3]}
    return measures(
        pa.concat_tables(table([5, 5], {"global": (right, [4, 4])}, round=r) for r, right in correct.items())
    )


@pytest.mark.parametrize(
    ("when", "gap", "worst"),
    [
        ("last", 0.125, 0),
        ("round 1", 0.25, 1),
        ("mean of last 1", 0.125, 0),
        ("mean of last 2", (0.25 + 0.125) / 2, 0),
        ("mean of last 3", (0.25 + 0.25 + 0.125) / 3, -1),
    ],
)
def test_picked_rounds(rounds, when, gap, worst):
    picked = pick(rounds, when)
    assert picked.schema == MEASURES
    assert picked["gap"].to_pylist() == pytest.approx([gap])
    assert picked["worst_client"].to_pylist() == [worst]
    assert picked["round"].to_pylist() == [1 if when == "round 1" else 3]


@pytest.mark.parametrize("when", ["best", "round 0", "round 4", "mean of last 4", "mean of last 0", ""])
def test_rounds_that_cannot_be_picked(rounds, when):
    with pytest.raises(InputError, match="last"):
        pick(rounds, when)


@pytest.mark.parametrize("seeds", [1, 3])
def test_few_partitions_get_the_t_interval_of_their_means(seeds):
    values = np.random.default_rng(0).normal(size=(5, seeds))
    got = interval(values.ravel(), np.repeat(np.arange(5), seeds))
    expected = stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx(tuple(expected), rel=1e-9)  # the same float64 formula
    assert (got.mean, got.runs, got.partitions) == (pytest.approx(values.mean()), 5 * seeds, 5)
    assert (got.method, got.reason) == ("t", "")


def test_a_partition_counts_once_however_many_seeds_it_has():
    assert interval(np.array([0.0, 0, 0, 1]), np.array([1, 1, 1, 2])).mean == 0.5


def test_bootstrap_against_a_plain_loop():
    rng = np.random.default_rng(1)
    groups = [rng.gamma(2, size=rng.integers(1, 4)) for _ in range(10)]
    got = interval(np.concatenate(groups), np.repeat(np.arange(10), [len(group) for group in groups]))
    means = np.array([group.mean() for group in groups])
    ratios = []
    for _ in range(4000):
        drawn = [groups[k] for k in rng.integers(10, size=10)]
        again = np.array([rng.choice(group, len(group)).mean() for group in drawn])
        ratios.append((again.mean() - means.mean()) / stats.sem(again))
    high, low = means.mean() - stats.sem(means) * np.quantile(ratios, [0.025, 0.975])
    # Quantiles of 4,000 and 9,999 ratios: standard errors of about 0.06 and 0.04 in a tail where the density of
    # the ratio is 0.04 or more; 0.3 is four of them.
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.3 * stats.sem(means))
    assert got.method == "bootstrap-t"


@pytest.mark.parametrize("partitions", [3, 5, 10, 20])
def test_coverage(partitions):
    """Normal effects of both sources; the percentile bootstrap would cover 81, 87, 92 and 94 % here."""
    rng, hits, simulations = np.random.default_rng(partitions), 0, 1000
    clusters = np.repeat(np.arange(partitions), 2)
    for _ in range(simulations):
        values = rng.normal(size=(partitions, 1)) + 0.7 * rng.normal(size=(partitions, 2))
        got = interval(values.ravel(), clusters, resamples=399)
        hits += got.low <= 0 <= got.high
    # Three standard errors of a share of 95 % in 1,000; one point more below for the bootstrap (see `interval`).
    below = 0.021 + (0.01 if partitions >= BOOTSTRAP_FROM else 0)
    assert 0.95 - below < hits / simulations < 0.95 + 0.021


@pytest.mark.parametrize(
    ("values", "partitions", "told"),
    [
        ([0.1, 0.2, 0.3], [7, 7, 7], "one partition seed"),
        ([], [], "no runs"),
        ([0.1, np.nan, 0.2], [1, 2, 3], "1 of 3 runs have no accuracy"),
    ],
)
def test_a_refused_interval_says_why(values, partitions, told):
    got = interval(np.array(values), np.array(partitions))
    assert np.isnan([got.low, got.high]).all()
    assert told in got.reason
    assert (got.runs, got.method) == (len(values), "")
    assert got.mean == pytest.approx(0.2) if told.startswith("one") else np.isnan(got.mean)


def test_equal_values_have_no_width_and_ties_no_bootstrap():
    got = interval(np.full(20, 0.1), np.arange(20))
    assert (got.low, got.high) == (got.mean, got.mean)
    # 19 partitions without a gap and one with: resampling would often see no spread at all
    tied = interval(np.r_[np.zeros(19), 0.5], np.arange(20))
    assert (tied.method, tied.high > 0.025 > tied.low) == ("t", True)


def test_paired_against_the_paired_t_test():
    rng = np.random.default_rng(2)
    seeds = [(p, 10 + p) for p in range(6)]
    a, b = (dict(zip(seeds, rng.normal(size=6), strict=True)) for _ in "ab")
    backwards = dict(reversed(b.items()))
    got = paired(side(a, model="minilm"), side(backwards))
    test = stats.ttest_rel(list(a.values()), list(b.values()))
    assert got.difference[:3] == pytest.approx(
        (np.mean(list(a.values())) - np.mean(list(b.values())), *test.confidence_interval(0.95)), rel=1e-9
    )
    assert got.flip == pytest.approx(test.pvalue / 2, rel=1e-9)
    assert got.a.mean - got.b.mean == pytest.approx(got.difference.mean)
    assert got.unmatched == ()


def test_flip_by_resampling_is_near_the_t_tests():
    rng = np.random.default_rng(3)
    values = rng.normal(0.4, 1, 30)
    got = paired(side({(p, 0): v for p, v in enumerate(values)}), side({(p, 0): 0.0 for p in range(30)}))
    # Both estimate the same confidence; at 30 normal values they differ by the bootstrap's O(1 / 30).
    assert got.flip == pytest.approx(stats.ttest_1samp(values, 0).pvalue / 2, abs=0.02)
    assert 0 < got.flip < 0.5


@pytest.mark.parametrize(("difference", "flip"), [(0.1, 0.0), (0.0, 0.5)])
def test_equal_differences_leave_no_doubt_of_the_order_unless_they_are_zero(difference, flip):
    got = paired(side({(p, 0): 0.2 + difference for p in range(3)}), side({(p, 0): 0.2 for p in range(3)}))
    assert got.flip == flip


def test_unmatched_runs_are_reported_and_left_out():
    got = paired(side({(1, 1): 0.5, (2, 1): 0.7, (9, 1): 100.0}), side({(1, 1): 0.1, (2, 1): 0.1, (2, 8): 100.0}))
    assert got.difference.mean == pytest.approx(0.5)
    assert got.unmatched == (Unmatched("a", 9, 1), Unmatched("b", 2, 8))
    none = paired(side({(1, 1): 0.5}), side({(2, 1): 0.5}))
    assert (none.difference.runs, none.difference.reason) == (0, "no runs")
    assert np.isnan(none.flip)


GOOD = side({(1, 1): 0.5})


@pytest.mark.parametrize(
    ("a", "b", "options", "told"),
    [
        (GOOD, side({(1, 1): 0.5}, num_clients=5), {}, "differ in num_clients"),
        (GOOD, side({(1, 1): 0.5}, protocol="holdout"), {}, "differ in protocol"),
        (GOOD, side({(1, 1): 0.5}, model="minilm"), {"varying": ["rule"]}, "differ in model"),
        (pa.concat_tables([GOOD, side({(2, 1): 0.5}, num_clients=5)]), GOOD, {}, "side a mixes num_clients"),
        (GOOD, pa.concat_tables([GOOD, side({(2, 1): 0.5}, protocol="holdout")]), {}, "side b mixes protocol"),
        (GOOD, pa.concat_tables([GOOD, GOOD]), {}, "side b has two rows"),
        (GOOD.slice(0, 0), GOOD, {}, "side a of the comparison holds no run"),
        (GOOD, GOOD.drop_columns(["gap"]), {}, "lacks the column 'gap'"),
        (GOOD, GOOD, {"measure": "worst_client"}, "measure must be one of"),
    ],
)
def test_comparisons_that_make_no_sense_are_refused(a, b, options, told):
    with pytest.raises(InputError, match=told):
        paired(a, b, **options)
    assert paired(GOOD, side({(1, 1): 0.5}, protocol="holdout"), varying=["protocol"]).difference.mean == 0


def test_an_interval_ends_where_accuracies_do():
    wide, narrow = interval(np.array([0.1, 0.9, 0.5]), np.arange(3)), interval(np.array([0.45, 0.46]), np.arange(2))
    assert (wide.low < 0, wide.high > 1) == (True, True)
    assert possible(wide) == wide._replace(low=0.0, high=1.0)
    assert possible(narrow) == narrow
    assert np.isnan(possible(interval(np.array([0.5]), np.zeros(1))).low)


@pytest.mark.parametrize("expected", [0.0, 0.2])
def test_sign_flips_against_scipy(expected):
    values = np.random.default_rng(8).normal(0.3, 0.5, 9)
    theirs = stats.permutation_test((values - expected,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(values, expected) == pytest.approx(theirs.pvalue, abs=1e-12)  # both count all 512


def test_many_sign_flips_are_drawn():
    """20 values: the exact p, of a million choices, against 99,999 of them: 0.6 % relative is 2 standard errors."""
    values = np.random.default_rng(9).normal(0.15, 0.5, 20)
    signs = 1 - 2 * ((np.arange(2**20)[:, None] >> np.arange(20)) & 1)
    exact = (np.abs(signs @ values) >= abs(values.sum()) * (1 - 1e-12)).mean()
    assert sign_flip(values) == pytest.approx(exact, rel=0.03)
    assert sign_flip(values) == sign_flip(values)


def test_no_number_has_no_p():
    assert np.isnan(sign_flip([0.1, np.nan]))
    assert np.isnan(sign_flip([]))


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1, and never less than the one before.
    assert holm([0.04, 0.01, np.nan, 0.03, 0.02])[:2] == pytest.approx([0.06, 0.04])
    assert holm([0.04, 0.01, np.nan, 0.03, 0.02])[3:] == pytest.approx([0.06, 0.06])
    assert np.isnan(holm([0.04, np.nan])[1])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


# Runs that diverged, and runs that are one


def known(diverged, rounds=6, **facts):
    given = {**FACTS, **facts}
    return {given["cell"]: Known({name: given[name] for name in RUN}, ("global",), rounds, "one", diverged)}


@pytest.mark.parametrize(
    ("when", "gap", "last"),
    [
        ("last", 0.125, 3),
        ("round 2", 0.25, 2),
        ("round 4", 0.125, 3),
        ("round 6", 0.125, 3),
        ("mean of last 2", 0.125, 3),
        ("mean of last 4", (0.125 * 3 + 0.125) / 4, 3),
        ("mean of last 6", (0.25 + 0.25 + 4 * 0.125) / 6, 3),
    ],
)
def test_a_run_that_diverged_counts_with_its_last_finite_round(when, gap, last):
    """It was to have six rounds and diverged in the fourth: gaps 0.25, 0.25, 0.125 and then that of the third."""
    correct = {1: [2, 0], 2: [1, 3][::-1], 3: [3, 4]}
    rows = [table([5, 5], {"global": (right, [4, 4])}, round=r) for r, right in correct.items()]
    picked = pick(measures(pa.concat_tables(rows), known(4)), when)
    assert picked["gap"].to_pylist() == pytest.approx([gap])
    assert (picked["round"].to_pylist(), picked["diverged"].to_pylist()) == ([last], [4])


@pytest.mark.parametrize("when", ["round 7", "mean of last 7"])
def test_a_run_that_diverged_has_no_more_rounds_than_it_was_to_have(when):
    rows = table([5, 5], {"global": ([1, 2], [4, 4])})
    with pytest.raises(InputError, match="train longer"):
        pick(measures(rows, known(2)), when)


@pytest.mark.parametrize("when", ["last", "round 1", "round 6", "mean of last 6"])
def test_a_run_that_diverged_in_round_1_counts_without_a_number(when):
    rows = [table([5, 5], {"global": ([1, 2], [4, 4])}, round=r) for r in range(1, 7)]
    gone = known(1, cell="gone", partition_seed=9)
    picked = pick(measures(pa.concat_tables(rows), gone), when).to_pylist()
    assert [row["partition_seed"] for row in picked if np.isnan(row["gap"])] == [9]
    assert len(picked) == 2
    estimate = interval(np.array([row["gap"] for row in picked]), np.array([row["partition_seed"] for row in picked]))
    assert np.isnan(estimate.mean)
    assert estimate.reason == "1 of 2 runs have no accuracy"


def test_pairs_of_one_run_are_counted():
    a = side({(1, 1): 0.5, (2, 1): 0.25, (3, 1): 0.25}, model="a", run="x")
    b = side({(1, 1): 0.5, (2, 1): 0.25}, model="b", run="x")
    assert paired(a, b).same == 2
    assert paired(a, side({(1, 1): 0.5}, model="b", run="y")).same == 0
    assert paired(a, side({(1, 1): 0.5}, model="b", run="x", round=2)).same == 0
    assert (
        paired(a, side({(1, 1): 0.5}, model="b", run="x", protocol="holdout"), varying=("model", "protocol")).same == 0
    )
    unknown = (side({(1, 1): 0.5}, model=model) for model in "ab")
    assert paired(*unknown).same == 0
