"""`evaluate_every`, `evaluate_clients`: some rounds or clients are scored, with the numbers they have among all."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import toy

from fedjax_paradox.analysis.opening import open_folder
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


# ---- evaluate_clients

SEEDS = ("grid.partition_seed=[1, 2]",)


def scored_in(table: pa.Table) -> dict[tuple[int, int, str], list[int]]:
    """(partition seed, round, rule) -> who was scored."""
    found: dict[tuple[int, int, str], list[int]] = {}
    rows = table.filter(pc.equal(table["protocol"], table["protocol"][0])).to_pylist()
    for row in rows:
        found.setdefault((row["partition_seed"], row["round"], row["rule"]), []).append(row["client"])
    return found


@pytest.mark.parametrize("rule", ["fedavg", "ditto"])
def test_clients_that_are_scored_have_the_numbers_that_they_have_among_all(config, tmp_path, rule):
    setting = ("model=bag", "rounds=2", f"rule={rule}", *SEEDS)
    every = toy.execute(config, tmp_path / "every", *setting)
    some = toy.execute(config, tmp_path / "some", *setting, "evaluate_clients=2")
    drawn = scored_in(some)
    assert all(len(clients) == 2 for clients in drawn.values())
    for (seed, round_, _), clients in drawn.items():
        assert clients == drawn[seed, 1, rule]  # the same in every round
        mine = pc.and_(pc.equal(every["partition_seed"], seed), pc.equal(every["round"], round_))
        mine = pc.and_(mine, pc.is_in(every["client"], pa.array(clients, pa.int32())))
        theirs = pc.and_(pc.equal(some["partition_seed"], seed), pc.equal(some["round"], round_))
        assert some.filter(theirs).equals(every.filter(mine))


def test_the_draw_is_of_the_partition_alone_and_prefers_clients_with_rows(config, tmp_path):
    # The toy's partition at this alpha leaves clients empty.
    skewed = ("model=bag", "rounds=1", "alpha=0.02", "grid.rule=[fedavg, afl]", "grid.seed=[1, 2]", *SEEDS)
    table = toy.execute(config, tmp_path, *skewed, "evaluate_clients=2")
    drawn = scored_in(table)
    assert len({tuple(clients) for (seed, *_), clients in drawn.items() if seed == 1}) == 1
    assert min(table["train_rows"].to_pylist()) > 0
    assert 0 in toy.execute(config, tmp_path / "every", *skewed)["train_rows"].to_pylist()


def test_more_than_there_are_is_all_and_the_folder_opens(config, every, tmp_path):
    assert toy.execute(config, tmp_path / "all", *BAG, "evaluate_clients=1000").equals(every)
    toy.execute(config, tmp_path / "some", *BAG, "evaluate_clients=2", "rounds=3")
    table = toy.execute(config, tmp_path / "some", *BAG, "evaluate_clients=2")  # goes on
    assert open_folder(tmp_path / "some").table.num_rows == table.num_rows == every.num_rows * 2 // 5
    with pytest.raises(InputError, match="scored by 2 clients, got evaluate_clients=null; keep to evaluate_clients=2"):
        toy.execute(config, tmp_path / "some", *BAG)
