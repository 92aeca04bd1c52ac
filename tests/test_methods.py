"""Methods in whole runs: what shares a program, what composes, and what a line to compare with is."""

import jax
import numpy as np
import pytest
import toy
from checkpoints import random_checkpoint

from fedjax_paradox.errors import InputError
from fedjax_paradox.federated.methods import OF_ADAPTERS, RULES
from fedjax_paradox.federated.objectives import OBJECTIVES
from fedjax_paradox.storage import checkpoint

BAG = ("model=bag", "rounds=2")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    with pytest.MonkeyPatch.context() as patch, toy.compilation_cached(tmp_path_factory.getbasetemp()):
        patch.syspath_prepend(folder)
        yield toy.write(folder)


def test_centralised_is_one_client_with_the_rows_of_all(config, tmp_path):
    """Five clients hold twelve rows each, in order; pooled they are one client with all sixty."""
    blocks = (*BAG, "partition.kind=mine:blocks", "partition.holdout_fraction=0.0", "protocols=[global]")
    leaves = []
    for name, more in (("pooled", ["rule=centralised"]), ("alone", ["rule=fedavg", "num_clients=1"])):
        toy.execute(config, tmp_path / name, *blocks, *more)
        leaves.append(toy.stored(tmp_path / name, toy.study(config, *blocks, *more)[1])[1])
    for one, other in zip(*leaves, strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_is_scored_with_the_clients_of_the_others(config, tmp_path):
    table = toy.execute(config, tmp_path, *BAG, "grid.rule=[fedavg, centralised]")
    rows = {
        name: [
            (r["round"], r["protocol"], r["client"], r["train_rows"], r["total"])
            for r in table.to_pylist()
            if r["rule"] == name
        ]
        for name in ("fedavg", "centralised")
    }
    assert rows["fedavg"] == rows["centralised"]


@pytest.mark.parametrize(
    ("axis", "programs"),
    [
        ("rule=[fedavg, 'fedavgm(lr=0.3)', 'fedavgm(lr=0.5)', fedadam, 'fedadam(tau=0.1)', uniform]", 1),
        ("rule=[median, 'trimmed_mean(trim=0.2)', fednova]", 1),
        ("rule=['scaffold(lr=0.5)', 'scaffold(lr=1.0)', fedavg]", 2),
        ("local.objective=['fedlc(tau=0.5)', 'fedlc(tau=1.0)']", 1),
        ("local.objective=[fedlc, cross_entropy]", 2),
    ],
)
def test_numbers_are_data_and_client_halves_are_structure(config, axis, programs):
    assert len(toy.study(config, *BAG, f"grid.{axis}")[1]) == programs


# These change the kernels under LoRA pairs.
OF_KERNELS = ("fedex_lora", "flora")


@pytest.mark.conformance
def test_every_method_runs_from_its_name_alone(config, tmp_path):
    """In one grid; and leaves are finite, since nothing diverged."""
    names = [name if name != "fedavgw" else "fedavgw(beta=0.5)" for name in RULES if name not in OF_ADAPTERS]
    table = toy.execute(config, tmp_path, "model=bag", "rounds=1", "participation=0.5", f"grid.rule={names}")
    assert set(table["rule"].to_pylist()) == {*names} - {"fedavgw(beta=0.5)"} | {"fedavgw(beta=0.5)"}


@pytest.mark.parametrize("rule", OF_ADAPTERS)
def test_adapters_are_asked_of_models_that_have_them(config, rule):
    """Without any, they would be FedAvg under another name."""
    told = f"rule '{rule}' .* LoRA adapters, of which models.bag has none; take a model with"
    with pytest.raises(InputError, match=told):
        toy.study(config, *BAG, f"rule={rule}")


@pytest.fixture(scope="module")
def encoder(config):
    """A tiny DistilBERT with a vocabulary of the toy's words, as a setting of the toy study."""
    folder = random_checkpoint(config.parent / "encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(word for words in toy.WORDS.values() for word in words)]
    (folder / "vocab.txt").write_text("\n".join(words))
    local = "{optimizer: sgd, learning_rate: 0.3}"
    tiny = f"architecture: transformer, weights: {folder}, lora_rank: 2, max_length: 8, local: {local}"
    text = config.read_text().replace("models:\n", f"models:\n  tiny: {{{tiny}}}\n")
    (config.parent / "tiny.yaml").write_text(text)
    return config.parent / "tiny.yaml"


@pytest.mark.conformance
def test_kernels_are_a_cells_own_only_under_rules_that_change_them(encoder, tmp_path):
    """The first round of FedEx-LoRA and FLoRA starts as FedIT's does; the kernels move in the checkpoint."""
    study, moved = ("model=tiny", "rounds=2"), {}
    for rule in ("fedavg", *OF_ADAPTERS):
        out = tmp_path / rule
        toy.execute(encoder, out, *study, f"rule={rule}")
        _, (program,) = toy.study(encoder, *study, f"rule={rule}")
        (found,) = checkpoint.restore(out / "checkpoints", program.identities, out / "damaged").values()
        kernels = {name: leaf for name, leaf in found.leaves.items() if "base_kernel" in name}
        start, frozen = program.initial()
        first = start["layer_0"]["attention"]["q_lin"].get("base_kernel")
        if rule in OF_KERNELS:
            (leaf,) = (leaf for name, leaf in kernels.items() if "layer_0" in name and "q_lin" in name)
            moved[rule] = np.abs(leaf - np.asarray(first)[0]).max()
            assert "kernel" not in frozen["layer_0"]["attention"]["q_lin"]
        assert len(kernels) == (4 if rule in OF_KERNELS else 0)
    assert moved["fedex_lora"] > 0
    assert moved["flora"] > 1e-4


def test_clients_with_models_of_their_own_are_scored_with_them(config, tmp_path):
    """Clients alone from the first round on are as many federations of one: the same counts under every protocol."""
    study = ("model=bag", "rounds=2", "partition.holdout_fraction=0.0", "protocols=[train_rows, label_matched, global]")
    apart = toy.execute(config, tmp_path / "apart", *study, "rule=local_only").to_pylist()
    (config.parent / "single.py").write_text(SINGLE)
    for client in (0, 2, 4):
        with_one = (*study, f"partition.kind=single:only_{client}")
        alone = toy.execute(config, tmp_path / str(client), *with_one, "rule=fedavg").to_pylist()
        keys = ("round", "protocol", "correct", "total")
        got, expected = ([[r[k] for k in keys] for r in rows if r["client"] == client] for rows in (apart, alone))
        assert got == expected


def test_a_models_rows_are_those_that_decide_its_scores(config, tmp_path):
    """With a protocol that looks at all clients' rows every model predicts all rows; nobody else's numbers change."""
    (config.parent / "looks.py").write_text(LOOKS)
    study = ("model=bag", "rounds=2", "rule=ditto", "grid.num_clients=[3, 5]", "evaluate_clients=3")
    kinds = "train_rows, label_filtered, label_matched, holdout, global"
    few, every = (
        toy.execute(config, tmp_path / name, *study, f"protocols=[{kinds}{more}]").to_pylist()
        for name, more in (("few", ""), ("every", ', "looks:at_all"'))
    )
    assert [row for row in every if row["protocol"] != "looks:at_all"] == few
    assert {row["correct"] for row in every if row["protocol"] == "looks:at_all"} - {0.0}


LOOKS = """
import numpy as np


def at_all(view):
    held = np.concatenate(view.train_rows)
    clients = len(view.train_rows)
    return np.full(clients, float(view.train_correct[held].sum())), np.full(clients, len(held))
"""

SINGLE = """
import numpy as np
from fedjax_paradox.data.partition import dirichlet_partition


def only(client, labels, num_clients, alpha, seed):
    every = dirichlet_partition(labels, num_clients, alpha, seed)
    return [rows if number == client else rows[:0] for number, rows in enumerate(every)]


def only_0(labels, num_clients, alpha, seed, **_):
    return only(0, labels, num_clients, alpha, seed)


def only_2(labels, num_clients, alpha, seed, **_):
    return only(2, labels, num_clients, alpha, seed)


def only_4(labels, num_clients, alpha, seed, **_):
    return only(4, labels, num_clients, alpha, seed)
"""


@pytest.mark.conformance
def test_every_objective_runs_from_its_name_alone_with_a_table_and_without(config, tmp_path):
    for model in ("bag", "textcnn"):
        out = tmp_path / model
        table = toy.execute(config, out, f"model={model}", "rounds=1", f"grid.local.objective={[*OBJECTIVES]}")
        assert len(set(table["cell"].to_pylist())) == len(OBJECTIVES)


def test_an_objective_leaves_the_words_of_others_alone_or_moves_them(config, tmp_path):
    """Sparse or dense: FedLC on TextCNN against the same loss with a transform of nothing, which trains densely."""
    (config.parent / "dense.py").write_text(
        "import optax\nfrom fedjax_paradox.federated.objectives import fedlc\n\n\ndef fedlc_dense(tau=1.0):\n"
        "    return fedlc(tau)._replace(transform=lambda client: optax.identity())\n"
    )
    study = ("rounds=2", "models.textcnn.dropout=0.0", "local.weight_decay=0.01")
    leaves = []
    for name in ("fedlc(tau=0.7)", "dense:fedlc_dense(tau=0.7)"):
        out = tmp_path / name.partition(":")[0]
        toy.execute(config, out, *study, f"local.objective='{name}'")
        leaves.append(toy.stored(out, toy.study(config, *study, f"local.objective='{name}'")[1])[1])
    for one, other in zip(*leaves, strict=True):
        # Rows at rest are brought forward by a power of a matrix in one run, step by step in the other.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_leaf_that_is_not_trained_stays_as_it_was(config, tmp_path):
    """To the bit, in spite of weight decay; the other leaf moves. One client: a mean of equal leaves would round."""
    (config.parent / "half.py").write_text(
        "from fedjax_paradox.federated.types import Local\n\n\ndef head_alone():\n"
        "    return Local(trains=lambda path: path[0].key == 'head')\n"
    )
    study = (*BAG, "num_clients=1", "local.weight_decay=0.1", "local.objective=half:head_alone")
    _, programs = toy.study(config, *study)
    toy.execute(config, tmp_path, *study)
    start = programs[0].initial()[0]
    adapter, head = toy.stored(tmp_path, programs)[1]
    np.testing.assert_array_equal(adapter, start["adapter"])
    assert np.abs(head - start["head"]).max() > 1e-3


def leaves_of(out, programs, clients):
    """Of the only cell with so many clients: its global leaves and its rule's state."""
    cells = [pair for program in programs for pair in zip(program.cells, program.identities, strict=True)]
    ((_, identity),) = [(cell, identity) for cell, identity in cells if cell.num_clients == clients]
    return checkpoint.restore(out / "checkpoints", [identity], out / "damaged")[identity].leaves


@pytest.mark.parametrize("rule", ["scaffold", "afl", "ditto", "mine:last_seen"])
def test_a_state_of_each_client_is_of_the_cells_own_clients(config, tmp_path, rule):
    """Three clients, alone and beside a cell of ten."""
    study, found = (*BAG, f"rule={rule}", "partition.kind=iid"), []
    for clients in ("num_clients=3", "grid.num_clients=[3, 10]"):
        out = tmp_path / str(len(found))
        toy.execute(config, out, *study, clients)
        found.append(leaves_of(out, toy.study(config, *study, clients)[1], 3))
    alone, beside = found
    assert {name: leaf.shape for name, leaf in alone.items()} == {name: leaf.shape for name, leaf in beside.items()}
    for name, leaf in alone.items():
        np.testing.assert_allclose(beside[name], leaf, rtol=1e-4, atol=1e-6)  # sums in another order


@pytest.mark.parametrize(
    ("call", "same"),
    [
        ("local.optimizer='sgd(momentum=0.5)'", "local.momentum=0.5"),
        ("partition.kind='shards(shards_per_client=3)'", "partition.kind=shards partition.shards_per_client=3"),
        ("partition.kind='mine:shifted(by=0)'", "partition.kind=mine:blocks"),
        ("protocols=['mine:first_row(rows=1)']", "protocols=['mine:first_row']"),
        ("models.bag.architecture='mine:bag(width=3)' models.bag.options={}", "models.bag.options={width: 3}"),
        ("local.optimizer='mine:clipped(most=1000.0)'", "local.momentum=0.0"),
    ],
)
def test_a_call_says_what_keys_or_defaults_say(config, tmp_path, call, same):
    counts = []
    for name, settings in (("call", call), ("keys", same)):
        overrides = [part for part in settings.split(" ") if part]
        table = toy.execute(config, tmp_path / name, *BAG, *regrouped(overrides))
        counts.append([(r["round"], r["client"], r["correct"], r["total"]) for r in table.to_pylist()])
    assert counts[0] == counts[1]


def regrouped(words):
    """Overrides of words that were parted at blanks, of which a value may have some."""
    found = []
    for word in words:
        if ("=" in word and word.partition("=")[0].replace(".", "").replace("_", "").isalpha()) or not found:
            found.append(word)
        else:
            found[-1] += " " + word
    return found


@pytest.mark.parametrize(
    ("axis", "programs"),
    [
        ("local.optimizer=['adamw(b1=0.8)', 'adamw(b1=0.9)']", 1),
        ("local.optimizer=['mine:clipped(most=0.01)', 'mine:clipped(most=100)']", 1),
        ("local.optimizer=['sgd(momentum=0.0)', 'sgd(momentum=0.99)', sgd]", 1),
        ("local.optimizer=[adamw, 'mine:clipped']", 2),
        ("partition.kind=['mine:shifted(by=1)', 'mine:shifted(by=2)', iid]", 1),
    ],
)
def test_numbers_of_every_call_can_be_swept_in_one_program(config, tmp_path, axis, programs):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a Python float to an integer power
        assert len(toy.study(config, *BAG, f"grid.{axis}")[1]) == programs
        table = toy.execute(config, tmp_path, *BAG, "rounds=1", f"grid.{axis}")
    cells = {}
    for row in table.to_pylist():
        cells.setdefault(row["cell"], []).append((row["correct"], row["total"]))
    assert len({str(counts) for counts in cells.values()}) == len(cells)  # and each does something


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("local.optimizer='sgd(beta=0.9)'", r"local.optimizer 'sgd' takes no numbers, got \['beta'\]"),
        (
            "local.optimizer='mine:clipped(least=1)'",
            r"local.optimizer 'mine:clipped' takes \['most'\], got",
        ),
        ("local.optimizer=mine:l2", r"local.optimizer 'mine:l2' does not fit the model"),
        ("partition.kind='iid(alpha=1)'", r"partition.kind 'iid' takes no numbers, got \['alpha'\]"),
        ("protocols=['global(rows=1)']", r"protocol 'global' takes no numbers, got \['rows'\]"),
        ("rule='fedavgm(momentum=0.9)'", r"rule 'fedavgm' takes \['lr', 'beta'\], got \['momentum'\]; write it as"),
        ("local.objective='fedlc(t=1)'", r"local.objective 'fedlc' takes \['tau', 'smoothing'\], got \['t'\]"),
        ("local.objective=fedprx", r"unknown local.objective 'fedprx': did you mean 'fedprox'"),
        ("local.mu=0.1", r"cross_entropy does not read local.mu \(got 0.1\); set local.objective=fedprox"),
    ],
)
def test_a_call_that_does_not_fit_says_what_would(config, setting, told):
    with pytest.raises(InputError, match=told):
        toy.study(config, *BAG, setting)
