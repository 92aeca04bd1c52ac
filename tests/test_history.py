"""`rounds.parquet` and `participants.parquet`: every round once, whatever was stopped, and what can be recomputed."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import toy

from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import history
from fedjax_paradox.sweep.rounds import plan_round
from fedjax_paradox.sweep.run import Finished, run

# fedavgm without momentum is FedAvg, and both are told apart by what they say of themselves.
STUDY = ("model=bag", "rounds=3", "grid.rule=[afl, 'fedavgm(lr=1.0, beta=0.0)', scaffold, ditto]")
TIMES = {"seconds", "rows_per_second", *(f"{phase}_seconds" for phase in history.PHASES)}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("history")
    with pytest.MonkeyPatch.context() as patch, toy.compilation_cached(tmp_path_factory.getbasetemp()):
        patch.syspath_prepend(folder)
        yield toy.write(folder)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    toy.execute(config, out, *STUDY)
    return out


def rows(out, name=history.ROUNDS):
    return pq.read_table(out / name).to_pylist()


def untimed(out):
    return str(pq.read_table(out / history.ROUNDS).drop_columns(list(TIMES)).to_pylist())  # NaN is not itself


def of(table, rule):
    return [row for row in table if row["cell"].startswith(f"rule={rule}")]


def test_every_round_and_every_local_update_is_there_once(config, finished):
    _, programs = toy.study(config, *STUDY)
    expected = []
    for program in programs:
        for round_ in (1, 2, 3):
            _, people = plan_round(program, round_)
            for index, cell in enumerate(program.cells):
                slots = np.flatnonzero(people.mask[index])
                found = zip(
                    people.client[index, slots], people.rows[index, slots], people.steps[index, slots], strict=True
                )
                expected += [(cell.name, round_, *map(int, each)) for each in found]
    keys = ("cell", "round", "client", "rows", "steps")
    assert [tuple(row[key] for key in keys) for row in rows(finished, history.PARTICIPANTS)] == expected
    cells = {cell for cell, *_ in expected}
    assert sorted((r["cell"], r["round"]) for r in rows(finished)) == sorted((c, r) for c in cells for r in (1, 2, 3))
    assert {r["status"] for r in rows(finished)} == {"ok"}


def test_times_are_shares_of_a_programs_round(finished):
    for row in rows(finished):
        parts = [row[f"{phase}_seconds"] for phase in history.PHASES]
        assert min(parts) > 0
        assert row["seconds"] == pytest.approx(sum(parts))
        assert row["rows_per_second"] > 0


def test_losses(config, finished):
    """The cell's is the mean over visited rows; AFL's start loss is that of the first model, by hand in float64."""
    _, programs = toy.study(config, *STUDY)
    (program,) = (p for p in programs if any(c.rule == "afl" for c in p.cells))
    index = [cell.rule for cell in program.cells].index("afl")
    globals_, frozen = program.initial()
    table, head = (np.asarray(globals_[name][index], np.float64) for name in ("adapter", "head"))
    corpus, clients = program.corpus, program.clients[index]
    mean = (table[corpus.train_tokens].mean(axis=1) * np.asarray(frozen["scale"])) @ head
    losses = np.log(np.exp(mean).sum(axis=1)) - mean[np.arange(len(mean)), corpus.train_labels]
    updates = of(rows(finished, history.PARTICIPANTS), "afl")
    for row in (row for row in updates if row["round"] == 1):
        assert row["start_loss"] == pytest.approx(losses[clients.train[row["client"]]].mean(), rel=1e-5)
    for row in of(rows(finished), "afl"):
        own = [u for u in updates if u["round"] == row["round"]]
        weights = [u["rows"] for u in own]
        assert row["train_loss"] == pytest.approx(np.average([u["train_loss"] for u in own], weights=weights), rel=1e-9)
    assert all(np.isnan(row["start_loss"]) for row in of(rows(finished, history.PARTICIPANTS), "scaffold"))


def test_diagnostics_are_columns_of_the_rules_that_have_them(config, finished):
    mixtures = [r["mixture"] for r in of(rows(finished, history.PARTICIPANTS), "afl") if r["round"] == 1]
    assert mixtures == pytest.approx([0.2] * len(mixtures))  # 1 / N of five clients
    assert all(np.isnan(row["mixture"]) for row in of(rows(finished, history.PARTICIPANTS), "fedavgm"))
    norms = [row["server_step_norm"] for row in of(rows(finished), "fedavgm")]
    _, programs = toy.study(config, *STUDY)
    (program,) = (p for p in programs if any(c.rule.startswith("fedavgm") for c in p.cells))
    index = [cell.rule.partition("(")[0] for cell in program.cells].index("fedavgm")
    assert len(norms) == 3
    assert all(np.isnan(row["server_step_norm"]) for row in of(rows(finished), "scaffold"))
    start = program.initial()[0]
    toy.execute(config, finished.parent / "one", *STUDY[:1], "rounds=1", "rule='fedavgm(lr=1.0, beta=0.0)'")
    _, alone = toy.study(config, *STUDY[:1], "rounds=1", "rule='fedavgm(lr=1.0, beta=0.0)'")
    _, (adapter, head, *_) = toy.stored(finished.parent / "one", alone)
    moved = [np.asarray(start["adapter"][index]) - adapter[0], np.asarray(start["head"][index]) - head[0]]
    assert norms[0] == pytest.approx(np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in moved)), rel=1e-4)


def test_dittos_two_updates_of_a_client_are_told_apart(finished):
    updates = of(rows(finished, history.PARTICIPANTS), "ditto")
    assert {row["job"] for row in updates} == {0, 1}
    pairs = {(r["round"], r["client"]): [] for r in updates}
    for row in updates:
        pairs[row["round"], row["client"]].append(row["job"])
    assert set(map(tuple, pairs.values())) == {(0, 1)}


@pytest.mark.parametrize("round_", [1, 2])
def test_a_stopped_run_has_the_same_history_but_for_times(config, finished, tmp_path, round_):
    def stop(event):
        if isinstance(event, Finished) and (event.program, event.round) == (1, round_):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(*toy.study(config, *STUDY), tmp_path, stop)
    run(*toy.study(config, *STUDY), tmp_path, lambda _: None)
    assert (tmp_path / history.PARTICIPANTS).read_bytes() == (finished / history.PARTICIPANTS).read_bytes()
    assert untimed(tmp_path) == untimed(finished)


def test_a_folder_that_grows_keeps_its_history(config, finished, tmp_path):
    """First one rule and two rounds, then all: as if all had been asked for at once. Twins have rows of their own."""
    toy.execute(config, tmp_path, "model=bag", "rounds=2", "grid.rule=[scaffold]")
    toy.execute(config, tmp_path, *STUDY)
    assert (tmp_path / history.PARTICIPANTS).read_bytes() == (finished / history.PARTICIPANTS).read_bytes()
    assert untimed(tmp_path) == untimed(finished)
    twins = ("model=textcnn", "rounds=1", "grid.rule=[fedavg, 'fedavgw(beta=0.5)', 'fedavgw(beta=1.0)']")
    toy.execute(config, tmp_path / "twins", *twins)
    found = rows(tmp_path / "twins")
    assert [row["cell"] for row in found] == ["rule=fedavg", "rule=fedavgw(beta=0.5)", "rule=fedavgw(beta=1.0)"]
    assert [row["seconds"] > 0 for row in found] == [True, False, False]
    assert len({row["train_loss"] for row in found}) == 1


def test_a_diverged_cell_has_the_round_that_it_diverged_in(config, tmp_path):
    toy.execute(config, tmp_path, "model=bag", "rounds=3", "grid.local.learning_rate=[0.3, 1.0e9]", "local.epochs=3")
    found = {row["cell"]: row for row in rows(tmp_path)}  # the last of each
    assert found["local.learning_rate=0.3"]["status"] == "ok"
    last = found["local.learning_rate=1000000000.0"]
    assert last["status"] == "diverged"
    assert len([row for row in rows(tmp_path) if row["status"] == "diverged"]) == 1


def test_folders_without_a_history_go_on_and_damaged_ones_are_refused(config, tmp_path):
    study = ("model=bag", "rounds=1", "rule=fedavg")
    toy.execute(config, tmp_path, *study)
    for name in (history.ROUNDS, history.PARTICIPANTS):
        (tmp_path / name).unlink()
    toy.execute(config, tmp_path, *study[:1], "rounds=2", study[2])
    assert [row["round"] for row in rows(tmp_path)] == [2]
    (tmp_path / history.ROUNDS).write_bytes((tmp_path / history.ROUNDS).read_bytes()[:-9])
    with pytest.raises(InputError, match=r"rounds.parquet is not a readable results table .*; restore it from a copy"):
        toy.execute(config, tmp_path, *study[:1], "rounds=3", study[2])
