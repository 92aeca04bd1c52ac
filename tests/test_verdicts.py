"""Every verdict is reached by runs made up to deserve it; the published claims agree with the published numbers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from fedjax_paradox import config
from fedjax_paradox.analysis.claims import load
from fedjax_paradox.analysis.runs import FLOOR, RUN, Known, measures
from fedjax_paradox.analysis.statistics import FEWEST, interval
from fedjax_paradox.analysis.verdicts import (
    CONTRADICTED,
    EQUIVALENT,
    FALSE_BY_CONSTRUCTION,
    NO_DATA,
    SUPPORTED,
    TOO_FEW,
    TRUE_BY_CONSTRUCTION,
    UNDECIDED,
    judge,
)
from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import results

ROOT = Path(__file__).parent.parent
CLAIMS = ROOT / "experiments" / "paper" / "claims.yaml"
ROWS = 10_000

CLAIM = {
    "id": "paradox",
    "text": "The transformer has the larger gap.",
    "source": "made up",
    "where": {"corpus": "toy", "alpha": 0.1, "rule": "fedavg", "local.mu": [None, 0.0]},
    "round": 3,
    "a": {
        "where": {"model": ["distilbert", "minilm"]},
        "protocol": "label_filtered",
        "round": 2,
        "published": {"gap": 50.1},
    },
    "b": {"where": {"model": "textcnn"}, "protocol": "train_rows", "round": 3, "published": {"gap": 32.2}},
    "matched": ["label_matched", "holdout"],
}
PROTOCOLS = ("train_rows", "label_filtered", "label_matched")


def read_all(folder, *claims):
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump(list(claims)))
    return load(path)


def read(folder, *claims):
    return read_all(folder, *claims)


@pytest.fixture
def claim(tmp_path):
    return read(tmp_path, CLAIM)


def runs(model, gaps, rounds=(1, 2, 3), protocols=PROTOCOLS, seeds=(0,), **facts):
    """Two clients of accuracies 0.5 + gap and 0.5 - gap; gaps are by partition seed or {(protocol, round): gaps}."""
    given = {"cell": "single", "corpus": "toy", "rule": "fedavg", "alpha": 0.1, "num_clients": 10} | facts
    tables = []
    for round_ in rounds:
        for index in range(len(gaps if isinstance(gaps, list) else next(iter(gaps.values())))):
            for seed in seeds:
                counts = {}
                for protocol in protocols:
                    gap = (gaps if isinstance(gaps, list) else gaps[protocol, round_])[index]
                    counts[protocol] = np.array([0.5 - gap, 0.5 + gap]) * ROWS, np.array([ROWS, ROWS])
                where = {"model": model, "partition_seed": index, "seed": seed, "round": round_}
                label = {"cell": f"{given['cell']},partition_seed={index},seed={seed}"}
                tables.append(results.records({**given, **where, **label}, np.array([50, 50]), counts))
    return pa.concat_tables(tables)


def outcome(claim, *tables, protocol="label_matched", when="last"):
    return judge(claim, measures(pa.concat_tables(tables)), when)[0].matched[protocol]


LARGE, SMALL = [0.30, 0.32, 0.31, 0.29, 0.30, 0.31], [0.10, 0.11, 0.12, 0.10, 0.11, 0.10]
MIXED = [0.40, 0.02, 0.35, 0.05, 0.30, 0.04]


@pytest.mark.parametrize(
    ("a", "b", "verdict", "told"),
    [
        (LARGE, SMALL, SUPPORTED, "a - b = 20.0 points over clients of at least 30 rows, 95 % interval"),
        (SMALL, LARGE, CONTRADICTED, "a - b = -20.0 points"),
        (MIXED, SMALL, UNDECIDED, "more partitions are needed"),
        (LARGE[:1], SMALL[:1], TOO_FEW, "one partition seed"),
        (LARGE[:5], SMALL[:5], TOO_FEW, "6 partitions are needed for a verdict"),
        (LARGE, [0.0] * 6, SUPPORTED, "95 % interval"),  # equal outcomes are no construction
        ([0.1] * 6, [0.0] * 6, UNDECIDED, "an interval of no width decides nothing"),
        ([x + 0.001 * (-1) ** i for i, x in enumerate(SMALL)], SMALL, EQUIVALENT, "all of it within 2 points of 0"),
        ([x + 0.004 + 0.001 * i for i, x in enumerate(SMALL)], SMALL, SUPPORTED, "too small to matter"),
        (LARGE, [], NO_DATA, "side b: no run of model textcnn"),
        ([], [], NO_DATA, "side a: no run of model distilbert or minilm"),
    ],
)
def test_every_verdict(claim, a, b, verdict, told):
    other = runs("other", SMALL)
    tables = [runs(model, gaps) for model, gaps in (("distilbert", a), ("textcnn", b)) if gaps]
    got = judge(claim, measures(pa.concat_tables([other, *tables])))[0]
    assert got.verdict == got.matched["label_matched"].verdict == got.mix.verdict == verdict
    assert told in got.matched["label_matched"].reason
    assert got.matched["holdout"].verdict == NO_DATA
    assert "under holdout" in got.matched["holdout"].reason


def by_partition(table, chosen, protocols=PROTOCOLS):
    """The cells of these partitions, all of whose clients are scored alike."""
    return {row["cell"]: protocols for row in table.to_pylist() if row["partition_seed"] in chosen}


@pytest.mark.parametrize(
    ("direction", "margin", "models", "verdict"),
    [
        ("greater", 0, ("distilbert", "textcnn"), FALSE_BY_CONSTRUCTION),  # 0 is not greater than 0
        ("less", 0, ("distilbert", "textcnn"), FALSE_BY_CONSTRUCTION),
        ("greater", -1, ("distilbert", "textcnn"), TRUE_BY_CONSTRUCTION),
        ("greater", 5, ("distilbert", "textcnn"), FALSE_BY_CONSTRUCTION),
        ("greater", 0, ("distilbert",), FALSE_BY_CONSTRUCTION),  # a gap of 0 is never the larger one
        ("less", 1, ("distilbert",), TRUE_BY_CONSTRUCTION),
        ("less", 0, ("textcnn",), FALSE_BY_CONSTRUCTION),
        ("greater", 0, ("textcnn",), SUPPORTED),  # larger than 0, as was measured
    ],
)
def test_what_the_partition_decides_has_a_direction(tmp_path, direction, margin, models, verdict):
    claim = read(tmp_path, {**CLAIM, "direction": direction, "margin": margin})
    gaps = {model: [0.0] * 6 if model in models else SMALL for model in ("distilbert", "textcnn")}
    tables = {model: runs(model, each, cell=model) for model, each in gaps.items()}
    fixed = {cell: told for model in models for cell, told in by_partition(tables[model], range(6)).items()}
    got = judge(claim, measures(pa.concat_tables(tables.values()), fixed=fixed))[0]
    assert got.verdict == verdict
    assert "scores all clients alike" in got.matched["label_matched"].reason


def test_zeros_of_some_partitions_are_told_and_what_the_others_give(claim):
    a, b = runs("distilbert", LARGE, cell="a"), runs("textcnn", [*SMALL[:4], 0.0, 0.0], cell="b")
    got = judge(claim, measures(pa.concat_tables([a, b]), fixed=by_partition(b, {4, 5})))[0].matched["label_matched"]
    others = 100 * np.mean(np.array(LARGE[:4]) - SMALL[:4])
    assert "side b: 0 by construction in 2 of 6 runs" in got.reason
    assert f"without them a - b = {others:.1f} points (4 partitions)" in got.reason


def test_a_construction_decides_no_average(tmp_path):
    claim = read(tmp_path, {**CLAIM, "measure": "average"})
    a, b = (runs(model, [0.0] * 6, cell=model) for model in ("distilbert", "textcnn"))
    fixed = by_partition(a, range(6)) | by_partition(b, range(6))
    assert judge(claim, measures(pa.concat_tables([a, b]), fixed=fixed))[0].verdict == UNDECIDED


def test_the_worst_client_itself_may_be_claimed(tmp_path):
    claim = read(tmp_path, {**CLAIM, "measure": "worst", "direction": "less"})
    got = outcome(claim, runs("distilbert", LARGE), runs("textcnn", SMALL))
    assert got.verdict == SUPPORTED
    assert got.difference.mean == pytest.approx(np.mean(SMALL) - np.mean(LARGE))  # worst = 0.5 - gap
    noise = [100 * np.mean([((0.5 - gap) * (0.5 + gap) / ROWS) ** 0.5 for gap in gaps]) for gaps in (LARGE, SMALL)]
    assert f"a run's worst client is known to {noise[0]:.1f} points in a and {noise[1]:.1f} in b" in got.reason


def test_p_values_and_holm_over_the_claims(tmp_path):
    """All six differences have one sign: p = 2 / 64 by counting; of three claims the least p is tripled."""
    ids = [{**CLAIM, "id": name, "margin": margin} for name, margin in (("one", 0), ("two", 5), ("three", 19.8))]
    claims = read_all(tmp_path, *ids)
    found = judge(claims, measures(pa.concat_tables([runs("distilbert", LARGE), runs("textcnn", SMALL)])))
    p = [verdict.matched["label_matched"].p for verdict in found]
    assert p[:2] == [2 / 64, 2 / 64]
    assert p[2] > 0.5
    adjusted = [verdict.matched["label_matched"].p_holm for verdict in found]
    assert adjusted == [3 * 2 / 64, 3 * 2 / 64, p[2]]
    assert [verdict.matched["holdout"].p == verdict.matched["holdout"].p for verdict in found] == [False] * 3


def test_a_published_size_outside_the_interval_is_marked(claim):
    near = [x + 0.18 for x in SMALL]  # published: 17.9
    wide = [x + 0.01 * (-1) ** i for i, x in enumerate(near)]
    assert not outcome(claim, runs("distilbert", wide), runs("textcnn", SMALL)).published_outside
    far = outcome(claim, runs("distilbert", LARGE), runs("textcnn", [x + 0.1 for x in SMALL]))
    assert (far.published, far.published_outside) == (pytest.approx(0.179), True)


def test_a_verdict_is_looked_at_again_at_the_quarters_of_its_rounds(claim):
    """The gap of side a opens at round 3 of 4."""
    rounds = (1, 2, 3, 4)
    gaps = {(protocol, r): LARGE if r > 2 else MIXED for protocol in PROTOCOLS for r in rounds}
    tables = [runs("distilbert", gaps, rounds), runs("textcnn", SMALL, rounds)]
    got = judge(claim, measures(pa.concat_tables(tables)), "last")[0]
    assert got.by_round == {1: UNDECIDED, 2: UNDECIDED, 3: SUPPORTED, 4: SUPPORTED}


def test_a_client_of_a_few_rows_decides_nothing_and_is_told(claim):
    """Side a's two clients are alike but for a third of 3 rows, which is all wrong in two partitions."""
    facts = {"cell": "s", "corpus": "toy", "model": "distilbert", "rule": "fedavg", "alpha": 0.1, "num_clients": 10}
    tables = []
    for p in range(6):
        counts = {
            name: (np.array([5000, 5100 + p, 0 if p < 2 else 2]), np.array([ROWS, ROWS, 3])) for name in PROTOCOLS
        }
        where = {**facts, "cell": f"s{p}", "partition_seed": p, "seed": 0, "round": 3}
        tables.append(results.records(where, np.array([50, 50, 3]), counts))
    got = outcome(claim, *tables, runs("textcnn", SMALL))
    without = [(100 + p) / 2 / ROWS for p in range(6)]  # mean - worst of the two large ones
    assert got.floored.mean == pytest.approx(np.mean(np.array(without) - SMALL))
    assert (got.verdict, got.small) == (CONTRADICTED, (6, 0))
    assert got.difference.mean > got.floored.mean
    assert "with the clients of fewer rows, in 6 of 6 runs of a and 0 of 6 of b" in got.reason


@pytest.mark.parametrize(("shift", "verdict"), [(-0.01, EQUIVALENT), (-0.025, UNDECIDED), (0.01, SUPPORTED)])
def test_equivalence_is_about_no_difference_not_about_the_margin(tmp_path, shift, verdict):
    """Gaps that fall by 0.5 to 1.5 points are nothing to choose by; by 0.5 to 4.5, they may be."""
    claim = read(tmp_path, {**CLAIM, "margin": -1})
    spread = 0.005 if verdict != UNDECIDED else 0.02
    a = [x + shift + spread * (-1) ** i for i, x in enumerate(SMALL)]
    assert outcome(claim, runs("distilbert", a), runs("textcnn", SMALL)).verdict == verdict


def test_claims_of_too_few_partitions_are_none_of_the_family(tmp_path):
    other = {**CLAIM, "id": "few", "where": {**CLAIM["where"], "alpha": 0.5}}
    tables = [runs("distilbert", LARGE), runs("textcnn", SMALL)]
    few = [
        runs(model, gaps, alpha=0.5, cell="few") for model, gaps in (("distilbert", LARGE[:5]), ("textcnn", SMALL[:5]))
    ]
    found = judge(read_all(tmp_path, CLAIM, other), measures(pa.concat_tables([*tables, *few])), "last")
    whole, short = (verdict.matched["label_matched"] for verdict in found)
    assert (whole.p, whole.p_holm) == (2 / 64, 2 / 64)
    assert (short.verdict, short.p) == (TOO_FEW, 2 / 32)
    assert np.isnan(short.p_holm)


def test_each_side_is_looked_at_by_its_own_rounds(claim):
    """Side b has twice as many: half of its rounds is round 4, when side a's is round 2."""
    late = {(protocol, r): SMALL if r >= 4 else LARGE for protocol in PROTOCOLS for r in range(1, 9)}
    tables = [runs("distilbert", LARGE, range(1, 5)), runs("textcnn", late, range(1, 9))]
    got = judge(claim, measures(pa.concat_tables(tables)), "last")[0]
    assert got.verdict == SUPPORTED
    assert got.by_round == {1: UNDECIDED, 2: SUPPORTED, 3: SUPPORTED, 4: SUPPORTED}


def test_a_mean_outside_the_interval_is_told(claim):
    a = [0.30 + i / 1000 for i in range(19)] + [0.49] * 2
    got = outcome(claim, runs("distilbert", a), runs("textcnn", [0.1] * 21))
    assert got.floored.high < got.floored.mean
    assert f"the mean is {100 * (np.mean(a) - 0.1):.1f} points, outside the interval" in got.reason


DOSES = {
    **CLAIM,
    "where": {"corpus": "toy", "alpha": 0.1, "model": "distilbert"},
    "a": {**CLAIM["a"], "where": {"rule": "fedavgw(beta=0.5)"}, "dose": 0.5, "published": {"gap": 59.8}},
    "b": {**CLAIM["b"], "where": {"rule": "fedavg"}, "dose": 0.0, "published": {"gap": 57.8}},
    "between": [
        {**CLAIM["a"], "where": {"rule": "fedavgw(beta=0.1)"}, "dose": 0.1, "published": {"gap": 58.5}},
        {**CLAIM["a"], "where": {"rule": "fedavgw(beta=1.0)"}, "dose": 1.0, "published": {}},
    ],
}
BY_DOSE = {
    0.0: SMALL,
    0.1: [0.12, 0.13, 0.13, 0.12, 0.14, 0.12],
    0.5: [x + 0.05 + i / 1000 for i, x in enumerate(SMALL)],
    1.0: LARGE,
}


@pytest.mark.parametrize("doses", [(0.0, 0.1, 0.5, 1.0), (0.0, 0.1, 0.5), (0.0, 0.5)])
def test_a_response_to_a_dose_is_the_rise_of_the_fitted_line(tmp_path, doses):
    """Against numpy's least squares in every pair; a dose between that has no runs is left out and told."""
    claims = read(tmp_path, DOSES)
    names = {dose: f"fedavgw(beta={dose})" if dose else "fedavg" for dose in doses}
    tables = [runs("distilbert", BY_DOSE[dose], rule=names[dose], cell=names[dose]) for dose in doses]
    got = outcome(claims, *tables)
    slopes = np.polyfit(doses, np.array([BY_DOSE[dose] for dose in doses]), 1)[0]
    assert got.difference.mean == pytest.approx(0.5 * slopes.mean(), rel=1e-9)
    assert (got.verdict, got.a.partitions) == (SUPPORTED, 6)
    assert got.a.mean == pytest.approx(np.mean(BY_DOSE[0.5]))
    assert ("side dose 1: no run of rule fedavgw(beta=1.0)" in got.reason) == (1.0 not in doses)
    published = np.polyfit([0.0, 0.1, 0.5], [0.578, 0.585, 0.598], 1)[0]
    assert got.published == pytest.approx(0.5 * published)


def test_a_response_needs_both_ends(tmp_path):
    got = outcome(read(tmp_path, DOSES), runs("distilbert", LARGE, rule="fedavgw(beta=0.5)"))
    assert (got.verdict, got.reason.partition(";")[0][:24]) == (NO_DATA, "side b: no run of rule f")


SIMULATIONS = 1_000


@pytest.mark.parametrize("rows", [4, 40])
@pytest.mark.parametrize("partitions", [6, 8, 10])
def test_coverage_where_one_partition_in_five_has_an_all_wrong_client(partitions, rows):
    """Ten clients of 200 evaluated rows, 85 % on average and 4 points apart; in one partition of five the last holds
    4 rows, below the floor, or 40 rows, above it, and all are wrong. Coverage of the typical gap that such a simulation
    has in the long run; its standard error is 0.7 %.

    Measured: 94 to 98 %, over all clients and over those above the floor. Student's interval of the mean over all
    clients covers that mean in 73, 81 and 88 % with 6, 8 and 10 partitions.
    """
    random = np.random.default_rng(partitions)

    def simulated(size):
        accuracy = random.binomial(200, np.clip(random.normal(0.85, 0.04, (*size, 10)), 0, 1)) / 200
        tiny = random.random(size) < 0.2
        floored = accuracy[..., :9].mean(axis=-1) - accuracy[..., :9].min(axis=-1)
        large = accuracy.mean(axis=-1) - accuracy.min(axis=-1)
        accuracy[..., -1] = np.where(tiny, 0.0, accuracy[..., -1])
        over_all = accuracy.mean(axis=-1) - accuracy.min(axis=-1)
        return over_all, np.where(tiny, floored, large) if rows < FLOOR else over_all

    typical = [np.median(gaps.reshape(-1, 2).mean(axis=1)) for gaps in simulated((200_000,))]
    covered = np.zeros(2)
    for each in zip(*simulated((SIMULATIONS, partitions)), strict=True):
        for index, gaps in enumerate(each):
            found = interval(gaps, np.arange(partitions))
            covered[index] += found.low <= typical[index] <= found.high
    assert (covered / SIMULATIONS >= 0.90).all()
    assert partitions >= FEWEST


def test_without_a_client_above_the_floor_there_is_no_verdict(claim):
    """All clients are scored on 20 rows: there is a difference over all of them, and no other."""
    facts = {"corpus": "toy", "rule": "fedavg", "alpha": 0.1, "num_clients": 10, "seed": 0, "round": 3}
    tables = [
        results.records(
            {**facts, "cell": f"{model}{p}", "model": model, "partition_seed": p},
            np.array([50, 50]),
            {"label_matched": (np.array([wrong + p % 2, 20]), np.array([20, 20]))},
        )
        for model, wrong in (("distilbert", 2), ("textcnn", 12))
        for p in range(6)
    ]
    got = outcome(claim, *tables)
    assert (got.verdict, got.difference.value) == (UNDECIDED, pytest.approx(0.25))
    assert "there is no a - b over clients of at least 30 rows" in got.reason


def test_the_numbers_of_an_outcome(claim):
    got = outcome(claim, runs("distilbert", LARGE, seeds=(0, 1)), runs("textcnn", [*SMALL, 0.5]))
    assert (got.a.mean, got.b.mean) == pytest.approx((np.mean(LARGE), np.mean(SMALL)))
    assert got.difference.low < np.mean(LARGE) - np.mean(SMALL) < got.difference.high
    assert got.difference.runs == 6
    assert [unmatched.side for unmatched in got.unmatched] == ["a"] * 6 + ["b"]
    assert "7 runs have no partner" in got.reason
    assert got.rounds == ((3,), (3,))


def test_equal_accuracies_on_different_rows_are_no_construction(claim):
    """The gap is 0 in both, but one client was scored on half of the rows: another model could tell them apart."""
    counts = {"label_matched": (np.array([0.5, 0.25]) * ROWS, np.array([ROWS, ROWS // 2]))}
    facts = {"cell": "s", "corpus": "toy", "model": "textcnn", "rule": "fedavg", "alpha": 0.1, "num_clients": 10}
    chance = [
        results.records({**facts, "partition_seed": p, "seed": 0, "round": 3}, np.array([50, 50]), counts)
        for p in range(6)
    ]
    assert outcome(claim, runs("distilbert", LARGE), *chance).verdict == SUPPORTED


def test_published_mix_and_matched_can_disagree(claim):
    """Each side under its own protocol and round, against both under one protocol at the claim's round."""
    a = {(protocol, r): [0.1 + i / 100 for i in range(6)] for protocol in PROTOCOLS for r in (1, 2, 3)}
    a["label_filtered", 2] = LARGE  # round 2 is the published one of side a
    b = {(protocol, r): MIXED for protocol in PROTOCOLS for r in (1, 2, 3)}
    b["train_rows", 3], b["label_matched", 3] = SMALL, LARGE
    table = measures(pa.concat_tables([runs("distilbert", a), runs("textcnn", b)]))
    got = judge(claim, table)[0]
    assert (got.mix.verdict, got.mix.rounds) == (SUPPORTED, ((2,), (3,)))
    assert got.mix.protocols == ("label_filtered", "train_rows")
    assert (got.verdict, got.matched["label_matched"].rounds) == (CONTRADICTED, ((3,), (3,)))
    assert judge(claim, table, "last")[0].mix.verdict == UNDECIDED  # side a's round 3 is not its round 2
    assert judge(claim, table, "round 1")[0].verdict == UNDECIDED


def test_alternatives_in_order_of_preference(claim):
    table = [runs("minilm", LARGE), runs("textcnn", SMALL)]
    stand_in = outcome(claim, *table)
    assert stand_in.selected[0]["model"] == "minilm"
    assert "side a: minilm stands in for distilbert" in stand_in.reason
    first = outcome(claim, *table, runs("distilbert", SMALL))
    assert first.selected[0]["model"] == "distilbert"
    assert "stands in" not in first.reason


def test_a_shared_alternative_is_the_same_on_both_sides(tmp_path):
    claim = read(tmp_path, {**CLAIM, "where": {"corpus": ["news", "toy"]}})
    # Side a has runs on both corpora, side b on the second alone.
    tables = [runs("distilbert", SMALL, corpus="news"), runs("distilbert", LARGE), runs("textcnn", SMALL)]
    got = outcome(claim, *tables)
    assert (got.verdict, [chosen["corpus"] for chosen in got.selected]) == (SUPPORTED, ["toy", "toy"])


def test_what_is_missing_is_told_of_the_corpus_that_has_runs(tmp_path):
    claim = read(tmp_path, {**CLAIM, "where": {"corpus": ["toy", "news"]}})
    got = outcome(claim, runs("distilbert", LARGE))
    assert "side b" in got.reason
    assert "side a" not in got.reason


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({"cell": "alpha=0.1,local.mu=0.01"}, NO_DATA),
        ({"rule": "fedavg, local.objective=fedprox, local.mu=0.01"}, NO_DATA),
        ({"cell": "alpha=0.1,local.mu=0.0"}, SUPPORTED),
        ({"rule": "fedavg, local.mu=0.0"}, SUPPORTED),
        ({"rule": "fedavgw(beta=0.5)"}, NO_DATA),
    ],
)
def test_settings_without_a_column_are_read_from_the_labels(claim, facts, verdict):
    assert outcome(claim, runs("distilbert", LARGE), runs("textcnn", SMALL, **facts)).verdict == verdict


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (
            {"rule": "fedavg, local.epochs=1"},
            "several settings fit (toy, textcnn, fedavg and toy, textcnn, fedavg, local.epochs=1)",
        ),
        ({"cell": "local.epochs=1"}, "several settings fit"),
        ({"cell": "again"}, "several runs have the same seeds (cells again,partition_seed=0,seed=0, "),
    ],
)
def test_runs_that_must_not_be_mixed(claim, facts, told):
    a = runs("distilbert", LARGE, cell="min_participant_rows=2")
    got = outcome(claim, a, runs("textcnn", SMALL), runs("textcnn", SMALL, **facts))
    assert got.verdict == NO_DATA
    assert told in got.reason


def test_a_sample_of_the_corpus_for_each_partition_is_no_setting(claim):
    """The cell's name has it, and no label."""

    def sampled(model, gaps, **facts):
        tables = [runs(model, gaps[: index + 1], cell=f"corpus.seed={index}", **facts) for index in range(len(gaps))]
        return [table.filter(pa.compute.equal(table["partition_seed"], i)) for i, table in enumerate(tables)]

    got = outcome(claim, *sampled("distilbert", LARGE), *sampled("textcnn", SMALL))
    assert (got.verdict, got.difference.partitions) == (SUPPORTED, 6)


def test_runs_of_one_study_are_compared_with_each_other(claim):
    """Another study has the same seeds of one side alone."""
    ours, theirs = {"cell": "rounds=3"}, {"cell": "rounds=50"}
    got = outcome(
        claim, runs("distilbert", LARGE, **ours), runs("textcnn", SMALL, **ours), runs("textcnn", MIXED, **theirs)
    )
    assert (got.verdict, got.b.mean) == (SUPPORTED, pytest.approx(np.mean(SMALL)))


def test_seeds_may_come_from_several_folders(claim):
    tables = [runs("distilbert", LARGE), runs("textcnn", SMALL)]
    flat = [0.2 + index / 1000 for index in range(6)]
    again = [runs(model, flat, cell="single,folder=2", seeds=(1,)) for model in ("distilbert", "textcnn")]
    got = outcome(claim, *tables, *again)
    assert (got.verdict, got.difference.runs) == (SUPPORTED, 12)


def test_rounds_that_are_not_reached(claim):
    early = measures(pa.concat_tables([runs("distilbert", LARGE), runs("textcnn", SMALL, rounds=(1, 2))]))
    got = judge(claim, early)[0]
    assert "side b: no run has round 3, the last is 2" in got.matched["label_matched"].reason
    assert judge(claim, early, "last")[0].verdict == SUPPORTED
    late = outcome(
        claim,
        runs("distilbert", LARGE),
        runs("textcnn", SMALL),
        runs("distilbert", LARGE, rounds=(1,), seeds=(7,)),
        when=None,
    )
    assert (late.verdict, late.unmatched) == (SUPPORTED, ())
    assert "side a: 6 runs have not reached the round" in late.reason


def test_no_seeds_in_common(claim):
    got = outcome(claim, runs("distilbert", LARGE), runs("textcnn", SMALL, seeds=(5,)))
    assert (got.verdict, len(got.unmatched)) == (NO_DATA, 12)
    assert "in common" in got.reason


@pytest.mark.parametrize(
    ("direction", "margin", "verdict"),
    [
        ("greater", 15, SUPPORTED),
        ("greater", 25, CONTRADICTED),
        ("greater", 20, UNDECIDED),  # 20.0 [19.0, 21.0]
        ("less", 25, SUPPORTED),
        ("less", 0, CONTRADICTED),
        ("greater", -1, SUPPORTED),
    ],
)
def test_direction_and_margin(tmp_path, direction, margin, verdict):
    claim = read(tmp_path, {**CLAIM, "direction": direction, "margin": margin})
    assert outcome(claim, runs("distilbert", LARGE), runs("textcnn", SMALL)).verdict == verdict


def known(table, rounds=3, run=None, **diverged):
    """What folders would say of runs: cells by partition seed (`p1=2`) diverged in a round."""
    found = {}
    for row in table.to_pylist():
        at = diverged.get(f"p{row['partition_seed']}", 0)
        facts = {name: row[name] for name in RUN}
        found[row["cell"]] = Known(facts, PROTOCOLS, rounds, run or row["cell"], at)
    return found


def before(table, rounds):
    return table.filter(pa.array([row["round"] < rounds.get(row["partition_seed"], 9) for row in table.to_pylist()]))


def test_a_run_that_diverged_stays_in_its_pair(claim):
    a, b = runs("distilbert", LARGE, cell="a"), runs("textcnn", SMALL, cell="b")
    ended = known(a, p1=3) | known(b)
    got = judge(claim, measures(pa.concat_tables([before(a, {1: 3}), b]), ended))[0].matched["label_matched"]
    assert (got.verdict, got.difference.runs, got.unmatched) == (SUPPORTED, 6, ())
    assert got.a.mean == pytest.approx(np.mean(LARGE))  # the gaps are those of every round
    assert "side a: 1 of 6 diverged" in got.reason
    assert got.ended == "a: 1 of 6 diverged"


@pytest.mark.parametrize(("times", "verdict"), [(1, UNDECIDED), (2, SUPPORTED)])
def test_a_run_that_diverged_in_round_1_counts_as_whatever_speaks_against_a_verdict(claim, times, verdict):
    """One of six may have had any gap; one of twelve leaves the order of the typical partition beyond doubt."""
    a, b = runs("distilbert", LARGE * times, cell="a"), runs("textcnn", SMALL * times, cell="b")
    ended = known(b, p2=1) | known(a)
    got = judge(claim, measures(pa.concat_tables([a, before(b, {2: 1})]), ended))[0].matched["label_matched"]
    assert (got.verdict, got.difference.runs, got.unmatched) == (verdict, 6 * times, ())
    assert got.difference.low <= 0.19 < got.difference.value < 0.21 <= got.difference.high
    assert "side b: 1 of " in got.reason
    assert "1 of them in round 1 and without a number" in got.reason


def test_two_sides_that_are_one_run_are_equal_by_construction(tmp_path):
    sides = {"a": {"model": "textcnn", "rule": "fedavgw(beta=0.5)"}, "b": {"model": "textcnn", "rule": "fedavg"}}
    where = {"corpus": "toy", "alpha": 0.1}
    claim = read(
        tmp_path, {**CLAIM, "where": where, **{name: {**CLAIM[name], "where": own} for name, own in sides.items()}}
    )
    a, b = runs("textcnn", LARGE, cell="a", rule="fedavgw(beta=0.5)"), runs("textcnn", LARGE, cell="b")
    table = pa.concat_tables([a, b])
    same = {name: one._replace(run=name[2:]) for name, one in known(table).items()}  # by their seeds
    got = judge(claim, measures(table, same))[0]
    assert got.verdict == FALSE_BY_CONSTRUCTION  # 0 is not greater than 0
    assert "both sides are one run" in got.matched["label_matched"].reason
    assert got.mix.verdict != FALSE_BY_CONSTRUCTION  # one run under two protocols is a measurement
    assert judge(claim, measures(table, known(table)))[0].verdict == UNDECIDED  # equal by measurement alone


def test_another_choice_of_rounds_is_refused(claim):
    with pytest.raises(InputError, match="'best'"):
        judge(claim, measures(runs("other", SMALL)), "best")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "cannot read the claims"),
        ("just words", "valid tuple"),
        (yaml.safe_dump([{**CLAIM, "direction": "up"}]), "0.direction: .*'greater' or 'less'.*got 'up'"),
        (yaml.safe_dump([{**CLAIM, "extra": 1}]), "0.extra: "),
        (yaml.safe_dump([{key: CLAIM[key] for key in CLAIM if key != "round"}]), "0.round: Field required"),
        (yaml.safe_dump([{**CLAIM, "where": {"model": []}}]), "0.where.model: .*at least 1"),
        (yaml.safe_dump([{**CLAIM, "a": {**CLAIM["a"], "published": {"gap": 501}}}]), "0.a.published.gap"),
        (yaml.safe_dump([CLAIM, CLAIM]), "id 'paradox' twice"),
        (yaml.safe_dump([{**DOSES, "a": CLAIM["a"]}]), "every side needs a `dose`"),
        (yaml.safe_dump([{**DOSES, "between": [{**DOSES["between"][0], "dose": 0.5}]}]), "a `dose` of its own"),
        (yaml.safe_dump([{**DOSES, "between": [{**DOSES["between"][0], "dose": None}]}]), "every side needs a `dose`"),
    ],
)
def test_a_bad_file_is_explained(tmp_path, text, told):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        load(path)


def test_a_side_is_by_default_as_the_claim_says(tmp_path):
    bare = {**CLAIM, "a": {"where": {"model": "minilm"}}, "b": {"where": {"model": "textcnn"}}}
    (claim,) = read(tmp_path, bare)
    assert [(side.protocol, side.round) for side in (claim.a, claim.b)] == [("label_matched", 3)] * 2
    assert not claim.is_published
    (short,) = read(tmp_path, {key: value for key, value in bare.items() if key != "matched"})
    assert short.a.protocol == "label_matched"


def test_a_missing_file_is_explained(tmp_path):
    with pytest.raises(InputError, match="cannot read the claims"):
        load(tmp_path / "none.yaml")


PUBLISHED = [claim for claim in load(CLAIMS) if claim.published == claim.published]


@pytest.mark.parametrize("claim", PUBLISHED, ids=lambda claim: claim.id)
def test_published_claims_hold_for_the_published_numbers(claim):
    assert claim.published > claim.margin if claim.direction == "greater" else claim.published < claim.margin


@pytest.mark.parametrize("claim", load(CLAIMS), ids=lambda claim: claim.id)
def test_published_numbers_agree_with_each_other_and_with_their_protocol(claim):
    for side in claim.sides.values():
        numbers = side.published
        # Published numbers are rounded to 0.1 point or finer: three roundings of 0.05 at most.
        assert not numbers or numbers["gap"] == pytest.approx(numbers["average"] - numbers["worst"], abs=0.0016)
        assert (side.protocol == "train_rows") == (config_of(side, claim)[0].model == "textcnn")


def config_of(side, claim):
    """The cells of the paper's configurations that a side selects, by their configuration alone."""
    found = []
    for path in sorted((ROOT / "configs" / "paper").glob("*.yaml")):
        overrides = ["grid.model=[textcnn, distilbert]"] if path.stem.startswith("e4") else []
        for cell in config.cells(config.load(path, overrides)):
            facts = {**cell.model_dump(), "corpus": cell.corpus.name, "local.mu": cell.local.mu}
            if all(facts[name] in values for name, values in {**claim.where, **side.where}.items()):
                found.append(cell)
    return found


@pytest.mark.parametrize("claim", load(CLAIMS), ids=lambda claim: claim.id)
def test_every_published_claim_is_covered_by_a_configuration(claim):
    for side in claim.sides.values():
        cells = config_of(side, claim)
        assert cells, f"no configuration under configs/paper runs {side.where} of {claim.id}"
        assert max(cell.rounds for cell in cells) >= max(side.round, claim.round)
