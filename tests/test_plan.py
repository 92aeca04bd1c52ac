"""How many lanes fit, and what is said where none do."""

import re
from pathlib import Path

import checkpoints
import jax
import numpy as np
import pytest
import toy

from fedjax_paradox.errors import InputError
from fedjax_paradox.federated.packing import schedule
from fedjax_paradox.storage import history
from fedjax_paradox.sweep import plan
from fedjax_paradox.sweep.rounds import plan_round
from fedjax_paradox.sweep.run import run
from fedjax_paradox.terminal import display

STUDY = ("grid.seed=[1, 2]", "rounds=1", "num_clients=3")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return toy.study(toy.write(tmp_path_factory.mktemp("plan")), *STUDY)


@pytest.fixture
def several(monkeypatch):
    """A CPU on which `auto` takes lanes as an accelerator does."""
    monkeypatch.setattr(plan, "CPU_LANES", 64)
    monkeypatch.setattr(schedule, "waste", lambda lengths, lanes: 0.0)  # noqa: ARG005


def launched(study, monkeypatch, memory, **changes):
    experiment, (program,) = study
    monkeypatch.setattr(plan, "device_memory", lambda: memory)
    globals_, frozen = program.engine.replicate(program.initial())
    return plan.launch(
        experiment.model_copy(update=changes), program, globals_, program.engine.init_rules(globals_), frozen
    )[1].loss.shape[0]


@pytest.mark.usefixtures("several")
def test_auto_takes_as_many_lanes_as_jobs_where_memory_is_plenty(study, monkeypatch):
    assert launched(study, monkeypatch, 2**40) == 6


@pytest.mark.usefixtures("several")
def test_auto_takes_fewer_lanes_where_memory_is_short(study, monkeypatch):
    fixed, lane = plan.memory(study[1][0])
    assert plan.choose_lanes(study[0], study[1][0]) == 6
    monkeypatch.setattr(plan, "device_memory", lambda: int((fixed + 3.5 * lane) / plan.MEMORY_SHARE))
    assert plan.choose_lanes(study[0], study[1][0]) == 3


@pytest.mark.usefixtures("several")
def test_the_compiled_program_has_the_last_word(study, monkeypatch):
    """The estimate says that six lanes fit, the compiled program that they do not."""
    needed = []

    def figure(compiled):
        needed.append(compiled)
        return 0 if len(needed) == 3 else int(1.1 * 2**40)  # 6 / 1.1 is 5, 5 / 1.1 is 4

    monkeypatch.setattr(plan, "_needed", figure)
    assert launched(study, monkeypatch, 2**40) == 4


def test_lanes_that_a_person_asks_for_are_refused_with_what_would_fit(study, monkeypatch):
    fixed, lane = plan.memory(study[1][0])
    small = int((fixed + 2.5 * lane) / plan.MEMORY_SHARE)
    monkeypatch.setattr(plan, "_needed", lambda _: small + 1)
    with pytest.raises(InputError, match=r"lanes=5 of textcnn need 0\.00 GiB .*; lanes=2 should fit"):
        launched(study, monkeypatch, small, lanes=5)


def test_not_even_one_lane(study, monkeypatch):
    with pytest.raises(
        InputError, match=r"lanes=1 of textcnn .*; take fewer cells, smaller batches or a smaller model"
    ):
        launched(study, monkeypatch, 1000)


def test_a_device_that_runs_out_of_memory_is_explained(study):
    program = study[1][0]
    with pytest.raises(InputError, match=r"lanes=4 of textcnn need [\d.]+ GiB"), plan.explained(program, 4):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), plan.explained(program, 4):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_the_estimate_against_the_compiled_program(study):
    """Shapes alone cannot see what XLA fuses or keeps twice; within a factor of three at any number of lanes."""
    experiment, (program,) = study
    fixed, lane = plan.memory(program)
    globals_, frozen = program.engine.replicate(program.initial())
    for lanes in (1, 6):
        few = experiment.model_copy(update={"lanes": lanes})
        compiled, _, results = plan.launch(few, program, globals_, program.engine.init_rules(globals_), frozen)
        needed = plan._needed(compiled) + sum(leaf.nbytes for leaf in jax.tree.leaves(results))
        assert 1 / 3 < (fixed + lanes * lane) / needed < 3


def test_room_for_every_client_only_where_a_rule_asks_for_it(study, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    config = toy.write(tmp_path)
    (kept,) = toy.study(config, *STUDY, "rule='mine:momentum(decay=0.5)'")[1]
    globals_, _ = kept.initial()
    one_cell = sum(leaf.nbytes for leaf in jax.tree.leaves(globals_)) // 2
    # Two cells of three clients: six models in place of two. A sum has a number more for each cell's table. The rule
    # has a velocity for each cell, before and after.
    assert plan.memory(kept).fixed - plan.memory(study[1][0]).fixed == 4 * one_cell - 2 * 4 + 4 * one_cell


def test_the_memory_of_this_machine():
    kib = int(re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1])
    assert plan.device_memory() == pytest.approx(1024 * kib / jax.local_device_count(), rel=0.01)


def test_padding_is_told_and_stored(tmp_path, monkeypatch):
    """Against a count row by row."""
    monkeypatch.syspath_prepend(tmp_path)
    experiment, (program,) = toy.study(toy.write(tmp_path), "model=bag", "rounds=1")
    cost = plan.plan(experiment, program)
    jobs, _ = plan_round(program, 1)
    tokens = program.corpus.train_tokens
    filled = [np.count_nonzero(tokens[row]) for job in jobs for row in job.steps.ravel() if row >= 0]
    assert cost.padding == pytest.approx(1 - np.mean(filled) / tokens.shape[1])
    assert 0 < cost.padding < 1
    run(experiment, [program], tmp_path / "out", lambda event: None)  # noqa: ARG005
    assert history.read(tmp_path / "out").rounds["padding"].to_pylist() == [pytest.approx(cost.padding)]
    assert f"{cost.padding:.0%} of their token places padding" in display.plans([program], [cost])


def test_a_lane_takes_room_where_no_gradient_goes_through_the_encoder(tmp_path):
    words = [word for words in toy.WORDS.values() for word in words]
    folder = checkpoints.random_checkpoint(tmp_path / "bert", "bert")
    checkpoints.write_vocabulary(folder, words)
    model = f"models.head={{architecture: transformer, weights: {folder}, max_length: 8, trains: head}}"
    _, (program,) = toy.study(toy.write(tmp_path), "model=head", model)
    head, _ = program.initial()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(head))
    assert plan.memory(program).lane >= 3 * held  # its leaves, their momentum, and where it starts
