"""Folders that are extended, changed or damaged: what is trained again, what is kept, what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import toy

from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import cells, results
from fedjax_paradox.sweep.run import Finished, Started

# A read that Orbax gives up leaves coroutines behind, which complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

BAG = ("model=bag", "rounds=2")
TWO = "grid.alpha=[0.1, 0.5]"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    with pytest.MonkeyPatch.context() as patch, toy.compilation_cached(tmp_path_factory.getbasetemp()):
        patch.syspath_prepend(folder)
        yield toy.write(folder)


@pytest.fixture(scope="module")
def finished(config):
    out = config.parent / "finished"
    return out, toy.execute(config, out, *BAG, TWO)


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


def trained(config, out, *overrides):
    """(table, [(cells, round)] of every round that was trained)."""
    rounds = []

    def notify(event):
        if isinstance(event, Finished):
            rounds.append((set(event.table["cell"].to_pylist()), event.round))

    return toy.execute(config, out, *overrides, notify=notify), rounds


def rows(table, *names):
    return [row for row in table.to_pylist() if row["cell"] in names]


# A finished folder can be extended


def test_more_rounds_train_the_new_ones_alone(config, finished, copy, tmp_path):
    whole = toy.execute(config, tmp_path / "whole", "model=bag", "rounds=4", TWO)
    table, rounds = trained(config, copy, "model=bag", "rounds=4", TWO)
    both = {"alpha=0.1", "alpha=0.5"}
    assert rounds == [(both, 3), (both, 4)]
    assert table.equals(whole)
    assert (copy / "clients.parquet").read_bytes() == (tmp_path / "whole" / "clients.parquet").read_bytes()
    assert len(finished[1]) * 2 == len(table)


def test_more_cells_train_the_new_ones_alone(config, finished, copy, tmp_path):
    wider = (*BAG, "grid.alpha=[0.1, 5.0, 0.5]")
    table, rounds = trained(config, copy, *wider)
    assert rounds == [({"alpha=5.0"}, 1), ({"alpha=5.0"}, 2)]
    assert rows(table, "alpha=0.1", "alpha=0.5") == rows(finished[1], "alpha=0.1", "alpha=0.5")
    whole = toy.execute(config, tmp_path / "whole", *wider)
    # On one lane a cell's sums do not know of others, so that even the order of its training changes nothing.
    assert table.equals(whole)


def test_a_cell_that_the_grid_no_longer_has_stays(config, finished, copy):
    table, rounds = trained(config, copy, *BAG, "grid.alpha=[0.5]")
    assert rounds == []
    for name in ("alpha=0.1", "alpha=0.5"):
        assert rows(table, name) == rows(finished[1], name)
    assert cells.read(copy).keys() == {"alpha=0.1", "alpha=0.5"}
    again, rounds = trained(config, copy, *BAG, TWO)
    assert rounds == []
    assert again.equals(finished[1])


def test_one_of_two_cells_goes_on_from_their_common_checkpoint(config, finished, copy, tmp_path):
    table, rounds = trained(config, copy, "model=bag", "rounds=3", "grid.alpha=[0.5]")
    assert rounds == [({"alpha=0.5"}, 3)]
    alone = toy.execute(config, tmp_path / "alone", "model=bag", "rounds=3", "grid.alpha=[0.5]")
    assert rows(table, "alpha=0.5") == rows(alone, "alpha=0.5")
    assert rows(table, "alpha=0.1") == rows(finished[1], "alpha=0.1")


def test_fewer_rounds_keep_what_is_there(config, finished, copy):
    table, rounds = trained(config, copy, "model=bag", "rounds=1", TWO)
    assert rounds == []
    assert table.equals(finished[1])


def test_a_cell_with_another_name_and_the_same_settings_is_found_again(config, tmp_path):
    one, _ = trained(config, tmp_path, *BAG, "alpha=0.5")
    table, rounds = trained(config, tmp_path, *BAG, TWO)
    assert {cell for names, _ in rounds for cell in names} == {"alpha=0.1"}
    drop = [name for name in table.column_names if name != "cell"]
    assert table.filter(pa.compute.equal(table["cell"], "alpha=0.5")).select(drop).equals(one.select(drop))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seed=7", "seed was 42, is 7"),
        ("local.epochs=1", "local.epochs was 2, is 1"),
        ("corpus.train_rows=50", "corpus was"),
    ],
)
def test_changed_settings_under_the_name_of_a_cell_are_refused(config, copy, change, told):
    before = toy.contents(copy)
    with pytest.raises(InputError, match=rf"another run under the name 'alpha=0.[15]'.*{told}.*another --out"):
        toy.execute(config, copy, *BAG, TWO, change)
    assert toy.contents(copy) == before


# Whose checkpoint it is


def test_the_checkpoint_of_another_seed_is_not_taken(config, finished, copy, tmp_path):
    """Same shapes and rounds, copied over ours by hand."""
    other = tmp_path / "other"
    toy.execute(config, other, *BAG, TWO, "seed=7")
    shutil.rmtree(toy.checkpoints(copy))
    shutil.copytree(toy.checkpoints(other), copy / "checkpoints" / toy.checkpoints(finished[0]).name)
    table, rounds = trained(config, copy, *BAG, TWO)
    assert [round_ for _, round_ in rounds] == [1, 2]
    assert table.equals(finished[1])
    assert len([*(copy / "damaged").iterdir()]) == 2


def test_the_source_of_a_persons_own_function_is_part_of_a_run(config, tmp_path, monkeypatch):
    for number, factor in (("1", "1.0"), ("2", "2.0")):
        place = tmp_path / f"code{number}"
        place.mkdir()
        (place / f"theirs{number}.py").write_text(
            f"from fedjax_paradox.federated.types import Local\n\nFACTOR = {factor}\n\n\ndef scaled():\n"
            "    return Local(loss=lambda logits, labels, client: logits.sum(axis=1) * FACTOR)\n"
        )
        monkeypatch.syspath_prepend(place)
    toy.execute(config, tmp_path / "out", *BAG, "local.objective=theirs1:scaled")
    (tmp_path / "code1" / "theirs1.py").write_text((tmp_path / "code2" / "theirs2.py").read_text())
    monkeypatch.delitem(__import__("sys").modules, "theirs1")
    __import__("importlib").invalidate_caches()
    with pytest.raises(InputError, match=r"another run under the name 'single'.*theirs1:scaled was"):
        toy.execute(config, tmp_path / "out", *BAG, "local.objective=theirs1:scaled")


def test_another_environment_is_told_in_one_line(config, copy, monkeypatch, caplog):
    from fedjax_paradox.sweep import run

    here = run.surroundings()
    there = {**here, "packages": {**here["packages"], "jax": "9.9"}, "devices": ["TPU v9"]}
    monkeypatch.setattr(run, "surroundings", lambda: there)
    trained(config, copy, *BAG, TWO)
    (line,) = [record.getMessage() for record in caplog.records if "another environment" in record.getMessage()]
    assert f"jax {here['packages']['jax']} is now 9.9" in line
    assert "is now ['TPU v9']" in line


@pytest.mark.parametrize("change", ["twice", "lost"])
def test_a_client_that_stands_twice_or_nowhere_is_noticed(config, copy, change):
    table = results.read(copy)
    middle = len(table) // 2
    parts = [table, table.slice(middle, 1)] if change == "twice" else [table.slice(0, middle), table.slice(middle + 1)]
    results.write(copy, parts)
    told = "lacks round" if change == "lost" else "more than once"
    with pytest.raises(InputError, match=rf"{told}.*of cell alpha=0.[15].*restore the file"):
        toy.execute(config, copy, *BAG, TWO)


# The same run by construction


EQUAL = "grid.rule=[fedavg, fedavgw(beta=0.5), fedavgw(beta=40.0), uniform]"


def test_cells_that_are_one_run_by_construction_are_trained_once(config, tmp_path):
    """fedavgw on a model without adapters is fedavg, whatever beta is; uniform is not."""
    experiment, programs = toy.study(config, "rounds=1", EQUAL)
    assert [cell.rule for cell in programs[0].cells] == ["fedavg", "uniform"]
    table = toy.execute(config, tmp_path, "rounds=1", EQUAL)
    numbers = {
        name: [(r["protocol"], r["client"], r["correct"], r["total"]) for r in rows(table, name)]
        for name in (f"rule={cell}" for cell in ("fedavg", "fedavgw(beta=0.5)", "fedavgw(beta=40.0)", "uniform"))
    }
    assert all(numbers.values())
    assert numbers["rule=fedavg"] == numbers["rule=fedavgw(beta=0.5)"] == numbers["rule=fedavgw(beta=40.0)"]
    told = {name: entry.same_as for name, entry in cells.read(tmp_path).items()}
    assert told == {
        "rule=fedavg": "",
        "rule=uniform": "",
        "rule=fedavgw(beta=0.5)": "rule=fedavg",
        "rule=fedavgw(beta=40.0)": "rule=fedavg",
    }
    alone = toy.execute(config, tmp_path / "alone", "rounds=1", "rule=fedavgw(beta=0.5)")
    assert [r["correct"] for r in alone.to_pylist()] == [r["correct"] for r in rows(table, "rule=fedavgw(beta=0.5)")]
    assert len(experiment.grid["rule"]) == 4


def test_with_adapters_they_are_different_runs(config):
    _, programs = toy.study(config, "model=bag", "grid.rule=[fedavg, fedavgw(beta=0.5)]")
    assert len(programs[0].cells) == 2


def test_a_twin_that_joins_later_needs_no_training(config, tmp_path):
    toy.execute(config, tmp_path, "rounds=1", "grid.rule=[fedavg]")
    table, rounds = trained(config, tmp_path, "rounds=1", "grid.rule=[fedavg, fedavgw(beta=0.5)]")
    assert rounds == []
    one, other = (rows(table, f"rule={rule}") for rule in ("fedavg", "fedavgw(beta=0.5)"))
    assert [r["correct"] for r in one] == [r["correct"] for r in other]
    assert {r["rule"] for r in other} == {"fedavgw(beta=0.5)"}


# Weights that cannot be used


OWN = '''
import jax.numpy as jnp
from fedjax_paradox.federated.rules import weighted_mean
from fedjax_paradox.federated.types import Rule


def below(limit):
    """Rows, for clients of fewer than `limit` rows."""
    return weighted_mean(lambda p: jnp.where(p.rows < limit, p.rows, 0.0), ahead=AHEAD)


def wrong(factor):
    """A weight of `factor` times 1e30 for the client of one row, 1 for the others."""
    return weighted_mean(lambda p: jnp.where(p.rows == 1, factor * 1e30, 1.0), ahead=AHEAD)


def broken(after):
    """The mean until so many rounds are over, NaN then."""

    def aggregate(updates, count):
        means = {name: leaf.mean(axis=0) for name, leaf in updates.leaves.items()}
        over = count.astype(jnp.float32) >= after
        return {name: jnp.where(over, jnp.nan, mean) for name, mean in means.items()}, count + 1, {}

    return Rule(lambda global_: jnp.zeros((), jnp.int32), aggregate)
'''


@pytest.fixture(params=[True, False], ids=["summed", "kept"])
def own(request, config):
    """The module of a person's own rules, whose clients are added up as they finish, or all kept."""
    name = f"weights_{request.param}"
    (config.parent / f"{name}.py").write_text(OWN.replace("AHEAD", str(request.param)))
    return name


def test_a_weighting_is_not_asked_of_the_sum(config, own, tmp_path):
    """The clients have 20, 1, 15, 0 and 14 rows: with a limit of 15 the mean is that of the clients 1 and 4."""
    study = ("model=bag", "rounds=1", "local.drop_ragged=false", f"rule={own}:below(limit=15.0)")
    experiment, programs = toy.study(config, *study)
    toy.execute(config, tmp_path / "out", *study)
    _, leaves = toy.stored(tmp_path / "out", programs)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in leaves)
    # Uniform over the two alone is the same update up to the weights: 1 and 14 of 15.
    kept = []
    for client in (1, 4):
        name = f"only_{own}_{client}"
        rule = "import jax.numpy as jnp\nfrom fedjax_paradox.federated.types import Rule\n\n\ndef only():\n"
        rule += "    def aggregate(updates, state):\n"
        rule += f"        chosen = jnp.where(updates.client == {client}, 1.0, 0.0)\n"
        rule += "        mean = {n: jnp.tensordot(chosen, leaf, 1) for n, leaf in updates.leaves.items()}\n"
        rule += "        return mean, state, {}\n\n"
        rule += "    return Rule(lambda global_: (), aggregate)\n"
        (config.parent / f"{name}.py").write_text(rule)
        toy.execute(config, tmp_path / str(client), *study[:3], f"rule={name}:only")
        kept.append(toy.stored(tmp_path / str(client), toy.study(config, *study[:3], f"rule={name}:only")[1])[1])
    for leaf, one, other in zip(leaves, *kept, strict=True):
        # float32, a sum of two products
        np.testing.assert_allclose(leaf, (one + 14 * other) / 15, rtol=1e-5, atol=1e-6)
    assert experiment.rounds == 1


@pytest.mark.parametrize(
    ("call", "who"),
    [
        ("below(limit=0.5)", "every client, the first being 0"),
        ("wrong(factor=-1.0)", "client 1"),
        ("wrong(factor=1e12)", "client 1"),
    ],
)
def test_weights_that_are_zero_negative_or_not_finite_name_cell_round_and_client(config, own, tmp_path, call, who):
    with pytest.raises(InputError, match=rf"rule {own}:\w+\(.*in cell single, round 1, that fails for {who};"):
        toy.execute(config, tmp_path, "model=bag", "local.drop_ragged=false", f"rule={own}:{call}")
    assert results.read(tmp_path).num_rows == 0


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_rule_whose_result_is_not_finite_is_caught_in_that_round(config, own, tmp_path, after):
    study = ("model=bag", "rounds=3", f"rule={own}:broken(after={after}.0)")
    table = toy.execute(config, tmp_path, *study)
    assert max(table["round"].to_pylist(), default=0) == after
    entry = cells.read(tmp_path)["single"]
    assert (entry.status, entry.diverged_round, entry.diverged_client) == ("diverged", after + 1, cells.NOBODY)


def test_inverse_weights_of_any_power_stay_weights(config, tmp_path):
    """Equal clients: whatever beta is, their weights are equal, so that the run is that of uniform weights."""
    equal = ("model=bag", "rounds=1", "partition.kind=iid", "num_clients=4", "partition.holdout_fraction=0.0")
    study = (*equal, "protocols=[train_rows]")
    one = toy.execute(config, tmp_path / "40", *study, "rule=fedavgw(beta=40)")
    other = toy.execute(config, tmp_path / "0", *study, "rule=fedavgw(beta=0)")
    assert [r["correct"] for r in one.to_pylist()] == [r["correct"] for r in other.to_pylist()]
    pairs = [
        toy.stored(tmp_path / name, toy.study(config, *study, f"rule=fedavgw(beta={name})")[1])[1]
        for name in ("40", "0")
    ]
    for leaf, expected in zip(*pairs, strict=True):
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_array_equal(leaf, expected)


def test_started_is_told_once_for_every_part(config, copy):
    events = []
    toy.execute(config, copy, "model=bag", "rounds=3", "grid.alpha=[0.1, 5.0, 0.5]", notify=events.append)
    assert [event for event in events if isinstance(event, Started)] == [Started(0, 2), Started(1, 0)]
