"""`evaluate_every`: clients are scored after some rounds alone, with the numbers that they have where all are."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import toy

from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import cells, history
from fedjax_paradox.sweep.run import Finished

BAG = ("model=bag", "rounds=5", "grid.rule=[fedavg, afl]")
# As in tests/test_run.py: at the second rate a cell diverges after some rounds.
DECAY = ("local.weight_decay=101.0", "local.momentum=0.0")
DIVERGING = ("model=bag", *DECAY, "rounds=9", "grid.local.learning_rate=[0.05, 1.0]")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scoring")
    with pytest.MonkeyPatch.context() as patch, toy.compilation_cached(tmp_path_factory.getbasetemp()):
        patch.syspath_prepend(folder)
        yield toy.write(folder)


@pytest.fixture(scope="module")
def every(config):
    return toy.execute(config, config.parent / "every", *BAG)


def of_rounds(table: pa.Table, *rounds: int) -> pa.Table:
    return table.filter(pc.is_in(table["round"], pa.array(rounds, pa.int32())))


def test_rounds_between_are_trained_and_not_scored(config, every, tmp_path):
    told = []
    table = toy.execute(config, tmp_path, *BAG, "evaluate_every=2", notify=told.append)
    assert table.equals(of_rounds(every, 2, 4, 5))  # the last is scored whatever it is
    events = [event for event in told if isinstance(event, Finished)]
    per_program = {event.program: [] for event in events}
    for event in events:
        per_program[event.program].append((event.round, len(event.table) > 0))
    assert all(found == [(1, False), (2, True), (3, False), (4, True), (5, True)] for found in per_program.values())
    assert set(history.read(tmp_path).rounds["round"].to_pylist()) == {1, 2, 3, 4, 5}


def test_a_longer_run_ends_as_if_it_had_never_stopped(config, every, tmp_path):
    toy.execute(config, tmp_path / "out", *BAG, "evaluate_every=2", "rounds=3")
    table = toy.execute(config, tmp_path / "out", *BAG, "evaluate_every=2")
    assert table.equals(of_rounds(every, 2, 4, 5))
    rounds = history.read(tmp_path / "out").rounds
    whole = history.read(config.parent / "every").rounds
    columns = ["cell", "round", "train_loss"]
    assert sorted(map(str, rounds.select(columns).to_pylist())) == sorted(map(str, whole.select(columns).to_pylist()))
    shorter = toy.execute(config, tmp_path / "out", *BAG, "evaluate_every=2", "rounds=3")
    assert shorter.equals(table)  # what is stored stays


def test_a_run_that_is_stopped_between_goes_on(config, every, tmp_path):
    def stop(event):
        if isinstance(event, Finished) and event.round == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.execute(config, tmp_path, *BAG, "evaluate_every=2", notify=stop)
    assert toy.execute(config, tmp_path, *BAG, "evaluate_every=2").equals(of_rounds(every, 2, 4, 5))


def test_another_choice_in_the_same_folder_is_refused(config, every, tmp_path):  # noqa: ARG001
    toy.execute(config, tmp_path, *BAG, "rounds=1")
    with pytest.raises(InputError, match="scored after every 1 rounds, got evaluate_every=2; keep to evaluate_every=1"):
        toy.execute(config, tmp_path, *BAG, "evaluate_every=2")


def test_a_cell_that_diverges_is_scored_as_it_was_before(config, tmp_path):
    whole = toy.execute(config, tmp_path / "every", *DIVERGING)
    ends = {name: entry.diverged_round for name, entry in cells.read(tmp_path / "every").items()}
    (name,) = [name for name, end in ends.items() if end]
    last = ends[name] - 1
    assert last > 1
    step = last + 1  # so that its last finite round would not be scored
    table = toy.execute(config, tmp_path / "some", *DIVERGING, f"evaluate_every={step}")
    mine = pc.equal(table["cell"], name)
    assert table.filter(mine).equals(of_rounds(whole.filter(pc.equal(whole["cell"], name)), last))
    assert toy.execute(config, tmp_path / "some", *DIVERGING, f"evaluate_every={step}").equals(table)
