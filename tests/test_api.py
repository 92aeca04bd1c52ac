"""The package as a library: frames are what is stored, and a model that is opened again predicts what was counted."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy

import fedjax_paradox as fp
from fedjax_paradox.errors import InputError

CELL = "model=textcnn,rule=fedavg"
GRID = ("grid.model=[textcnn, bag]", "grid.rule=[fedavg]", "rounds=2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDJAX_PARADOX_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield toy.write(folder)


@pytest.fixture(scope="module")
def results(config, cache, tmp_path_factory):  # noqa: ARG001
    return fp.run(fp.load(config, *GRID), tmp_path_factory.mktemp("runs") / "toy")


def rows(config: Path, split: str) -> tuple[list[str], list[str]]:
    with (config.parent / f"{split}.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return [row["text"] for row in found], [row["label"] for row in found]


def test_importing_the_package_loads_neither_jax_nor_pandas():
    code = "import fedjax_paradox, sys; print([n for n in ('jax', 'pandas', 'flax', 'pyarrow') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    assert all(getattr(fp, name) is not None for name in fp.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        fp.lode  # noqa: B018


def test_python_m_is_the_command_line():
    done = subprocess.run([sys.executable, "-m", "fedjax_paradox", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, f"fedjax-paradox {fp.__version__}")


def test_a_mapping_is_a_config(config):
    nested = {"name": "study", "local": {"epochs": 2}, "grid": {"alpha": [0.1, 1.0]}}
    dotted = {"name": "study", "local.epochs": 2, "grid.alpha": [0.1, 1.0]}
    assert fp.load(nested, "rounds=7") == fp.load(dotted, "rounds=7")
    assert fp.load(config, *GRID).rounds == 2
    with pytest.raises(InputError, match="the mapping is not a valid experiment"):
        fp.load({"name": "study", "rounds": 0})


def test_frames_are_what_is_stored(results):
    assert set(results.clients["round"]) == {1, 2}
    assert set(results.rounds["cell"]) == set(results.cells["cell"]) == set(results.clients["cell"])
    cells = results.cells.set_index("cell")
    assert cells["model"].to_dict() == {CELL: "textcnn", "model=bag,rule=fedavg": "bag"}
    assert (cells["local.learning_rate"] == 0.3).all()


def test_a_run_tells_of_its_rounds_and_goes_on(config, cache, tmp_path):  # noqa: ARG001
    told = []
    experiment = fp.load(config, "model=bag", "rounds=1")
    fp.run(experiment, tmp_path / "out", told.append)
    assert [event.round for event in told if type(event).__name__ == "Finished"] == [1]
    longer = fp.run(fp.load(config, "model=bag", "rounds=2"), tmp_path / "out", told.append)
    assert [event.round for event in told if type(event).__name__ == "Finished"] == [1, 2]
    assert set(longer.clients["round"]) == {1, 2}


@pytest.mark.parametrize("round_", [1, None])
def test_a_model_predicts_what_was_counted(results, config, round_):
    texts, labels = rows(config, "test")
    model = results.model(CELL, round_)
    probabilities = model.predict(texts)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)  # float32
    right = sum(model.classes[row.argmax()] == label for row, label in zip(probabilities, labels, strict=True))
    stored = results.clients.query("cell == @CELL and protocol == 'global' and round == @model.round")
    assert model.round == (round_ or 2)
    assert set(stored["correct"]) == {right}


def test_every_client_of_a_rule_with_own_models_has_its_own(config, cache, tmp_path):  # noqa: ARG001
    """Counted on the rows of the classes that the client holds."""
    results = fp.run(fp.load(config, "model=bag", "rule=ditto(lam=0.1)", "rounds=2"), tmp_path / "out")
    texts, labels = rows(config, "test")
    counts = results.clients.query("protocol == 'global' and round == 2").set_index("client")["correct"]
    right = {}
    for client in counts.index:
        model = results.model(client=int(client), own_code=True)
        found = model.predict(texts).argmax(axis=1)
        right[client] = sum(model.classes[one] == label for one, label in zip(found, labels, strict=True))
    assert counts.to_dict() == right
    assert len(set(right.values())) > 1
    with pytest.raises(InputError, match="every client a model of its own; say whose: 0 to 4"):
        results.model(own_code=True)
    with pytest.raises(InputError, match="numbered 0 to 4, got 5"):
        results.model(client=5, own_code=True)


def test_what_is_not_at_hand_is_told(results):
    with pytest.raises(InputError, match="say which cell; it has model=bag"):
        results.model()
    with pytest.raises(InputError, match="no cell 'textcnn'"):
        results.model("textcnn")
    with pytest.raises(InputError, match="after round 9 is at hand, but of rounds 1, 2"):
        results.model(CELL, 9)
    with pytest.raises(InputError, match="one model for all clients; leave out the client"):
        results.model(CELL, client=0)


def test_code_that_a_folder_names_is_called_only_where_that_was_said(results, config):
    cell = "model=bag,rule=fedavg"
    with pytest.raises(InputError, match=r"calls mine:bag, code .* if you trust it, say --own-code"):
        results.model(cell)
    texts, labels = rows(config, "test")
    model = results.model(cell, own_code=True)
    right = sum(model.classes[p.argmax()] == label for p, label in zip(model.predict(texts), labels, strict=True))
    stored = results.clients.query("cell == @cell and protocol == 'global' and round == 2")
    assert set(stored["correct"]) == {right}


def test_other_texts_than_those_of_the_run_are_noticed(results, config):
    before = {name: (config.parent / name).read_bytes() for name in ("train.csv", "test.csv")}
    try:
        toy.write_corpus(config.parent, seed=1)
        with pytest.raises(InputError, match="no longer those that it was trained with"):
            results.model(CELL)
    finally:
        for name, content in before.items():
            (config.parent / name).write_bytes(content)


def test_a_damaged_checkpoint_is_refused_and_left_where_it_is(results, tmp_path):
    copy = Path(shutil.copytree(results.folder, tmp_path / "copy"))
    for path in (path for path in (copy / "checkpoints").rglob("*") if path.is_file() and path.stat().st_size > 500):
        path.write_bytes(bytes(path.stat().st_size))
    before = toy.contents(copy)
    with pytest.raises(InputError, match="is damaged"):
        fp.open(copy).model(CELL)
    assert toy.contents(copy) == before


def test_audit_and_report(results, tmp_path):
    (audit,) = results.audit()
    assert set(audit.cells) == set(results.cells["cell"])
    page = results.report(tmp_path / "report")
    assert page == tmp_path / "report" / "report.html"
    assert page.exists()
