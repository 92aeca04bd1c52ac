"""From cells to programs: what shares a compilation, who takes part, and what a name stands for."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import checkpoints
import jax
import numpy as np
import pytest
import toy

from fedjax_paradox.errors import InputError
from fedjax_paradox.evaluation.protocols import PROTOCOLS
from fedjax_paradox.federated.methods import RULES
from fedjax_paradox.registry import resolve
from fedjax_paradox.sweep.batches import by_length
from fedjax_paradox.sweep.rounds import asked_of_models, job_lengths, measure, plan_round, predict

TRAIN, TEST = 60, 24


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    with pytest.MonkeyPatch.context() as patch, toy.compilation_cached(tmp_path_factory.getbasetemp()):
        patch.syspath_prepend(folder)
        yield toy.write(folder)


def programs(config, *overrides):
    return toy.study(config, *overrides)[1]


def only(config, *overrides):
    [program] = programs(config, *overrides)
    return program


# What shares a program


@pytest.mark.parametrize(
    "axis",
    [
        "alpha=[0.1, 5.0]",
        "num_clients=[2, 5]",
        "rule=[fedavg, uniform]",
        "partition_seed=[1, 2]",
        "seed=[1, 2]",
        "participation=[0.5, 1.0]",
        "min_participant_rows=[1, 2]",
        "partition.kind=[iid, shards]",
        "partition.min_client_rows=[0, 1]",
        "local.learning_rate=[0.1, 0.2]",
        "local.epochs=[1, 2]",
        "local.drop_ragged=[true, false]",
        "models.textcnn.dropout=[0.1, 0.5]",
    ],
)
def test_numbers_share_one_program(config, axis):
    assert len(only(config, f"grid.{axis}").cells) == 2


@pytest.mark.parametrize(
    "axis",
    [
        "model=[textcnn, bag]",
        "models.textcnn.filters=[2, 3]",
        "models.textcnn.dropout=[0.0, 0.5]",
        "models.textcnn.compute_dtype=[float32, bfloat16]",
        "corpus.train_rows=[50, 60]",
        "local.batch_size=[4, 8]",
        "local.optimizer=[sgd, adamw]",
        "local.objective=[cross_entropy, fedprox]",
        "rounds=[2, 3]",
    ],
)
def test_structure_needs_a_program_of_its_own(config, axis):
    assert [len(program.cells) for program in programs(config, f"grid.{axis}")] == [1, 1]


def test_dropout_rates_are_numbers_of_the_cells(config):
    program = only(config, "grid.models.textcnn.dropout=[0.5, 0.1]", "grid.seed=[1, 2]")
    names = [cell.name for cell in program.cells]
    assert names == [f"seed={seed},models.textcnn.dropout={rate}" for seed in (1, 2) for rate in (0.1, 0.5)]
    rates = {name: values.tolist() for name, values in program.hyper.rates.items()}
    assert rates == {"dropout": pytest.approx([0.1, 0.5, 0.1, 0.5])}
    assert only(config, "model=bag").hyper.rates == {}
    assert only(config, "models.textcnn.dropout=0.0").hyper.rates == {}
    own = only(config, "model=small", "models.small={architecture: 'mine:small', max_length: 8}", "grid.seed=[1, 2]")
    assert own.hyper.rates["dropout"].tolist() == [0.25, 0.25]


def test_the_rates_and_the_compute_type_of_a_transformer(config, tmp_path):
    encoder = checkpoints.random_checkpoint(tmp_path)
    words = [word for group in toy.WORDS.values() for word in group]
    (encoder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    tiny = {"architecture": "transformer", "weights": str(encoder), "max_length": 8, "attention_dropout": 0.0}
    tiny["compute_dtype"] = "bfloat16"
    program = only(config, "model=tiny", f"models.tiny={json.dumps(tiny)}", "grid.models.tiny.head_dropout=[0.2, 0.4]")
    rates = {name: values.tolist() for name, values in program.hyper.rates.items()}
    expected = {"lora_dropout": [0.1, 0.1], "dropout": [0.1, 0.1], "head_dropout": [0.2, 0.4]}
    assert rates == {name: pytest.approx(values) for name, values in expected.items()}
    globals_, frozen = program.initial()
    assert {leaf.dtype for leaf in jax.tree.leaves(globals_)} == {np.dtype("float32")}
    assert frozen["embeddings"]["word"]["embedding"].dtype == "bfloat16"


def test_the_order_of_a_grid_does_not_order_a_program(config):
    """Checkpoints stack the cells, and the content hash does not know the order in which a grid was written."""
    one = programs(config, "grid.model=[textcnn, bag]", "grid.alpha=[0.1, 5.0, 10.0]")
    other = programs(config, "grid.alpha=[10.0, 0.1, 5.0]", "grid.model=[bag, textcnn]")
    assert [program.cells for program in one] == [program.cells for program in other]
    assert [cell.alpha for cell in one[0].cells] == [0.1, 5.0, 10.0]


# Start


def test_a_seed_settles_the_first_global_model_and_the_cells_share_frozen_leaves(config):
    program = only(config, "model=bag", "grid.seed=[1, 2]", "grid.alpha=[0.1, 5.0]")
    globals_, frozen = program.initial()
    seeds = [cell.seed for cell in program.cells]
    assert sorted(seeds) == [1, 1, 2, 2]
    table = np.asarray(globals_["adapter"])
    for index, seed in enumerate(seeds):
        assert all((table[index] == table[other]).all() == (seed == seeds[other]) for other in range(4))
        key = jax.random.fold_in(jax.random.key(seed), 0)
        assert (np.asarray(program.model.init(key)[0]["adapter"]) == table[index]).all()
    assert frozen["scale"].shape == (3,)


# Who takes part


def test_empty_and_one_row_clients(config):
    program = only(config)
    [clients] = program.clients
    sizes = clients.class_counts.sum(axis=1)
    assert sizes.tolist() == [20, 1, 15, 0, 14]
    assert clients.available.tolist() == [0, 1, 2, 4]
    jobs, participants = plan_round(program, 1)
    assert [job.client for job in jobs] == [0, 1, 2, 4]
    assert participants.mask.tolist() == [[True] * 4]
    assert participants.rows.tolist() == [[20.0, 1.0, 15.0, 14.0]]
    assert (participants.class_counts[0] == clients.class_counts[[0, 1, 2, 4]]).all()
    # Batch 8, two epochs, the ragged batch dropped where there is a full one.
    assert [len(job.steps) for job in jobs] == [4, 2, 2, 2] == job_lengths(program)
    assert jobs[1].steps.tolist() == [[clients.train[1][0]] + [-1] * 7] * 2


@pytest.mark.parametrize(("least", "expected"), [(1, [0, 1, 2, 4]), (2, [0, 2, 4]), (15, [0, 2]), (20, [0])])
def test_min_participant_rows_leaves_small_clients_out(config, least, expected):
    program = only(config, f"min_participant_rows={least}")
    assert [job.client for job in plan_round(program, 1)[0]] == expected


def test_no_participant_at_all_is_refused(config):
    with pytest.raises(InputError, match=r"no client has min_participant_rows=21 .*largest has 20.*lower it"):
        programs(config, "min_participant_rows=21")


def test_every_epoch_visits_every_train_row_once_and_no_other(config):
    program = only(config, "local.drop_ragged=false", "grid.num_clients=[3, 5]", "grid.seed=[1, 2]")
    for job in plan_round(program, 2)[0]:
        held = program.clients[job.cell].train[job.client]
        epochs = job.steps.reshape(2, -1)
        assert all(sorted(epoch[epoch >= 0]) == sorted(held) for epoch in epochs)
        assert not np.isin(program.clients[job.cell].holdout[job.client], job.steps).any()


def test_participation_draws_anew_each_round_from_the_seed(config):
    program = only(config, "participation=0.5", "num_clients=4", "partition.kind=iid", "grid.seed=[1, 2]")
    assert program.slots == 2
    drawn = [
        tuple(job.client for job in plan_round(program, round_)[0] if job.cell == cell)
        for cell in range(2)
        for round_ in range(1, 21)
    ]
    assert {len(set(clients)) for clients in drawn} == {2}
    one, other = drawn[:20], drawn[20:]
    assert one != other
    assert len(set(one)) > 3  # of the six pairs
    assert {client for clients in one for client in clients} == {0, 1, 2, 3}
    again = [tuple(job.client for job in plan_round(program, r)[0] if job.cell == 0) for r in range(1, 21)]
    assert again == one


def test_cells_of_different_size_share_the_slots(config):
    program = only(config, "grid.num_clients=[2, 5]", "alpha=5.0")
    jobs, participants = plan_round(program, 1)
    assert program.slots == 5
    assert participants.mask.tolist() == [[True] * 2 + [False] * 3, [True] * 5]
    assert [job.slot for job in jobs] == [0, 1, 5, 6, 7, 8, 9]
    assert (participants.rows[0, 2:] == 0).all()


# What is predicted and how it is counted


@pytest.mark.parametrize(
    "protocols", ["[global]", "[label_matched]", "[train_rows]", "[holdout]", "[holdout, train_rows]"]
)
def test_only_rows_that_a_protocol_reads_are_predicted(config, protocols):
    program = only(config, f"protocols={protocols}")
    [clients] = program.clients
    expected = set(range(TRAIN, TRAIN + TEST))
    for name, kind in (("train_rows", clients.train), ("holdout", clients.holdout)):
        if name in protocols:
            expected |= set(np.concatenate(kind).tolist())
    assert set(program.predicted.tolist()) == expected
    assert len(program.predicted) == len(expected)


def test_a_clients_own_model_predicts_the_test_rows_and_the_clients(config):
    program = only(config, "rule=ditto", "protocols=[train_rows, label_matched]", "evaluate_clients=2")
    [clients] = program.clients
    asked = [set(program.predicted[places].tolist()) for places in asked_of_models(program)]
    test = set(range(TRAIN, TRAIN + TEST))
    held = zip(*clients.rows_of_scored(), strict=True)
    assert asked == [
        test | set(own.tolist()) | set(kept.tolist()) & set(program.predicted.tolist()) for own, kept in held
    ]
    program = only(config, "grid.seed=[1, 2]", "protocols=[train_rows, label_matched]")
    assert [places.tolist() for places in asked_of_models(program)] == [list(range(len(program.predicted)))] * 2


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize(("trailing", "lengths"), [(None, [24]), (0, [8, 16, 24]), (2, [8, 16, 24])])
def test_rows_of_a_length_are_predicted_together_and_come_back_in_their_order(config, trailing, lengths, packs):
    """With an engine that answers with the numbers of row and model: rows keep all that their model reads of them."""
    program = only(config)
    words = np.arange(TRAIN + TEST) % 24  # row 0 is empty
    tokens = (np.arange(24) < words[:, None]).astype(np.int32)
    engine = SimpleNamespace(
        devices=1,
        predict_batch=2,
        predict=lambda step, _frozen, _tokens, asked, **_how: asked[1] + step * asked[0][:, None],
    )
    program = program._replace(
        corpus=replace(program.corpus, train_tokens=tokens[:TRAIN], test_tokens=tokens[TRAIN:]),
        model=program.model._replace(trailing=trailing, packs=packs),
        engine=engine,
    )
    asked = np.arange(TRAIN + TEST, dtype=np.int32)[::-1]
    some = np.array([3, 4, 20])
    batches = by_length(program, asked, [np.arange(len(asked)), some])
    assert [batch.length for batch in batches] == lengths
    read = np.where(words == 0, 24, np.minimum(words + (24 if trailing is None else trailing), 24))
    assert all((read[batch.rows] <= batch.length).all() for batch in batches)
    for batch in batches:
        most = words[batch.rows].sum(axis=1).max()
        assert batch.tokens == (min(-(-most // 16) * 16, 2 * batch.length) if packs else None)
    expected = np.full((2, len(asked)), -1)
    expected[0], expected[1, some] = asked, asked[some] + 1000
    np.testing.assert_array_equal(predict(program, 1000, None, batches), expected)


@pytest.mark.parametrize("devices", [1, 3])
def test_batches_to_predict_hold_nearly_as_many_tokens_each(config, devices):
    """Of 200 rows of 1 to 60 tokens, 16 rows a batch."""
    program = only(config)
    words = np.random.default_rng(0).integers(1, 61, 200)
    tokens = (np.arange(64) < words[:, None]).astype(np.int32)
    program = program._replace(
        corpus=replace(program.corpus, train_tokens=tokens[:100], test_tokens=tokens[100:]),
        model=program.model._replace(trailing=None, packs=True),
        engine=SimpleNamespace(devices=devices, predict_batch=16),
    )
    asked = np.random.default_rng(1).permutation(200)[:150]
    [batch] = by_length(program, asked, [np.arange(150)])
    assert batch.rows.shape == (-(-150 // (16 * devices)) * devices, 16)
    assert set(batch.rows.ravel().tolist()) == set(asked.tolist())
    totals = words[batch.rows].sum(axis=1)
    assert np.ptp(totals) <= 8  # dealt there and back, so that what remains is a turn's difference
    assert totals.max() <= batch.tokens < totals.max() + 16


@pytest.mark.parametrize("rule", ["fedavg", "centralised"])
def test_the_largest_number_of_places_is_enough_for_any_batch_of_any_round_and_no_more(config, tmp_path, rule):
    """Texts of 1 to 20 words, 30 rounds in which half of the clients take part; places are counted in steps of 16."""
    lengths = np.random.default_rng(0).permutation(np.arange(TRAIN) % 20 + 1)
    lines = [f"{'word ' * length},{'abc'[row % 3]}" for row, length in enumerate(lengths.tolist())]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *lines]))
    (tmp_path / "test.csv").write_text("text,label\nword,a\n")
    files = [f"corpus.files.{name}={tmp_path}/{name}.csv" for name in ("train", "test")]
    settings = ("participation=0.5", "local.batch_size=4", f"rule={rule}", "rounds=30", "models.textcnn.max_length=24")
    program = only(config, *files, *settings)
    jobs = [job for round_ in range(1, 31) for job in plan_round(program, round_)[0]]
    most = max(int(np.where(job.steps >= 0, lengths[job.steps], 0).sum(axis=1).max()) for job in jobs)
    clients = program.clients[0].train
    held = clients if rule == "fedavg" else [np.concatenate(clients)]
    bound = max(sum(sorted(lengths[rows].tolist())[-4:]) for rows in held)
    [*_, whole] = program.trainer.sizes
    assert most <= bound <= whole.tokens < bound + 16


def test_measure_counts_what_the_predictions_say(config):
    """Against loops over clients and rows, with predictions made up."""
    program = only(config)
    labels = np.concatenate([program.corpus.train_labels, program.corpus.test_labels])
    classes = np.random.default_rng(0).integers(0, 3, TRAIN + TEST)[program.predicted]
    right = dict(zip(program.predicted.tolist(), classes == labels[program.predicted], strict=True))
    found = measure(program, 0, classes)
    for client, rows in enumerate(program.clients[0].train):
        assert found["train_rows"][0][client] == sum(bool(right[row]) for row in rows.tolist())
        assert found["train_rows"][1][client] == len(rows)
        assert found["global"][0][client] == sum(bool(right[TRAIN + row]) for row in range(TEST))
    assert list(found) == ["train_rows", "label_filtered", "label_matched", "holdout", "global"]


# What a name stands for


@pytest.mark.parametrize(("what", "table"), [("rule", RULES), ("protocol", PROTOCOLS)])
def test_known_names_win(what, table):
    for name, entry in table.items():
        assert resolve(what, name, table) is entry


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown rule 'fedavgg': did you mean 'fedavg'.*module:function"):
        resolve("rule", "fedavgg", RULES)
    with pytest.raises(InputError, match=r"unknown rule 'krum': known are afl, .*, uniform;"):
        resolve("rule", "krum", RULES)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module:f", "cannot be imported.*No module named.*PYTHONPATH"),
        ("mine:no_such_function", "cannot be imported.*no attribute 'no_such_function'"),
        ("mine:NOT_A_FUNCTION", "must be module:function, but NOT_A_FUNCTION is of type int"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(config, name, reason):  # noqa: ARG001
    with pytest.raises(InputError, match=f"rule '{name}' {reason}"):
        resolve("rule", name, RULES)


@pytest.mark.parametrize(
    ("rule", "call"),
    [
        ("fedavgw", r"fedavgw\(beta=0.5\)"),
        ("fedavgw(gamma=1.0)", r"fedavgw\(beta=0.5\)"),
        ("fedavgw(beta=1.0, gamma=1.0)", r"fedavgw\(beta=0.5\)"),
        ("fedavg(beta=1.0)", "write it as fedavg$"),
        ("mine:momentum", r"mine:momentum\(decay=0.5\)"),
    ],
)
def test_the_numbers_of_a_rule_are_checked(config, rule, call):
    with pytest.raises(InputError, match=f"takes .*, got .*; write it as.*{call}|{call}"):
        programs(config, f"rule={rule}")


def test_a_persons_own_functions_take_their_places(config):
    program = only(
        config,
        "model=bag",
        "rule=mine:momentum(decay=0.5)",
        "partition.kind=mine:blocks",
        "local.objective=mine:frozen_head",
        "protocols=[mine:first_row, global]",
    )
    [clients] = program.clients
    # Blocks of twelve rows, a fifth of them held out.
    assert [len(rows) for rows in clients.train] == [10] * 5
    assert [set(rows // 12) for rows in clients.train] == [{0}, {1}, {2}, {3}, {4}]
    assert program.protocols["mine:first_row"].counts.__name__ == "first_row"
    assert program.engine.init_rules(program.initial()[0])[0]["head"].shape == (1, 3, 3)
    assert set(program.predicted.tolist()) >= set(np.concatenate(clients.train).tolist())


INTEGERS = [np.arange(start, 60, 5) for start in range(5)]


@pytest.mark.parametrize(
    "made",
    [
        INTEGERS[:4],
        [*INTEGERS[:4], np.array([60])],
        [*INTEGERS[:4], np.array([-1])],
        [*INTEGERS[:4], np.array([4.5])],
        [*INTEGERS[:4], [4]],
        [*INTEGERS[:4], INTEGERS[0]],
        [*INTEGERS[:4], np.array([4, 4])],
        [],
    ],
    ids=["four clients", "past the end", "negative", "fraction", "list", "shared", "twice", "none"],
)
def test_a_persons_own_partition_is_checked(config, monkeypatch, made):
    monkeypatch.setitem(sys.modules, "theirs", SimpleNamespace(split=lambda **_: made))
    with pytest.raises(InputError, match=r"'theirs:split' must return num_clients=5 .*distinct rows in 0\.\.59"):
        programs(config, "partition.kind=theirs:split")


def test_an_option_that_an_architecture_does_not_take_is_refused(config):
    with pytest.raises(InputError, match=r"architecture 'mine:bag'.*widht"):
        programs(config, "model=bag", "models.bag.options.widht=4")
