"""The output folder, the results table and the checkpoints, whatever state they are found in."""

import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy

from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import checkpoint, folder, results

# A read that Orbax gives up leaves coroutines behind, which complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

RECORD = {"hash": "a1b2", "inputs": [{"corpus": "c3d4"}], "python": "3"}


@pytest.fixture
def _collected():
    yield
    gc.collect()


def state(seed, width=40):
    """Globals with a leaf too large to be stored inline, and the states of two rules, one of them empty."""
    key = jax.random.key(seed)
    globals_ = {"cnn": {"kernel": jax.random.normal(key, (2, 30, width)), "bias": jnp.full((2, 3), seed + 0.5)}}
    return globals_, ((), {"velocity": jnp.full((1, 3), -seed, jnp.float32)})


def restore(where, like):
    with checkpoint.checkpoints(where, 2) as manager:
        return checkpoint.restore(manager, like)


def saved(where, rounds, keep=2):
    with checkpoint.checkpoints(where, keep) as manager:
        for round_ in rounds:
            checkpoint.save(manager, round_, state(round_))
    return where


def equal(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and toy.same(
        [np.asarray(leaf) for leaf in jax.tree.leaves(one)], [np.asarray(leaf) for leaf in jax.tree.leaves(other)]
    )


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("three"), (1, 2, 3))


# Checkpoints


def test_a_checkpoint_restores_to_the_bit(three):
    round_, restored = restore(three, state(0))
    assert round_ == 3
    assert equal(restored, state(3))


def test_without_a_checkpoint_the_start_comes_back(tmp_path):
    start = state(7)
    round_, restored = restore(tmp_path / "none", start)
    assert round_ == 0
    assert restored is start


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_only_the_last_rounds_are_kept(tmp_path, keep):
    saved(tmp_path, (1, 2, 3), keep)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [1, 2, 3][-keep:]


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if how == "half" else b"")


@pytest.mark.usefixtures("_collected")
@pytest.mark.parametrize("how", ["empty", "half", "missing"])
def test_no_damaged_file_goes_unnoticed(three, tmp_path, how):
    """Every file of the newest checkpoint in turn: refused with the folder's name, or without any effect."""
    refusals = []
    files = sorted(path.relative_to(three) for path in (three / "3").rglob("*") if path.is_file())
    for number, file in enumerate(files):
        copy = tmp_path / str(number)
        shutil.copytree(three, copy)
        damage(copy / file, how)
        try:
            round_, restored = restore(copy, state(0))
        except InputError as error:
            refusals.append(str(error).startswith(f"checkpoint {copy / '3'} is damaged"))
            shutil.rmtree(copy / "3")  # the remedy that the message names
            round_, restored = restore(copy, state(0))
        assert equal(restored, state(round_)), file
    assert all(refusals)
    assert 3 <= len(refusals) < len(files)


@pytest.mark.usefixtures("_collected")
@pytest.mark.parametrize(
    "like",
    [
        state(0, width=41),
        state(0, width=39),
        (state(0)[0], ((), ())),
        (state(0)[0] | {"more": jnp.zeros(2)}, state(0)[1]),
        (state(0)[0]["cnn"], state(0)[1]),
    ],
    ids=["wider", "narrower", "no rule state", "a leaf more", "another tree"],
)
def test_a_checkpoint_of_something_else_is_refused(three, like):
    with pytest.raises(InputError, match=r"not of this experiment.*remove that folder") as caught:
        restore(three, like)
    assert str(three / "3") in str(caught.value)


def test_an_unfinished_save_is_no_checkpoint(three, tmp_path):
    """What a killed process leaves behind of a round that it was saving."""
    copy = tmp_path / "copy"
    shutil.copytree(three, copy)
    (copy / "3").rename(copy / "4.orbax-checkpoint-tmp-0")
    round_, restored = restore(copy, state(0))
    assert round_ == 2
    assert equal(restored, state(2))


# The results table


def table(rounds=(1, 2)):
    facts = {"cell": "c", "corpus": "toy", "model": "m", "rule": "fedavg", "alpha": 0.1, "num_clients": 2}
    facts |= {"partition_seed": 1, "seed": 2}
    counts = {
        "global": (np.array([3.0, 4.0]), np.array([5, 5])),
        "label_matched": (np.array([1.5, 0.0]), np.array([4, 0])),
    }
    return pa.concat_tables(results.records({**facts, "round": r}, np.array([7, 0]), counts) for r in rounds)


def test_the_table_has_the_columns_that_reports_rely_on(tmp_path):
    results.write(tmp_path, [table((1,)), table((2,))])
    found = pq.read_table(tmp_path / "clients.parquet")
    expected = "cell, corpus, model, rule, alpha, num_clients, partition_seed, seed, round, protocol, client"
    assert ", ".join(found.column_names) == f"{expected}, train_rows, correct, total"
    assert found.to_pylist()[:4] == [
        dict(zip(found.column_names, row, strict=True))
        for row in (
            ("c", "toy", "m", "fedavg", 0.1, 2, 1, 2, 1, "global", 0, 7, 3.0, 5),
            ("c", "toy", "m", "fedavg", 0.1, 2, 1, 2, 1, "global", 1, 0, 4.0, 5),
            ("c", "toy", "m", "fedavg", 0.1, 2, 1, 2, 1, "label_matched", 0, 7, 1.5, 4),
            ("c", "toy", "m", "fedavg", 0.1, 2, 1, 2, 1, "label_matched", 1, 0, 0.0, 0),
        )
    ]
    assert results.read(tmp_path).equals(found)
    assert [path.name for path in tmp_path.iterdir()] == ["clients.parquet"]


def test_the_name_of_the_folder_adds_no_column(tmp_path):
    """pyarrow takes `key=value` in a path for a column."""
    out = tmp_path / "alpha=strong" / "seed=7"
    out.mkdir(parents=True)
    results.write(out, [table()])
    assert results.read(out).equals(table())


def test_a_reader_sees_the_old_table_or_the_new_one(tmp_path, monkeypatch):
    """The table is replaced between a reader's look at the file and its look into it."""
    results.write(tmp_path, [table((1,))])
    read_table = pq.read_table

    def replaced_meanwhile(source, **options):
        results.write(tmp_path, [table((1, 2, 3))])
        return read_table(source, **options)

    monkeypatch.setattr(pq, "read_table", replaced_meanwhile)
    assert results.read(tmp_path).equals(table((1,)))


def test_no_table_reads_as_an_empty_one(tmp_path):
    assert results.read(tmp_path).num_rows == 0
    assert results.read(tmp_path).schema == results.SCHEMA


def test_a_write_that_is_cut_short_leaves_the_old_table(tmp_path, monkeypatch):
    def cut_short(_, where, **options):
        where.write(b"PAR1")
        raise OSError("no space left")

    results.write(tmp_path, [table((1,))])
    monkeypatch.setattr(pq, "write_table", cut_short)
    with pytest.raises(OSError, match="no space"):
        results.write(tmp_path, [table((1, 2))])
    monkeypatch.undo()
    assert results.read(tmp_path).equals(table((1,)))
    results.write(tmp_path, [table((1, 2))])  # what was left over is in nobody's way
    assert results.read(tmp_path).equals(table((1, 2)))


@pytest.mark.parametrize("how", ["empty", "half", "text", "no column", "another type", "folder"])
def test_a_damaged_table_is_refused(tmp_path, how):
    path = tmp_path / "clients.parquet"
    results.write(tmp_path, [table()])
    if how == "text":
        path.write_text("cell,round\n")
    elif how == "no column":
        pq.write_table(table().drop_columns(["correct"]), path)
    elif how == "another type":
        index = results.SCHEMA.get_field_index("client")
        pq.write_table(table().set_column(index, "client", pa.array(["first"] * 8)), path)
    elif how == "folder":
        path.unlink()
        path.mkdir()
    else:
        damage(path, how)
    with pytest.raises(InputError, match=r"clients.parquet is not a readable results table"):
        results.read(tmp_path)


# The output folder


def test_a_new_folder_is_claimed_with_its_record(tmp_path):
    out = tmp_path / "a" / "b"
    with folder.claim(out, RECORD, "name: toy\n"):
        pass
    found = toy.contents(out)
    assert sorted(found) == [".lock", "config.yaml", "experiment.json"]
    assert found["config.yaml"] == b"name: toy\n"
    with folder.claim(out, RECORD | {"python": "4"}, "name: other\n"):
        pass
    assert toy.contents(out) == found  # the record is of the run that made the folder


@pytest.mark.parametrize(("what", "value"), [("hash", "e5f6"), ("inputs", [{"corpus": "0789"}])])
def test_the_folder_of_another_experiment_is_refused(tmp_path, what, value):
    with folder.claim(tmp_path, RECORD, "name: toy\n"):
        pass
    before = toy.contents(tmp_path)
    with (
        pytest.raises(InputError, match=r"holds another experiment.*choose another --out") as caught,
        folder.claim(tmp_path, RECORD | {what: value}, "name: other\n"),
    ):
        pytest.fail("claimed")
    assert str(RECORD[what]) in str(caught.value)
    assert str(value) in str(caught.value)
    assert toy.contents(tmp_path) == before


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(InputError, match=r"holds files of something else \(thesis.tex\)"),
        folder.claim(tmp_path, RECORD, ""),
    ):
        pytest.fail("claimed")
    assert toy.contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_folder_that_was_killed_while_it_was_claimed_can_be_claimed(tmp_path):
    (tmp_path / "config.yaml").write_text("name: toy\n")
    (tmp_path / ".experiment.json.tmp").write_text('{"ha')
    with folder.claim(tmp_path, RECORD, "name: toy\n"):
        assert (tmp_path / "experiment.json").exists()


@pytest.mark.parametrize("below", ["", "sub", "sub/deeper"])
def test_a_path_at_or_below_a_file_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / below
    with (
        pytest.raises(InputError, match=r"cannot be written.*choose another") as caught,
        folder.claim(out, RECORD, ""),
    ):
        pytest.fail("claimed")
    assert str(out) in str(caught.value)


@pytest.mark.parametrize("text", ["", '{"hash": "a1', "[]", "3", "{}"])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "experiment.json").write_text(text)
    with pytest.raises(InputError, match="choose another --out"), folder.claim(tmp_path, RECORD, ""):
        pytest.fail("claimed")
    assert (tmp_path / "experiment.json").read_text() == text


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path):
    with (
        folder.claim(tmp_path, RECORD, ""),
        pytest.raises(InputError, match="in use by a run that has not ended"),
        folder.claim(tmp_path, RECORD, ""),
    ):
        pytest.fail("claimed")
    with folder.claim(tmp_path, RECORD, ""):
        pass
