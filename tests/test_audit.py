"""Facts that follow from class counts, against hand counts, the protocols themselves, and other simulations."""

import json
import socket
import sys
import unicodedata
from functools import partial
from math import comb, exp, log, pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedjax_paradox.cli import app
from fedjax_paradox.config import cells, load
from fedjax_paradox.data.partition import class_counts, dirichlet_partition
from fedjax_paradox.errors import InputError
from fedjax_paradox.evaluation.audit import audit_partition, audit_protocol
from fedjax_paradox.evaluation.mixtures import (
    DRAWS,
    EVALUATIONS,
    Setting,
    defined,
    effective_classes,
    effective_rows,
    equal_accuracy,
    noise_gap,
)
from fedjax_paradox.evaluation.protocols import PROTOCOLS, View
from fedjax_paradox.federated.methods import RULES
from fedjax_paradox.federated.rules import weighted_mean
from fedjax_paradox.storage import folder
from fedjax_paradox.sweep.audits import audit, in_output_folder, not_run, rule_weights
from fedjax_paradox.sweep.program import prepare
from fedjax_paradox.terminal import audit as audit_text

NAMES = ("World", "Sports", "Business", "Sci/Tech")


def make(train, test=(50, 50, 50), holdout=None, available=None, scored=None):
    train = np.array(train)
    return Setting(
        train,
        np.zeros_like(train) if holdout is None else np.array(holdout),
        np.array(test),
        train.any(axis=1) if available is None else np.array(available),
        np.full(len(train), True) if scored is None else np.array(scored),
    )


def findings(setting, protocol=None, rules=None):
    """code -> the findings of that code, under one protocol or of the partition."""
    rules, names = rules or {}, NAMES[: len(setting.test)]
    found = audit_protocol(protocol, setting, names, rules) if protocol else audit_partition(setting, names, rules)
    return {code: [one for one in found if one.code == code] for code in dict.fromkeys(one.code for one in found)}


# ---- mixtures of recalls


drawn_counts = st.integers(0, 3).flatmap(
    lambda seed: st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=6).map(
        lambda rows: (seed, np.array(rows))
    )
)


@settings(max_examples=40, deadline=None)
@given(drawn_counts, st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any))
def test_mixtures_give_what_the_protocols_count(drawn, test_counts):
    seed, counts = drawn
    if not counts.any():
        return
    generator = np.random.default_rng(seed)
    pieces = [np.repeat(np.arange(3), row) for row in counts]
    labels = np.concatenate(pieces)
    rows = np.split(np.arange(len(labels)), np.cumsum([len(piece) for piece in pieces])[:-1])
    held_out = [generator.random(len(one)) < 0.3 for one in rows]
    train, holdout = ([one[out == flag] for one, out in zip(rows, held_out, strict=True)] for flag in (False, True))
    test_labels = np.repeat(np.arange(3), test_counts)
    right, test_right = generator.random(len(labels)) < 0.6, generator.random(len(test_labels)) < 0.6
    view = View(right, test_right, labels, test_labels, train, holdout, 3)
    by_class = partial(class_counts, labels=labels, num_classes=3)
    setting = Setting(by_class(train), by_class(holdout), np.array(test_counts), *np.full((2, len(rows)), True))

    def recall(correct, labels, rows):
        return np.array([correct[rows][labels[rows] == c].mean() if (labels[rows] == c).any() else 0 for c in range(3)])

    for name, evaluation in ((name, build(setting)) for name, build in EVALUATIONS.items()):
        correct, total = PROTOCOLS[name].counts(view)
        counted = setting.train.any(axis=1) & (total > 0)
        if name != "holdout":  # a client without train rows may still hold rows out, and then it is scored
            assert defined(evaluation).tolist() == counted.tolist()
        assert evaluation.rows.sum(axis=1)[counted].tolist() == total[counted].tolist()
        for k in np.flatnonzero(counted):
            own = {"train_rows": train, "holdout": holdout}.get(name)
            recalls = recall(right, labels, own[k]) if own else recall(test_right, test_labels, slice(None))
            # A few float64 roundings of numbers up to 1.
            assert evaluation.mixture[k] @ recalls == pytest.approx(correct[k] / total[k], abs=1e-12)


def test_effective_classes_by_hand():
    got = effective_classes(np.array([[2, 2, 2, 2], [0, 7, 0, 0], [0, 0, 0, 0], [3, 1, 0, 0]]))
    entropy = -(0.75 * log(0.75) + 0.25 * log(0.25))
    assert got == pytest.approx([4, 1, 0, exp(entropy)])


def test_effective_rows_by_hand():
    setting = make([[1, 1, 0], [3, 1, 0], [0, 0, 0], [0, 0, 5]])
    assert effective_rows(EVALUATIONS["label_filtered"](setting)) == pytest.approx([100, 100, 0, 50])
    # Client 1: variance p(1-p) (9/16 + 1/16) / 50, as of 80 rows.
    assert effective_rows(EVALUATIONS["label_matched"](setting)) == pytest.approx([100, 80, 0, 50])
    assert effective_rows(EVALUATIONS["train_rows"](setting)) == pytest.approx([2, 4, 0, 5])


def test_equal_accuracies_are_grouped():
    setting = make([[9, 1, 0], [1, 9, 0], [0, 0, 4], [0, 0, 9], [0, 0, 0], [3, 3, 3]])

    def groups(name):
        return sorted(group.tolist() for group in equal_accuracy(EVALUATIONS[name](setting)))

    assert groups("label_filtered") == [[0, 1], [2, 3], [5]]
    assert groups("label_matched") == [[0], [1], [2, 3], [5]]
    assert groups("global") == [[0, 1, 2, 3, 5]]
    assert groups("train_rows") == [[0], [1], [2], [3], [5]]


# ---- the noise gap


def pmf(n, p):
    return np.array([comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])


def test_noise_gap_of_two_clients_is_exact():
    n, p = 40, 0.9
    gaps = np.abs(np.subtract.outer(np.arange(n + 1), np.arange(n + 1))) / (2 * n)  # mean - min of two
    chances = np.outer(pmf(n, p), pmf(n, p))
    mean = (gaps * chances).sum()
    deviation = sqrt((gaps**2 * chances).sum() - mean**2)
    got, bound = noise_gap(EVALUATIONS["train_rows"](make([[n, 0], [0, n]], (1, 1))), p)
    assert got == pytest.approx(mean, abs=4 * deviation / sqrt(DRAWS))  # four standard errors of DRAWS draws
    # The quantile's own sampling error: 4 * sqrt(0.95 * 0.05 / DRAWS) of probability.
    slack = 4 * sqrt(0.95 * 0.05 / DRAWS)
    assert chances[gaps <= bound + 1e-9].sum() >= 0.95 - slack
    assert chances[gaps < bound - 1e-9].sum() <= 0.95 + slack


def test_noise_gap_of_two_large_clients_is_sigma_over_root_pi():
    n, p = 20_000, 0.9
    mean, _ = noise_gap(EVALUATIONS["holdout"](make([[1], [1]], (1,), [[n], [n]])), p)
    # E|X - Y| = 2 sigma / sqrt(pi) for normals, halved by mean - min; a relative standard error is
    # sqrt(pi / 2 - 1) / sqrt(DRAWS) = 0.76 %, and four of them are allowed.
    assert mean == pytest.approx(sqrt(p * (1 - p) / n) / sqrt(pi), rel=0.031)


def test_noise_gap_of_clients_that_share_rows_against_single_rows():
    setting = make([[5, 5, 0], [0, 5, 5], [5, 0, 1], [2, 2, 2]], (30, 60, 20))
    generator, draws, p = np.random.default_rng(1), 4_000, 0.8
    labels = np.repeat(np.arange(3), setting.test)
    right = generator.random((draws, len(labels))) < p
    clients = [np.isin(labels, np.flatnonzero(counts)) for counts in setting.train]
    accuracies = np.stack([right[:, rows].mean(axis=1) for rows in clients], axis=1)
    gaps = accuracies.mean(axis=1) - accuracies.min(axis=1)
    mean, bound = noise_gap(EVALUATIONS["label_filtered"](setting), p)
    error = gaps.std() * sqrt(1 / draws + 1 / DRAWS)
    assert mean == pytest.approx(gaps.mean(), abs=4 * error)  # four standard errors of the difference
    # 0.95 as an observed share of `draws`: four standard errors, plus those of the bound.
    assert (gaps <= bound).mean() == pytest.approx(0.95, abs=4 * sqrt(0.95 * 0.05 * (1 / draws + 1 / DRAWS)))


def test_noise_vanishes_where_all_share_the_rows():
    assert noise_gap(EVALUATIONS["global"](make([[1, 0], [0, 2]], (20, 20)))) == (
        pytest.approx(0),
        pytest.approx(0),
    )


# ---- findings, each on a case that has it and on one that lacks it

MIXED = make([[40, 40, 40], [40, 0, 40], [0, 40, 40]])
FULL = make([[40, 40, 40], [1, 2, 3]])
HELD = MIXED._replace(holdout=np.array([[9, 9, 9], [30, 0, 9], [0, 40, 40]]))
FAVOURING = {"rule": {"leaves": np.array([0.8, 0.1, 0.1])}}
NEUTRAL = {"rule": {"leaves": np.array([0.5, 0.25, 0.25])}}
SKEWED = make([[20, 20, 20], [30, 0, 0], [0, 15, 15]])

CASES = {
    # code: (protocol, has it, lacks it, numbers that must be among the finding's)
    "empty-client": (None, make([[1, 1, 1], [0, 0, 0]]), FULL, {"clients": [1]}),
    "scored-but-not-trained": (None, FULL._replace(available=np.array([1, 0], bool)), FULL, {"clients": [1]}),
    "test-split-one-class": (None, FULL._replace(test=np.array([0, 9, 0])), FULL, {"class": "Sports", "rows": 9}),
    "train-rows-not-held-out": ("train_rows", MIXED, None, {"rows": 280}),
    "undefined-accuracy": (
        "holdout",
        HELD._replace(holdout=HELD.holdout * [[1], [0], [1]]),
        HELD,
        {"clients": [1]},
    ),
    "gap-zero-by-construction": ("label_filtered", FULL, MIXED, {"clients": [0, 1], "rows": 150}),
    "shared-evaluation-rows": (
        "label_filtered",
        make([[1, 1, 1], [0, 2, 2], [0, 9, 1]]),
        MIXED,
        {"clients": [1, 2], "rows": 100, "equal": True},
    ),
    "single-class-recall": ("label_filtered", SKEWED, MIXED, {"classes": {1: "World"}}),
    "few-evaluation-rows": (
        "train_rows",
        make([[10, 19, 0], [10, 20, 0]]),
        make([[10, 20, 0], [1, 3, 26]]),  # the latter is 29.999... in float64
        {"effective_rows": {0: 29.0}, "threshold": 30},
    ),
    "noise-gap": ("label_filtered", MIXED, FULL, {"accuracy": 0.9}),
    "protocol-unknown": ("my:own", MIXED, None, {"protocol": "my:own"}),
}


@pytest.mark.parametrize("code", CASES)
def test_a_finding_where_it_is_and_only_there(code):
    protocol, has, lacks, numbers = CASES[code]
    (found,) = findings(has, protocol)[code]
    assert numbers.items() <= found.numbers.items()
    assert found.sentence.endswith(".")
    others = [(lacks, protocol)] if lacks is not None else [(has, name) for name in EVALUATIONS if name != protocol]
    for setting, name in others:
        assert code not in findings(setting, name)


def test_rows_shared_at_other_weights_are_not_called_equal():
    (found,) = findings(FULL, "label_matched")["shared-evaluation-rows"]
    assert found.numbers == {"clients": [0, 1], "rows": 150, "equal": False}


def test_own_models_of_clients_take_back_what_one_model_would_decide(experiment, tmp_path):
    """At alpha 1000 all clients hold all classes: one model scores them alike, models of their own need not."""
    every = [
        audit(
            cells(load(experiment, ["grid.alpha=[1000.0]", "grid.model=[textcnn]", f"grid.rule={rules}"])),
            tmp_path / "cache",
        )
        for rules in (["fedavg"], ["ditto"], ["fedavg", "local_only"])
    ]
    told = [[{f.code for f in each.protocols["label_filtered"]} for each in audits] for audits in every]
    shared, apart = "gap-zero-by-construction", "own-models"
    assert [[(shared in codes, apart in codes) for codes in audits] for audits in told] == [
        [(True, False)],
        [(False, True)],
        [(True, False), (False, True)],
    ]


def test_only_one_scored_client_makes_the_gap_zero():
    setting = make([[4, 0, 0], [0, 3, 0]], (0, 9, 0))
    assert findings(setting, "label_filtered")["gap-zero-by-construction"][0].numbers["clients"] == [1]


def test_single_class_test_split_is_said_once():
    setting = make([[40, 40, 0], [0, 40, 0]], (0, 90, 0))
    assert "single-class-recall" not in findings(setting, "label_filtered")
    assert "single-class-recall" in findings(setting, "train_rows")


def test_rule_that_favours_a_client_scored_like_the_average():
    def found(setting, rules, protocol="label_filtered"):
        return findings(setting, protocol, rules).get("rule-favours-average-client", [])

    (one,) = found(SKEWED, FAVOURING)
    assert one.numbers["client"] == 0
    # rows 60, 30, 30: shares 1/2, 1/4, 1/4
    assert one.numbers["weight_over_share"] == pytest.approx([1.6, 0.4, 0.4])
    assert not found(SKEWED, NEUTRAL)
    assert not found(SKEWED, {"rule": {"leaves": np.array([0.1, 0.8, 0.1])}})
    assert not found(SKEWED, FAVOURING, "train_rows")  # each client has rows of its own
    assert not found(FULL, {"rule": {"leaves": np.array([0.1, 0.9])}})  # nobody is scored otherwise
    # Three of four share their rows, and with them what is the average, although they lack a class.
    majority = make([[5, 5, 0], [5, 5, 0], [5, 5, 0], [0, 0, 10]])
    assert found(majority, {"rule": {"leaves": np.array([0.7, 0.1, 0.1, 0.1])}})
    assert not found(make([[5, 5, 0], [0, 0, 10]]), {"rule": {"leaves": np.array([0.7, 0.3])}})


def test_shares_are_those_of_the_clients_that_take_part():
    setting = SKEWED._replace(available=np.array([True, True, False]))
    rules = {"rule": {"leaves": np.array([0.8, 0.2, 0.0])}}
    (one,) = findings(setting, "label_filtered", rules)["rule-favours-average-client"]
    assert one.numbers["weight_over_share"] == pytest.approx([0.8 / (60 / 90), 0.2 / (30 / 90), 0])


def test_rule_that_neglects_a_client_scored_on_one_class():
    (one,) = findings(SKEWED, "label_filtered", FAVOURING)["rule-neglects-single-class"]
    assert one.numbers["clients"] == [1]
    assert "rule-neglects-single-class" not in findings(SKEWED, "label_filtered", NEUTRAL)
    assert "rule-neglects-single-class" not in findings(SKEWED, "global", FAVOURING)


def test_rule_of_unknown_weights_is_named():
    assert findings(FULL, rules={"mine": None})["rule-weights-unknown"][0].numbers == {"rule": "mine"}
    assert "rule-weights-unknown" not in findings(FULL, rules={"mine": {"all leaves": np.array([0.5, 0.5])}})


# ---- the weights of rules

SIZES = make([[10, 0], [30, 10], [0, 1], [5, 4]], (9, 9), available=[True, True, False, True])


def test_rule_weights_are_the_formulas():
    rows, mask = np.array([10, 40, 1, 9.0]), np.array([1, 1, 0, 1.0])

    def normal(weights):
        return pytest.approx(weights * mask / (weights * mask).sum(), rel=1e-6)  # float32

    for adapters in (False, True):
        for rule, weights in (("fedavg", rows), ("uniform", rows**0)):
            got = rule_weights(rule, SIZES, adapters)
            assert list(got) == ["all leaves"]
            assert got["all leaves"] == normal(weights)
    got = rule_weights("fedavgw(beta=0.5)", SIZES, True)
    assert got["adapter leaves"] == normal(rows**-0.5)
    assert got["other leaves"] == normal(rows)
    assert rule_weights("fedavgw(beta=0.5)", SIZES, False)["all leaves"] == normal(rows)


def test_rule_weights_that_training_decides_are_unknown(monkeypatch):
    monkeypatch.setitem(RULES, "by_loss", lambda: weighted_mean(lambda updates: updates.loss))
    assert rule_weights("by_loss", SIZES, False) is None
    assert rule_weights("fedjax_paradox.federated.rules:fedavg", SIZES, False) is None


def test_rule_mistakes_are_refused():
    with pytest.raises(InputError, match="did you mean 'fedavg'"):
        rule_weights("fedavgg", SIZES, False)
    with pytest.raises(InputError, match="takes"):
        rule_weights("fedavg(beta=0.5)", SIZES, False)


# ---- the published settings: class sizes alone (arXiv:2605.08992)


def published(alpha):
    labels = np.repeat(np.arange(4), 30_000)
    return make(class_counts(dirichlet_partition(labels, 10, alpha, 42), labels, 4), [1900] * 4)


@pytest.mark.parametrize("alpha", [1.0, 5.0])
def test_published_gap_of_zero_is_by_construction(alpha):
    (found,) = findings(published(alpha), "label_filtered")["gap-zero-by-construction"]
    assert found.numbers == {"clients": list(range(10)), "rows": 7600}
    assert "gap-zero-by-construction" not in findings(published(alpha), "train_rows")
    assert "gap-zero-by-construction" not in findings(published(alpha), "label_matched")


def test_published_half_alpha_leaves_one_client_apart():
    found = findings(published(0.5), "label_filtered")
    assert found["shared-evaluation-rows"][0].numbers["clients"] == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    assert "gap-zero-by-construction" not in found


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_published_inverse_size_weights_favour_the_wrong_client(beta):
    setting = published(0.1)
    rule = f"fedavgw(beta={beta})"
    rules = {name: rule_weights(name, setting, True) for name in ("fedavg", rule)}
    found = findings(setting, "label_filtered", rules)
    assert found["single-class-recall"][0].numbers == {"classes": {3: "Sci/Tech"}}
    (favoured,) = found["rule-favours-average-client"]
    assert (favoured.numbers["rule"], favoured.numbers["leaves"]) == (rule, "adapter leaves")
    assert favoured.numbers["client"] == np.argmin(setting.train.sum(axis=1))
    # Independent: w / share = n^-beta / sum n^-beta * sum n / n, in float32.
    rows = setting.train.sum(axis=1)
    lift = rows**-beta / (rows**-beta).sum() * rows.sum() / rows
    assert favoured.numbers["weight_over_share"] == pytest.approx(lift, rel=1e-5)


def test_published_training_accuracy_is_named_as_such():
    for alpha in (0.1, 5.0):
        assert "train-rows-not-held-out" in findings(published(alpha), "train_rows")
        assert "train-rows-not-held-out" not in findings(published(alpha), "label_filtered")


def test_published_sentiment_test_split_has_one_class():
    labels = np.repeat([0, 1], [24_963, 15_037])
    for alpha in (0.1, 1.0):
        setting = make(class_counts(dirichlet_partition(labels, 10, alpha, 42), labels, 2), (0, 8000))
        assert findings(setting)["test-split-one-class"][0].numbers == {"class": "Sports", "rows": 8000}
        found = findings(setting, "label_filtered")
        assert found["gap-zero-by-construction"][0].numbers["rows"] == 8000
        without = np.flatnonzero(setting.train.any(axis=1) & (setting.train[:, 1] == 0)).tolist()
        told = [one.numbers["clients"] for one in found.get("undefined-accuracy", [])]
        assert told == ([without] if without else [])
        assert bool(without) == (alpha == 0.1)


# ---- the command


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDJAX_PARADOX_CACHE", str(tmp_path / "cache"))
    for split, rows in (("train", 80), ("test", 20)):
        lines = [f"word{i},{('sad', 'happy', 'flat', 'odd')[i % 4]}" for i in range(rows)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "name: tiny\n"
        f"corpus: {{files: {{train: {tmp_path}/train.csv, test: {tmp_path}/test.csv}}}}\n"
        "models: {distilbert: {architecture: transformer, weights: no-such-weights}}\n"
        "num_clients: 4\n"
        "grid: {alpha: [0.1, 100.0], model: [textcnn, distilbert], rule: [fedavg, fedavgw(beta=0.5)]}\n"
    )
    return path


def test_command_prints_every_partition_once(experiment, tmp_path):
    result = CliRunner().invoke(app, ["audit", str(experiment)], catch_exceptions=False)
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    text = " ".join(result.output.split())
    assert "partition 2 of 2" in text
    assert "partition 3" not in text
    for cell in cells(load(experiment)):
        assert text.count(cell.name + ";") + text.count(cell.name + " ") == 1
    for word in ("sad", "happy", "flat", "odd", "kinds", "gap-zero-by-construction:", "train-rows-not-held-out:"):
        assert word in text
    assert "w3: fedavgw(beta=0.5), other leaves" in text
    assert not list((tmp_path / "cache").rglob("tokens-*"))  # labels are enough


def test_command_takes_overrides(experiment):
    arguments = ["audit", str(experiment), "grid.alpha=[0.1]", "protocols=[global]"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "partition 1 of 1" in result.output
    assert "train_rows" not in result.output
    with pytest.raises(InputError, match="num_clients"):
        CliRunner().invoke(app, ["audit", str(experiment), "num_clients=81"], catch_exceptions=False)


def test_many_classes_and_clients_fit_the_width(experiment, tmp_path):
    for split, rows in (("train", 400), ("test", 40)):
        lines = [f"word{i},a-long-class-name-{i % 20:02}" for i in range(rows)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    result = CliRunner().invoke(app, ["audit", str(experiment), "num_clients=50"], catch_exceptions=False)
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80


def test_clients_are_those_of_a_run(experiment, tmp_path):
    found = cells(load(experiment, ["grid.model=[textcnn]", "partition.holdout_fraction=0.2"]))
    (one, other) = audit(found, tmp_path / "cache")
    (program,) = prepare(found, tmp_path / "cache")
    for cell, clients in zip(program.cells, program.clients, strict=True):
        told = next(setting for cells_, setting in ((a.cells, a.setting) for a in (one, other)) if cell.name in cells_)
        assert np.array_equal(told.train, clients.class_counts)
        assert np.array_equal(told.holdout.sum(axis=1), [len(rows) for rows in clients.holdout])
        assert np.flatnonzero(told.available).tolist() == clients.available.tolist()
    assert not np.array_equal(one.setting.train, other.setting.train)


# ---- somebody else's folder


@pytest.fixture
def trap(experiment, tmp_path, monkeypatch):
    """A module that leaves a mark where it is imported, and the configs that name it."""
    (tmp_path / "trap.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'sprung')!r}).touch()\n"
        "def blocks(labels, num_clients, **_):\n    import numpy as np\n"
        "    return list(np.array_split(np.arange(len(labels)), num_clients))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield experiment.read_text().partition("models:")[0]
    sys.modules.pop("trap", None)


def test_the_functions_of_a_strangers_cells_are_not_imported(trap, tmp_path):
    config = tmp_path / "theirs.yaml"
    config.write_text(f"{trap}grid: {{partition.kind: ['trap:blocks', iid], rule: ['trap:rule', fedavg]}}\n")
    every = cells(load(config))
    found = audit(every, tmp_path / "cache", own_code=False)
    assert not (tmp_path / "sprung").exists()
    assert {name for one in found for name in one.cells} == {c.name for c in every if c.partition.kind == "iid"}
    assert found[0].weights["trap:rule"] is None
    assert not_run(every) == [
        "partition.kind trap:blocks is the folder's own code and was not run; no audit of "
        "rule=trap:rule,partition.kind=trap:blocks; rule=fedavg,partition.kind=trap:blocks.",
        "rule trap:rule is the folder's own code and was not run; its weights are not known in "
        "rule=trap:rule,partition.kind=trap:blocks; rule=trap:rule,partition.kind=iid.",
    ]


def test_a_persons_own_config_may_use_their_functions(trap, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(f"{trap}partition: {{kind: 'trap:blocks'}}\n")
    assert not in_output_folder(config)
    (found,) = audit(cells(load(config)), tmp_path / "cache")
    assert (tmp_path / "sprung").exists()
    assert found.setting.train.sum(axis=1).tolist() == [8] * 10


@pytest.mark.parametrize("beside", ["experiment.json", "cells.parquet", None])
def test_a_config_in_an_output_folder_is_a_runs(tmp_path, beside):
    config = tmp_path / "config.yaml"
    text = "name: theirs\n"
    config.write_text(folder.with_header(text) if beside is None else text)
    if beside:
        (tmp_path / beside).touch()
    assert in_output_folder(config)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "study.yaml"
    link.symlink_to(config)
    assert in_output_folder(link)


def test_a_strangers_corpus_is_not_fetched(tmp_path, monkeypatch):
    config = tmp_path / "theirs.yaml"
    config.write_text("name: theirs\ncorpus: {name: somebody/some-texts}\n")
    called = []

    def connect(*where, **_):
        called.append(where)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    with pytest.raises(InputError, match="somebody/some-texts"):
        audit(cells(load(config)), tmp_path / "cache", own_code=False)
    assert called == []


def test_names_are_inert_on_a_terminal(tmp_path):
    evil = "\x1b[31mred\u202edlo[/x]\r"
    for name in ("train", "test"):
        told = [{"text": "a word", "label": "one" if row % 2 else evil} for row in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, told)))
    config = tmp_path / "config.yaml"
    files = f"{{train: {tmp_path}/train.jsonl, test: {tmp_path}/test.jsonl}}"
    config.write_text(f"name: x\ncorpus: {{files: {files}}}\nnum_clients: 3\n")
    said = audit_text.report(audit(cells(load(config)), tmp_path / "cache"))
    assert not [letter for letter in said if unicodedata.category(letter)[0] == "C" and letter != "\n"]
    assert "\\x1b[31mred\\u202edlo[/x]\\r" in said.replace("\n", "")


def test_clients_that_are_not_scored_are_in_no_finding_of_a_protocol():
    counts = [[40, 0, 0], [0, 40, 0], [20, 20, 0], [5, 0, 0]]
    setting = make(counts, scored=[True, True, True, False])
    found = findings(setting, "label_matched")
    (single,) = found["single-class-recall"]
    assert list(single.numbers["classes"]) == [0, 1]
    # The same as of a partition that has the three alone.
    assert found["noise-gap"] == findings(make(counts[:3]), "label_matched")["noise-gap"]
    assert "few-evaluation-rows" not in findings(setting, "train_rows")
