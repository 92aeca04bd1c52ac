"""The output folder, the results table and the checkpoints, whatever state they are found in."""

import errno
import gc
import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy

from fedjax_paradox.config import cells as planned
from fedjax_paradox.config import experiment_of
from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import cells, checkpoint, folder, parquet, results

# A read that Orbax gives up leaves coroutines behind, which complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

RECORD = {"hash": "a1b2", "inputs": [{"corpus": "c3d4"}], "python": "3"}
CELLS = ("c0ffee", "decaf")
GROUP = checkpoint.group_name(CELLS)


@pytest.fixture
def _collected():
    yield
    gc.collect()


def state(seed, width=40):
    """Globals with a leaf too large to be stored inline, and the states of two rules, one of them empty."""
    key = jax.random.key(seed)
    globals_ = {"cnn": {"kernel": jax.random.normal(key, (2, 30, width)), "bias": jnp.full((2, 3), seed + 0.5)}}
    return globals_, ((), {"velocity": jnp.full((1, 3), -seed, jnp.float32)})


def members(round_):
    """The first cell has the first rule, the second one the second."""
    return [checkpoint.Member(CELLS[0], round_, 0, 0), checkpoint.Member(CELLS[1], round_, 1, 0)]


def saved(root, rounds, keep=2):
    with checkpoint.checkpoints(root / GROUP, keep) as manager:
        for round_ in rounds:
            checkpoint.save(manager, round_, *state(round_), members(round_))
    return root


def restore(root, cells=CELLS):
    return checkpoint.restore(root, cells, root.parent / f"{root.name}-damaged")


def is_of(stored, round_):
    """Whether both cells are as `state(round_)` has them, to the bit."""
    globals_, (_, rule) = jax.tree.map(np.asarray, state(round_))
    for index, cell in enumerate(CELLS):
        expected = {"globals.cnn.kernel": globals_["cnn"]["kernel"], "globals.cnn.bias": globals_["cnn"]["bias"]}
        expected = {name: leaf[index] for name, leaf in expected.items()}
        expected |= {"rule.velocity": rule["velocity"][0]} if index == 1 else {}
        found = stored[cell].leaves
        if stored[cell].round != round_ or found.keys() != expected.keys():
            return False
        if not toy.same([found[name] for name in expected], [*expected.values()]):
            return False
    return True


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("three"), (1, 2, 3))


# Checkpoints


def test_a_checkpoint_restores_to_the_bit(three):
    assert is_of(restore(three), 3)


def test_any_of_its_cells_is_restored_alone(three):
    both, one = restore(three), restore(three, (CELLS[1], "feed"))
    assert one.keys() == {CELLS[1]}
    assert toy.same([*one[CELLS[1]].leaves.values()], [*both[CELLS[1]].leaves.values()])


def test_without_a_checkpoint_nothing_comes_back(tmp_path):
    assert restore(tmp_path / "none") == {}


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_only_the_last_rounds_are_kept(tmp_path, keep):
    saved(tmp_path, (1, 2, 3), keep)
    assert sorted(int(path.name) for path in (tmp_path / GROUP).iterdir()) == [1, 2, 3][-keep:]


@pytest.mark.parametrize("name", ["br[1]", "a*b", "what?", "{a,b}"])
def test_a_path_that_looks_like_a_pattern_is_none(tmp_path, name):
    root = tmp_path / name / "checkpoints"
    saved(root, (1, 2))
    assert is_of(restore(root), 2)


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if how == "half" else b"")


@pytest.mark.usefixtures("_collected")
@pytest.mark.parametrize("how", ["empty", "half", "missing"])
def test_no_damaged_file_goes_unnoticed(three, tmp_path, how):
    """Every file of the newest checkpoint in turn: set aside for the round before, or without any effect."""
    noticed = []
    files = sorted(path.relative_to(three) for path in (three / GROUP / "3").rglob("*") if path.is_file())
    for number, file in enumerate(files):
        copy = tmp_path / str(number)
        shutil.copytree(three, copy)
        damage(copy / file, how)
        stored = restore(copy)
        noticed.append(not is_of(stored, 3))
        assert is_of(stored, 2 if noticed[-1] else 3), file
        assert (tmp_path / f"{number}-damaged" / f"{GROUP}-3").exists() == noticed[-1]
    assert 3 <= sum(noticed) < len(files)


@pytest.mark.usefixtures("_collected")
def test_no_bit_of_an_array_can_flip_unnoticed(three, tmp_path, caplog):
    """Orbax keeps no checksum of its own: most flips inside an array would be read as other numbers."""
    (array,) = [path for path in (three / GROUP / "3" / "state").rglob("*") if path.stat().st_size > 9000]
    generator = np.random.default_rng(0)
    for number, place in enumerate(generator.integers(0, array.stat().st_size, 25)):
        copy = tmp_path / str(number)
        shutil.copytree(three, copy)
        content = bytearray(array.read_bytes())
        content[place] ^= 1 << int(generator.integers(8))
        (copy / array.relative_to(three)).write_bytes(content)
        stored = restore(copy)
        assert is_of(stored, 3) or is_of(stored, 2), place
    assert "moved to" in caplog.text
    assert f"{GROUP}/3 is damaged" in caplog.text


@pytest.mark.usefixtures("_collected")
def test_rounds_that_were_swapped_are_noticed(three, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(three, copy)
    (copy / GROUP / "2").rename(copy / GROUP / "4")
    stored = restore(copy)
    assert is_of(stored, 3)
    assert [path.name for path in (tmp_path / "copy-damaged").iterdir()] == [f"{GROUP}-4"]


@pytest.mark.usefixtures("_collected")
def test_a_checkpoint_of_other_cells_in_the_place_of_ours_is_noticed(three, tmp_path):
    """Another seed: the same shapes, put where ours lay."""
    copy, others = tmp_path / "copy", ("beef", "feed")
    shutil.copytree(three, copy)
    name = checkpoint.group_name(others)
    (copy / GROUP).rename(copy / name)
    assert restore(copy, (*CELLS, *others)) == {}
    assert sorted(path.name for path in (tmp_path / "copy-damaged").iterdir()) == [f"{name}-2", f"{name}-3"]


def test_leaves_of_another_shape_are_refused(three):
    held = [stored.leaves for stored in restore(three).values()]
    with pytest.raises(InputError, match=r"does not hold globals.cnn.kernel as float32\[30, 41\].*another --out"):
        checkpoint.stacked(held, {"globals": state(0, width=41)[0]})
    with pytest.raises(InputError, match=r"does not hold globals.more as"):
        checkpoint.stacked(held, {"globals": {"more": jnp.zeros((2, 1))}})


def test_an_unfinished_save_is_no_checkpoint(three, tmp_path):
    """What a killed process leaves behind of a round that it was saving."""
    copy = tmp_path / "copy"
    shutil.copytree(three, copy)
    (copy / GROUP / "3").rename(copy / GROUP / "4.orbax-checkpoint-tmp-0")
    assert is_of(restore(copy), 2)


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
    def cut_short(_, where, **_options):
        where.write(b"PAR1")
        raise OSError(errno.ENOSPC, "No space left on device")

    results.write(tmp_path, [table((1,))])
    monkeypatch.setattr(pq, "write_table", cut_short)
    with pytest.raises(InputError, match=r"clients.parquet cannot be written \(No space left on device\); make room"):
        results.write(tmp_path, [table((1, 2))])
    assert [path.name for path in tmp_path.iterdir()] == ["clients.parquet"]
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


def claimed(out, record=RECORD, config="name: toy\n"):
    with folder.claim(out):
        folder.describe(out, record, config)
    return toy.contents(out)


def test_a_new_folder_is_claimed_with_its_record(tmp_path):
    found = claimed(tmp_path / "a" / "b")
    assert sorted(found) == [".lock", "config.yaml", "experiment.json"]
    header, _, config = found["config.yaml"].decode().partition("\n")
    assert config == "name: toy\n"
    assert header.split()[-1] == hashlib.sha256(b"name: toy\n").hexdigest()
    assert json.loads(found["experiment.json"]).items() >= RECORD.items()
    assert claimed(tmp_path / "a" / "b") == found


def test_the_record_is_of_the_run_that_made_the_folder_and_the_config_of_the_last(tmp_path, caplog):
    claimed(tmp_path)
    found = claimed(tmp_path, {**RECORD, "hash": "e5f6", "python": "4"}, "name: toy\nrounds: 9\n")
    record = json.loads(found["experiment.json"])
    assert (record["hash"], record["python"]) == ("e5f6", "3")
    assert found["config.yaml"].endswith(b"name: toy\nrounds: 9\n")
    (line,) = caplog.text.strip().splitlines()
    assert line.endswith("goes on under another environment, last bits may differ: python 3 is now 4")


def test_an_edited_config_is_kept(tmp_path, caplog):
    found = claimed(tmp_path)
    edited = found["config.yaml"] + b"# the one with the good numbers\n"
    (tmp_path / "config.yaml").write_bytes(edited)
    assert claimed(tmp_path) == {**found, "damaged/config.yaml": edited}
    assert "config.yaml has been edited or damaged: kept as" in caplog.text


def test_a_config_of_somebody_else_is_not_overwritten(tmp_path):
    claimed(tmp_path)
    (tmp_path / "config.yaml").write_text("name: mine\n")
    before = toy.contents(tmp_path)
    with pytest.raises(InputError, match=r"config.yaml was not written by a run.*move it"), folder.claim(tmp_path):
        pytest.fail("claimed")
    assert toy.contents(tmp_path) == before


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(InputError, match=r"holds files of something else \(thesis.tex\)"),
        folder.claim(tmp_path),
    ):
        pytest.fail("claimed")
    assert toy.contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_folder_that_was_killed_while_it_was_described_can_be_claimed(tmp_path):
    whole = claimed(tmp_path)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / ".config.yaml.tmp").write_text("na")
    assert claimed(tmp_path) == whole


@pytest.mark.parametrize("below", ["", "sub", "sub/deeper"])
def test_a_path_at_or_below_a_file_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / below
    with (
        pytest.raises(InputError, match=r"cannot be written.*choose another") as caught,
        folder.claim(out),
    ):
        pytest.fail("claimed")
    assert str(out) in str(caught.value)


@pytest.mark.parametrize("text", ["", '{"hash": "a1', "[]", "3", "{}"])
def test_a_record_that_may_be_anybodys_is_left_alone(tmp_path, text):
    (tmp_path / "experiment.json").write_text(text)
    with pytest.raises(InputError, match="choose another --out"), folder.claim(tmp_path):
        pytest.fail("claimed")
    assert (tmp_path / "experiment.json").read_text() == text


def test_a_damaged_record_beside_its_cells_is_kept_and_written_anew(tmp_path):
    whole = claimed(tmp_path)
    cells.write(tmp_path, [])
    (tmp_path / "experiment.json").write_text("{}")
    found = claimed(tmp_path)
    assert found["damaged/experiment.json"] == b"{}"
    assert found["experiment.json"] == whole["experiment.json"]


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path):
    with (
        folder.claim(tmp_path),
        pytest.raises(InputError, match="in use by a run that has not ended"),
        folder.claim(tmp_path),
    ):
        pytest.fail("claimed")
    with folder.claim(tmp_path):
        pass


def test_a_list_without_sizes_is_one_of_an_earlier_version(tmp_path):
    entry = cells.Entry("one", "id", "{}", "{}", trainable_parameters=3, parameters=5)
    cells.write(tmp_path, [entry])
    assert cells.read(tmp_path) == {"one": entry}
    whole = pq.read_table(tmp_path / cells.FILE)
    parquet.write(tmp_path / cells.FILE, whole.drop_columns(["trainable_parameters", "parameters"]))
    assert cells.read(tmp_path) == {"one": entry._replace(trainable_parameters=0, parameters=0)}


def test_swept_settings_are_columns_of_their_own(tmp_path):
    """Read by another tool than the package; the settings themselves say what is expected."""
    grid = {"alpha": [0.1, 1.0], "local.momentum": [0.0, 0.5], "partition_seed": [1], "seed": [5, 3]}
    experiment = experiment_of({"name": "study", "grid": grid})
    entries = [
        cells.Entry(cell.name, str(i), cell.model_dump_json(), "{}") for i, cell in enumerate(planned(experiment))
    ]
    cells.write(tmp_path, entries)
    frame = pq.read_table(tmp_path / cells.FILE).to_pandas().set_index("cell")
    assert [name for name in frame if name not in cells.SCHEMA.names] == ["alpha", "seed", "local.momentum"]
    for cell in planned(experiment):
        row = frame.loc[cell.name]
        assert (row["alpha"], row["local.momentum"], int(row["seed"])) == (cell.alpha, cell.local.momentum, cell.seed)
    assert cells.read(tmp_path) == {entry.cell: entry for entry in entries}
