"""The loop: what it stores, that it goes on where it stopped to the bit, and what it refuses.

Recounts use nothing of the engine: the arrays of a checkpoint, NumPy and plain loops.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import checkpoints
import jax
import numpy as np
import pyarrow as pa
import pytest
import toy

from fedjax_paradox.config import to_yaml
from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import cells, checkpoint, results
from fedjax_paradox.sweep.rounds import plan_round
from fedjax_paradox.sweep.run import Diverged, Finished, Started, Trained, begin, run, train

# A read that Orbax gives up leaves coroutines behind, which complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# Two cells of unlike size; in the second, client 3 has no rows and client 1 a single one.
STUDY = ("grid.num_clients=[3, 5]",)
PROTOCOLS = ["train_rows", "label_filtered", "label_matched", "holdout", "global"]
RULES = ("fedavg", "uniform", "fedavgw(beta=0.5)")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch, toy.compilation_cached(tmp_path_factory.getbasetemp()):
        patch.syspath_prepend(folder)
        yield toy.write(folder)


@pytest.fixture(scope="module")
def finished(config):
    """(out, table, programs) of a run that nothing has disturbed; copy `out` before changing it."""
    experiment, programs = toy.study(config, *STUDY)
    out = config.parent / "finished"
    return out, run(experiment, programs, out, lambda _: None), programs


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


class Stop(Exception):  # noqa: N818
    """Stands for whatever ends a run."""


def stop_after(round_, program=0):
    def notify(event):
        if isinstance(event, Finished) and (event.program, event.round) == (program, round_):
            raise Stop

    return notify


@pytest.fixture
def compiled(caplog):
    """How often each function of an engine is compiled while the test runs."""

    def count():
        # `advance` is compiled ahead of time, once a run, and refuses any other shape.
        found = Counter(
            match[1] for message in caplog.messages if (match := re.match(r"Compiling jit\((\w+)\)", message))
        )
        return {name: found[name] for name in ("init_rules", "begin", "aggregate", "predict")}

    with jax.log_compiles():
        yield count


ONCE = dict.fromkeys(("init_rules", "begin", "aggregate", "predict"), 1)


def recorded():
    events = []
    return events, events.append


# What is stored


def test_one_row_for_every_cell_round_protocol_and_client(finished):
    out, table, _ = finished
    assert results.read(out).equals(table)
    expected = [
        (f"num_clients={clients}", round_, protocol, client)
        for round_ in (1, 2, 3)
        for clients in (3, 5)
        for protocol in PROTOCOLS
        for client in range(clients)
    ]
    keys = ["cell", "round", "protocol", "client"]
    assert [tuple(row.values()) for row in table.select(keys).to_pylist()] == expected
    facts = {"corpus": "toy", "model": "textcnn", "rule": "fedavg", "alpha": 0.1, "partition_seed": 15, "seed": 42}
    assert {tuple(row.values()) for row in table.select(list(facts)).to_pylist()} == {tuple(facts.values())}
    assert {(r["cell"], r["num_clients"]) for r in table.select(["cell", "num_clients"]).to_pylist()} == {
        ("num_clients=3", 3),
        ("num_clients=5", 5),
    }


def textcnn(leaves, tokens):
    """Class of one row, in NumPy: Kim (2014) without dropout. tokens: i32[T]."""
    words = np.stack([leaves["globals.embedding"][token] * (token != 0) for token in tokens])
    features = []
    for width in (2, 3):
        kernel, bias = (leaves[f"globals.conv_{width}.{kind}"] for kind in ("kernel", "bias"))
        windows = [words[i : i + width] for i in range(len(words) - width + 1)]
        responses = np.stack([np.einsum("we,wef->f", window, kernel) + bias for window in windows])
        features.append(np.maximum(responses, 0.0).max(axis=0))
    logits = np.concatenate(features) @ leaves["globals.classifier.kernel"] + leaves["globals.classifier.bias"]
    return int(np.argmax(logits))


def recount(corpus, clients, leaves):
    """(protocol, client) -> (correct, total) of one cell, client by client and row by row."""
    train_labels, test_labels = corpus.train_labels.tolist(), corpus.test_labels.tolist()
    leaves = {name: np.asarray(leaf, np.float64) for name, leaf in leaves.items()}
    train = [textcnn(leaves, row) == label for row, label in zip(corpus.train_tokens, train_labels, strict=True)]
    test = [textcnn(leaves, row) == label for row, label in zip(corpus.test_tokens, test_labels, strict=True)]
    counts = {}
    for client, (rows, kept_out) in enumerate(zip(clients.train, clients.holdout, strict=True)):
        held = [train_labels[row] for row in rows]
        seen = [right for right, label in zip(test, test_labels, strict=True) if label in held]
        matched = 0.0
        for label in set(held):
            of_class = [right for right, other in zip(test, test_labels, strict=True) if other == label]
            matched += held.count(label) / len(held) * sum(of_class) / len(of_class)
        counts["train_rows", client] = sum(train[row] for row in rows), len(rows)
        counts["label_filtered", client] = sum(seen), len(seen)
        counts["label_matched", client] = matched * len(seen), len(seen)
        counts["holdout", client] = sum(train[row] for row in kept_out), len(kept_out)
        counts["global", client] = sum(test), len(test)
    return counts


@pytest.mark.parametrize("round_", [2, 3])
def test_the_table_is_what_the_checkpoint_predicts(finished, tmp_path, round_):
    out, table, programs = finished
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    if round_ == 2:
        shutil.rmtree(toy.checkpoints(copy) / "3")
    program = programs[0]
    stored = checkpoint.restore(copy / "checkpoints", program.identities, tmp_path)
    for index, (cell, identity) in enumerate(zip(program.cells, program.identities, strict=True)):
        assert stored[identity].round == round_
        expected = recount(program.corpus, program.clients[index], stored[identity].leaves)
        rows = [r for r in table.to_pylist() if (r["cell"], r["round"]) == (cell.name, round_)]
        assert {(r["protocol"], r["client"]): r["total"] for r in rows} == {k: t for k, (_, t) in expected.items()}
        # Whole numbers are exact; the reweighted one is a sum of a few fractions in double precision.
        correct = {(r["protocol"], r["client"]): r["correct"] for r in rows}
        assert correct == {k: pytest.approx(c, rel=1e-12, abs=0) for k, (c, _) in expected.items()}
        assert [r["train_rows"] for r in rows] == [len(held) for held in programs[0].clients[index].train] * 5


def test_something_was_learnt(finished):
    """Else the recount would compare constants."""
    _, table, _ = finished
    correct = [
        sum(r["correct"] for r in table.to_pylist() if (r["round"], r["protocol"]) == (round_, "train_rows"))
        for round_ in (1, 3)
    ]
    assert correct[1] > correct[0]


def test_an_empty_client_has_rows_without_an_accuracy(finished):
    _, table, _ = finished
    rows = [r for r in table.to_pylist() if (r["cell"], r["client"], r["round"]) == ("num_clients=5", 3, 3)]
    totals = {r["protocol"]: (r["train_rows"], r["total"]) for r in rows}
    assert totals == {name: (0, 24 if name == "global" else 0) for name in PROTOCOLS}
    assert {r["correct"] for r in rows if r["total"] == 0} == {0.0}


def test_the_folder_says_what_ran(finished):
    out, _, programs = finished
    assert sorted(p.name for p in out.iterdir()) == [
        ".lock",
        "cells.parquet",
        "checkpoints",
        "clients.parquet",
        "config.yaml",
        "experiment.json",
        "participants.parquet",
        "rounds.parquet",
    ]
    assert sorted(p.name for p in toy.checkpoints(out).iterdir()) == ["2", "3"]  # checkpoints_kept is 2
    again, prepared = toy.study(out / "config.yaml")
    told, _, config = (out / "config.yaml").read_text().partition("\n")
    assert to_yaml(again) == config
    assert hashlib.sha256(config.encode()).hexdigest() in told
    assert prepared[0].cells == programs[0].cells
    _, leaves = toy.stored(out, programs)
    each = sum(leaf.size for leaf in leaves) // len(programs[0].cells)  # no rule here keeps anything
    assert {entry.trainable_parameters for entry in cells.read(out).values()} == {each}


def test_frozen_weights_and_data_are_never_in_a_checkpoint(config, tmp_path):
    """By the names that Orbax lists on disk, by shapes and by size."""
    sizes = {"layers": 1, "vocabulary": 2000}
    encoder = checkpoints.write_checkpoint(
        tmp_path / "encoder", checkpoints.random_config(**sizes), checkpoints.random_tensors(**sizes)
    )
    words = [word for group in toy.WORDS.values() for word in group]
    (encoder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    still = {f"{part}dropout": 0.0 for part in ("", "lora_", "attention_", "head_")}  # compiles sooner
    tiny = {"architecture": "transformer", "weights": str(encoder), "max_length": 8, "lora_rank": 2, **still}
    experiment, programs = toy.study(config, "model=tiny", f"models.tiny={json.dumps(tiny)}", "rounds=1")
    with jax.numpy_dtype_promotion("standard"):  # optax's AdamW raises a float to an integer power
        run(experiment, programs, tmp_path / "out", lambda _: None)
    folder = toy.checkpoints(tmp_path / "out") / "1"
    named = json.loads((folder / "state" / "_METADATA").read_text())["tree_metadata"]
    (found,) = checkpoint.restore(folder.parents[1], programs[0].identities, tmp_path).values()
    shapes = {f"('{name}',)": leaf.shape for name, leaf in found.leaves.items()}  # the rule has no state
    assert shapes.keys() == named.keys()
    assert shapes == {
        **{
            f"('globals.layer_0.attention.{matrix}.lora_{factor}',)": shape
            for matrix in ("q_lin", "v_lin")
            for factor, shape in (("a", (32, 2)), ("b", (2, 32)))
        },
        "('globals.pre_classifier.kernel',)": (32, 32),
        "('globals.pre_classifier.bias',)": (32,),
        "('globals.classifier.kernel',)": (32, 3),
        "('globals.classifier.bias',)": (3,),
    }
    frozen = sum(leaf.nbytes for leaf in jax.tree.leaves(programs[0].initial()[1]))
    assert sum(map(len, toy.contents(folder).values())) < frozen / 4


# Going on where it stopped


def test_a_finished_run_changes_nothing_and_trains_nothing(config, finished, copy):
    _, table, _ = finished
    before = toy.contents(copy)
    events, notify = recorded()
    assert toy.execute(config, copy, *STUDY, notify=notify).equals(table)
    assert toy.contents(copy) == before
    assert events == []


@pytest.mark.parametrize("round_", [1, 2])
def test_a_stopped_run_ends_as_if_it_had_not_been(config, finished, tmp_path, round_):
    out, table, programs = finished
    experiment, prepared = toy.study(config, *STUDY)
    with pytest.raises(Stop):
        run(experiment, prepared, tmp_path, stop_after(round_))
    assert set(results.read(tmp_path)["round"].to_pylist()) == set(range(1, round_ + 1))
    experiment, prepared = toy.study(config, *STUDY)  # as a new process would
    assert run(experiment, prepared, tmp_path, lambda _: None).equals(table)
    assert (tmp_path / "clients.parquet").read_bytes() == (out / "clients.parquet").read_bytes()
    assert toy.same(toy.stored(tmp_path, prepared)[1], toy.stored(out, programs)[1])


def test_the_same_program_compiles_once_over_rounds_and_a_stop(config, tmp_path, compiled):
    """One set of compiled functions before and after: a restored array is to jit what a computed one is."""
    experiment, prepared = toy.study(config, *STUDY)
    with pytest.raises(Stop):
        run(experiment, prepared, tmp_path, stop_after(1))
    assert compiled() == ONCE
    run(experiment, prepared, tmp_path, lambda _: None)
    assert compiled() == ONCE


@pytest.mark.parametrize(("lost", "left"), [(["3"], 2), (["2", "3"], 0)])
def test_rows_newer_than_the_checkpoint_are_computed_again(config, finished, copy, lost, left):
    out, table, programs = finished
    for round_ in lost:
        shutil.rmtree(toy.checkpoints(copy) / round_)
    assert max(results.read(copy)["round"].to_pylist()) == 3
    events, notify = recorded()
    assert toy.execute(config, copy, *STUDY, notify=notify).equals(table)
    assert events[0] == Started(0, left)
    assert [event.round for event in events if isinstance(event, Finished)] == list(range(left + 1, 4))
    assert toy.same(toy.stored(copy, programs)[1], toy.stored(out, programs)[1])


def test_stale_rows_are_replaced_and_not_kept(config, finished, copy):
    """What stands in the table after the checkpoint's round is not believed."""
    _, table, _ = finished
    shutil.rmtree(toy.checkpoints(copy) / "3")
    after = pa.compute.greater(table["round"], 2)
    late = table.filter(after)
    wrong = late.set_column(table.schema.get_field_index("correct"), "correct", pa.array([-1.0] * len(late)))
    results.write(copy, [table.filter(pa.compute.invert(after)), wrong])
    assert toy.execute(config, copy, *STUDY).equals(table)


def test_a_grid_in_another_order_goes_on_with_its_own_cells(config, finished, tmp_path):
    _, table, _ = finished
    experiment, prepared = toy.study(config, "grid.num_clients=[5, 3]")
    with pytest.raises(Stop):
        run(experiment, prepared, tmp_path, stop_after(1))
    assert toy.execute(config, tmp_path, *STUDY).equals(table)


def test_a_run_stopped_in_its_second_program_goes_on_there(config, tmp_path):
    grid = ("model=bag", "grid.local.batch_size=[4, 8]", "rounds=2")
    expected = toy.execute(config, tmp_path / "whole", *grid)
    experiment, prepared = toy.study(config, *grid)
    with pytest.raises(Stop):
        run(experiment, prepared, tmp_path / "parts", stop_after(1, program=1))
    events, notify = recorded()
    assert toy.execute(config, tmp_path / "parts", *grid, notify=notify).equals(expected)
    assert [event for event in events if isinstance(event, Started)] == [Started(0, 1)]
    for number in (0, 1):
        one, other = (toy.stored(tmp_path / name, prepared, number)[1] for name in ("whole", "parts"))
        assert toy.same(one, other)


KILLED = ("model=bag", "grid.rule=[fedavg, mine:momentum(decay=0.5)]", "rounds=10")


def rounds_in(out):
    return max(results.read(out)["round"].to_pylist(), default=0)


def process(config, out):
    """The command as a person runs it, in a process of its own."""
    command = [sys.executable, "-c", "from fedjax_paradox.cli import main; main()", "run", str(config), *KILLED]
    root = str(Path(__file__).parent.parent)
    environment = {
        **os.environ,
        "FEDJAX_PARADOX_CACHE": str(config.parent / "cache"),
        "PYTHONPATH": os.pathsep.join([root, str(config.parent)]),
    }
    return subprocess.Popen(
        [*command, "--out", str(out)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=config.parent,
    )


def kill_at_round(config, out, round_):
    with process(config, out) as running:
        deadline = time.monotonic() + 120
        while running.poll() is None and rounds_in(out) < round_ and time.monotonic() < deadline:
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
        _, errors = running.communicate()
    assert running.returncode == -signal.SIGKILL, errors


@pytest.mark.conformance
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(config, tmp_path):
    experiment, prepared = toy.study(config, *KILLED)
    expected = run(experiment, prepared, tmp_path / "whole", lambda _: None)
    out = tmp_path / "killed"
    reached = []
    for round_ in (1, 4):
        kill_at_round(config, out, round_)
        reached.append(rounds_in(out))
    assert 1 <= reached[0] < 10
    assert 4 <= reached[1] < 10
    with process(config, out) as running:
        _, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert results.read(out).equals(expected)
    assert (out / "clients.parquet").read_bytes() == (tmp_path / "whole" / "clients.parquet").read_bytes()
    (round_, one), (_, other) = (toy.stored(tmp_path / name, prepared) for name in ("killed", "whole"))
    assert round_ == 10
    assert toy.same(one, other)
    assert [leaf.any() for leaf in one] == [True] * 4  # two global leaves, and their velocities


# What it refuses


@pytest.mark.conformance
def test_a_truncated_file_of_the_newest_checkpoint_is_named_set_aside_and_made_again(config, finished, tmp_path):
    out, table, programs = finished
    expected, damaged = toy.stored(out, programs), 0
    for number, file in enumerate(path for path in (toy.checkpoints(out) / "3").rglob("*") if path.is_file()):
        copy = Path(shutil.copytree(out, tmp_path / str(number)))
        target = copy / file.relative_to(out)
        target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
        events, notify = recorded()
        assert toy.execute(config, copy, *STUDY, notify=notify).equals(table)
        assert toy.stored(copy, programs)[0] == 3
        assert toy.same(toy.stored(copy, programs)[1], expected[1]), file
        assert [event.round for event in events if isinstance(event, Finished)] in ([], [3])
        if events:
            damaged += 1
            assert [path.name for path in (copy / "damaged").iterdir()] == [f"{toy.checkpoints(out).name}-3"]
    assert damaged > 2  # the list of contents, and what holds the arrays


def test_a_lost_or_cut_table_is_not_passed_off_as_the_whole(config, finished, copy):
    """Checkpoints alone cannot bring back the rounds before them."""
    _, table, _ = finished
    results.write(copy, [table.filter(pa.compute.not_equal(table["round"], 2))])
    with pytest.raises(InputError, match=r"clients.parquet lacks round 2 of cell num_clients=3.*restore the file"):
        toy.execute(config, copy, *STUDY)
    (copy / "clients.parquet").unlink()
    with pytest.raises(InputError, match=r"clients.parquet lacks round 1 of cell num_clients=3.*start again"):
        toy.execute(config, copy, *STUDY)
    shutil.rmtree(copy / "checkpoints")
    assert toy.execute(config, copy, *STUDY).equals(table)


# Weights grow by a factor of 100 in each step, so they leave float32 some rounds later.
DIVERGES = ("model=bag", "local.weight_decay=101.0", "local.momentum=0.0", "rounds=9")
DIVERGING_RATE = 1.0


def test_a_cell_that_diverges_stops_alone(config, tmp_path):
    """Two learning rates, one of which is too high: the other's numbers are those that it has without it."""
    rates = f"grid.local.learning_rate=[0.05, {DIVERGING_RATE}]"
    study = (*DIVERGES, rates)
    events, notify = recorded()
    table = toy.execute(config, tmp_path / "both", *study, notify=notify)
    (told,) = [event for event in events if isinstance(event, Diverged)]
    assert told.cell == f"local.learning_rate={DIVERGING_RATE}"
    assert told.client in (0, 1, 2, 4)
    assert 1 < told.round <= 9
    rounds = {name: [r["round"] for r in table.to_pylist() if r["cell"] == name] for name in set(by_column(table))}
    assert max(rounds[told.cell]) == told.round - 1
    assert max(rounds["local.learning_rate=0.05"]) == 9
    alone = toy.execute(config, tmp_path / "alone", *DIVERGES, "grid.local.learning_rate=[0.05]")
    assert by_cell(table, "local.learning_rate=0.05") == by_cell(alone)
    entry = cells.read(tmp_path / "both")[told.cell]
    assert (entry.status, entry.diverged_round, entry.diverged_client) == ("diverged", told.round, told.client)
    before = toy.contents(tmp_path / "both")
    again, notify = recorded()
    assert toy.execute(config, tmp_path / "both", *study, notify=notify).equals(table)
    assert again == []
    assert toy.contents(tmp_path / "both") == before
    experiment, programs = toy.study(config, *study)
    with begin(experiment, programs, tmp_path / "both", retry_diverged=True) as retried:
        ended = train(retried, notify)
    assert [event for event in again if isinstance(event, Diverged)] == [told._replace(program=0)]
    assert ended.table.equals(table)


def test_a_cell_that_diverges_in_its_first_round_has_no_rows(config, tmp_path):
    study = ("model=bag", "rounds=2", "local.objective=mine:frozen_head", "grid.local.learning_rate=[0.001, 1e12]")
    table = toy.execute(config, tmp_path, *study)
    assert set(by_column(table)) == {"local.learning_rate=0.001"}
    entry = cells.read(tmp_path)["local.learning_rate=1000000000000.0"]
    assert (entry.status, entry.diverged_round) == ("diverged", 1)
    events, notify = recorded()
    assert toy.execute(config, tmp_path, *study, notify=notify).equals(table)
    assert events == []


# Cells and lanes do not meet


def by_column(table, name="cell"):
    return table[name].to_pylist()


def by_cell(table, name=None):
    drop = [field for field in table.column_names if field != "cell"]
    return [tuple(r[k] for k in drop) for r in table.to_pylist() if name is None or r["cell"] == name]


def test_a_grid_over_rules_gives_each_cell_what_it_gets_alone(config, tmp_path):
    """One program of three rules on a model with adapters, against three programs of one."""
    bag = ("model=bag", "alpha=0.5")
    grid = f"grid.rule=[{', '.join(RULES)}]"
    experiment, prepared = toy.study(config, *bag, grid)
    assert len(prepared) == 1
    together = run(experiment, prepared, tmp_path / "grid", lambda _: None)
    _, leaves = toy.stored(tmp_path / "grid", prepared)
    adapters = {cell.rule: leaves[0][index] for index, cell in enumerate(prepared[0].cells)}
    for rule in RULES:
        experiment, alone = toy.study(config, *bag, f"rule={rule}")
        table = run(experiment, alone, tmp_path / rule, lambda _: None)
        assert by_cell(together, f"rule={rule}") == by_cell(table)
        # vmapping over one cell or three may round differently: a few units in the last place of float32.
        np.testing.assert_allclose(adapters[rule], toy.stored(tmp_path / rule, alone)[1][0][0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(adapters["fedavg"], adapters["uniform"], atol=1e-3)
    assert not np.allclose(adapters["fedavg"], adapters["fedavgw(beta=0.5)"], atol=1e-3)


@pytest.mark.conformance
def test_a_grid_over_dropout_gives_each_cell_what_it_gets_alone(config, tmp_path):
    """Rates that differ between the lanes of one program, against a program with one rate."""
    setting, rates = ("alpha=0.5", "lanes=3", "rounds=2"), (0.1, 0.5)
    experiment, prepared = toy.study(config, *setting, f"grid.models.textcnn.dropout={list(rates)}")
    assert len(prepared) == 1
    together = run(experiment, prepared, tmp_path / "grid", lambda _: None)
    _, leaves = toy.stored(tmp_path / "grid", prepared)
    for index, rate in enumerate(rates):
        experiment, alone = toy.study(config, *setting, f"models.textcnn.dropout={rate}")
        table = run(experiment, alone, tmp_path / str(rate), lambda _: None)
        assert by_cell(together, f"models.textcnn.dropout={rate}") == by_cell(table)
        for leaf, expected in zip(leaves, toy.stored(tmp_path / str(rate), alone)[1], strict=True):
            # The same draws; lanes of two cells or of one may sum in another order, over some ten steps.
            np.testing.assert_allclose(leaf[index], expected[0], rtol=1e-4, atol=1e-5)
    assert any(not np.allclose(*leaf, atol=1e-2) for leaf in leaves)


def test_the_number_of_lanes_is_no_part_of_the_result(config, finished, tmp_path):
    _, table, programs = finished
    experiment, prepared = toy.study(config, *STUDY, "lanes=3")
    found = run(experiment, prepared, tmp_path, lambda _: None)
    assert found.drop_columns(["correct"]).equals(table.drop_columns(["correct"]))
    one, three = toy.stored(finished[0], programs)[1], toy.stored(tmp_path, prepared)[1]
    for a, b in zip(one, three, strict=True):
        # Batched and single products sum in another order; three rounds of some ten steps carry that on.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_chosen_clients_alone_move_the_model(config, tmp_path):
    """participation: the rows that are trained are those of the drawn clients, and the seed draws them."""
    trained = {}
    for seed in (1, 2, 3):
        events, notify = recorded()
        overrides = ("model=bag", "participation=0.5", "local.drop_ragged=false", f"seed={seed}", "rounds=4")
        experiment, prepared = toy.study(config, *overrides)
        run(experiment, prepared, tmp_path / str(seed), notify)
        sizes = prepared[0].clients[0].class_counts.sum(axis=1)
        pairs = {2 * (sizes[a] + sizes[b]) for a in (0, 1, 2, 4) for b in (0, 1, 2, 4) if a < b}
        trained[seed] = [sum(e.rows for e in events if isinstance(e, Trained) and e.round == r) for r in (1, 2, 3, 4)]
        assert set(trained[seed]) <= pairs  # two of four, two epochs
    assert len(set(map(tuple, trained.values()))) > 1
    assert all(len(set(rows)) > 1 for rows in trained.values())


# A person's own functions


def test_a_persons_own_functions_run_and_do_what_they_say(config, tmp_path):
    own = (
        "model=bag",
        "partition.kind=mine:blocks",
        "partition.holdout_fraction=0.0",
        "protocols=[mine:first_row, global]",
        "local.objective=mine:frozen_head",
        "local.learning_rate=0.001",
        "local.momentum=0.0",
        "rule=mine:momentum(decay=0.5)",
    )
    experiment, prepared = toy.study(config, *own)
    table = run(experiment, prepared, tmp_path, lambda _: None)
    assert set(table["protocol"].to_pylist()) == {"mine:first_row", "global"}
    assert set(table["rule"].to_pylist()) == {"mine:momentum(decay=0.5)"}
    assert set(table["train_rows"].to_pylist()) == {12}
    first = [r for r in table.to_pylist() if r["protocol"] == "mine:first_row"]
    assert {r["total"] for r in first} == {1}
    round_, (adapter, head, *velocity) = toy.stored(tmp_path, prepared)
    assert round_ == 3
    assert [leaf.shape for leaf in velocity] == [adapter.shape, head.shape]
    assert velocity[1].any()


def test_an_objective_of_ones_own_reaches_the_words_that_a_batch_does_not_name(config, tmp_path):
    """An L2 term under SGD is weight decay, for every row of TextCNN's embedding; momentum included."""
    study = ("rounds=2", "models.textcnn.dropout=0.0")
    leaves = []
    for name, more in (("l2", ["local.objective=mine:l2"]), ("decay", ["local.weight_decay=0.1"])):
        experiment, prepared = toy.study(config, *study, *more)
        run(experiment, prepared, tmp_path / name, lambda _: None)
        leaves.append(toy.stored(tmp_path / name, prepared)[1])
    for one, other in zip(*leaves, strict=True):
        # The decay of untouched rows is a power of a matrix in one run and some twenty steps in the other.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_no_event_is_lost(config, tmp_path):
    """Started once, every row trained is told once, and every round ends with its rows of the table."""
    events, notify = recorded()
    table = toy.execute(config, tmp_path, *STUDY, "local.drop_ragged=false", notify=notify)
    assert isinstance(events[0], Started)
    ends = [event for event in events if isinstance(event, Finished)]
    assert [event.round for event in ends] == [1, 2, 3]
    assert pa.concat_tables([event.table for event in ends]).equals(table)
    assert all(event.seconds > 0 for event in ends)
    rows = sum(event.rows for event in events if isinstance(event, Trained))
    held = {(r["cell"], r["client"]): r["train_rows"] for r in table.to_pylist()}
    assert rows == 3 * 2 * sum(held.values())  # rounds, epochs


def test_a_rule_may_remember_every_client(config, tmp_path):
    """Some of three and of five clients take part; the state of the others stays as it was, to the bit."""
    study = (*STUDY, "rule=mine:last_seen", "participation=0.4")
    _, (program,) = toy.study(config, *study)
    toy.execute(config, tmp_path / "out", *study)
    stored = checkpoint.restore(tmp_path / "out" / "checkpoints", program.identities, tmp_path)
    seen = {(job.cell, job.client) for round_ in (1, 2, 3) for job in plan_round(program, round_)[0]}
    assert 2 < len(seen) < 8
    start = checkpoint.flat({"rule": program.initial()[0]})
    for index, (cell, identity) in enumerate(zip(program.cells, program.identities, strict=True)):
        leaves = stored[identity].leaves
        for name in start:
            state, before = leaves[name], np.asarray(start[name])[index]
            assert len(state) == cell.num_clients
            changed = {(index, client) for client, own in enumerate(state) if not np.array_equal(own, before)}
            assert changed == {job for job in seen if job[0] == index}
            mean = leaves[name.replace("rule", "globals", 1)]
            np.testing.assert_allclose(mean, state.mean(axis=0), rtol=1e-6, atol=1e-7)
