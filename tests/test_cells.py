"""What a cell is called, and which settings make it another run."""

import pytest
import yaml

from fedjax_paradox.config import Cell, Experiment, cells, identity, load, to_yaml
from fedjax_paradox.errors import InputError


@pytest.fixture
def build(tmp_path):
    """text, *overrides -> Experiment, through a file."""

    def write_and_load(text, *overrides):
        (tmp_path / "study.yaml").write_text(f"name: study\n{text}", encoding="utf-8")
        return load(tmp_path / "study.yaml", overrides)

    return write_and_load


def names(experiment):
    return [cell.name for cell in cells(experiment)]


ORDINARY = {
    "grid.alpha=[0.1, 5]": ["alpha=0.1", "alpha=5.0"],
    "grid.rule=[fedavg, fedavgw(beta=1)]": ["rule=fedavg", "rule=fedavgw(beta=1.0)"],
    "grid.corpus.train_rows=[null, 5]": ["corpus.train_rows=None", "corpus.train_rows=5"],
    "grid.corpus.subset=['2024', 日本]": ["corpus.subset=2024", "corpus.subset=日本"],
    "grid.local.drop_ragged=[true]": ["local.drop_ragged=True"],
    "grid.protocols=[[global]]": ["protocols=('global',)"],
    "grid.models.textcnn.widths=[[2, 3]]": ["models.textcnn.widths=(2, 3)"],
}


@pytest.mark.parametrize("override", ORDINARY)
def test_a_cell_is_named_by_what_the_grid_sets(build, override):
    assert names(build("", override)) == ORDINARY[override]


def test_null_and_the_text_none_are_two_names(build):
    assert names(build("", 'grid.corpus.subset=[null, "None"]')) == ["corpus.subset=None", "corpus.subset='None'"]


TWINS = [
    ("grid.corpus.subset=['None', \"'None'\"]", "'corpus.subset': 'None'.*'corpus.subset': \"'None'\""),
    ("grid.models.mine.options.x=[1, '1']", r"options\.x=1.*options\.x': 1}.*options\.x': '1'}"),
    ("grid.models.mine.options.x=[true, 'True']", "options.x=True"),
    ("grid.models.mine.options.x=[[1], '[1]']", r"options\.x=\[1\]"),
    (r"""grid.corpus.subset=["a\u202e", 'a\u202e']""", "corpus.subset=a"),
]


@pytest.mark.parametrize(("override", "told"), TWINS)
def test_two_cells_of_one_name_are_refused_with_both_settings(build, override, told):
    with pytest.raises(InputError, match=f"two cells have the name .*{told}.*spell one of the values differently"):
        build("model: mine\nmodels: {mine: {architecture: 'my.pkg:net'}}", override)


def test_a_name_shows_what_a_terminal_would_obey(build):
    options = r'"grid.models.mine.options.\u202ea": ["\e[31m\0\n"]'
    [name] = names(build(f"model: mine\nmodels: {{mine: {{architecture: 'my.pkg:net'}}}}\n{options}"))
    assert name == r"models.mine.options.\u202ea=\x1b[31m\x00\n"


# Every key, a value that is not its default, and below those that do not decide a cell's numbers.
OTHER = {
    "name": "other",
    "corpus.name": "other",
    "corpus.subset": "a",
    "corpus.splits.train": "a",
    "corpus.splits.test": "a",
    "corpus.files.train": "a.csv",
    "corpus.files.test": "a.csv",
    "corpus.text_column": "a",
    "corpus.label_column": "a",
    "corpus.classes": "[a, b]",
    "corpus.train_rows": 3,
    "corpus.test_rows": 3,
    "corpus.seed": 3,
    "model": "distilbert",
    "rule": "fedavgw(beta=1)",
    "alpha": 3,
    "num_clients": 3,
    "participation": 0.5,
    "rounds": 3,
    "evaluate_every": 2,
    "evaluate_clients": 2,
    "partition.kind": "iid",
    "partition.min_client_rows": 3,
    "partition.shards_per_client": 3,
    "partition.holdout_fraction": 0.3,
    "partition_seed": 3,
    "seed": 3,
    "min_participant_rows": 3,
    "protocols": "[global]",
    "lanes": 3,
    "checkpoints_kept": 3,
    "max_cells": 3,
}
LOCAL = {"epochs": 3, "batch_size": 3, "optimizer": "adamw", "learning_rate": 3, "momentum": 0.3, "weight_decay": 3}
LOCAL |= {"drop_ragged": "false", "mu": 3, "objective": "my.pkg:loss"}
MODELS = {
    "textcnn": {"max_length": 3, "vocabulary_size": 3, "embedding_size": 3, "filters": 3, "widths": "[2]"},
    "minilm": {"weights": "a", "max_length": 3, "lora_rank": 3, "lora_alpha": 3, "head_dropout": 0.3},
    "mine": {"architecture": "my.pkg:other", "max_length": 3, "vocabulary_size": 3, "options": "{x: 3}"},
}
MODELS["textcnn"] |= {"dropout": 0.3, "compute_dtype": "bfloat16"}
MODELS["minilm"] |= {"dropout": 0.3, "lora_dropout": 0.3, "attention_dropout": 0.3, "compute_dtype": "bfloat16"}
MODELS["minilm"] |= {"pretrained": "false", "trains": "head"}
OTHER |= {f"local.{key}": value for key, value in LOCAL.items()}
OTHER |= {f"models.{model}.{key}": value for model, values in MODELS.items() for key, value in values.items()}
FREE = {"name", "rounds", "corpus.files.train", "corpus.files.test", "models.minilm.weights"}
FREE |= {"evaluate_every", "evaluate_clients", "lanes", "checkpoints_kept", "max_cells"}
BASE = "corpus: {files: {train: t.csv, test: s.csv}}\nlocal: {objective: fedprox}\n"
BASE += "models: {mine: {architecture: 'my.pkg:net'}}"


def test_the_list_of_keys_is_whole(build):
    def keys(data, prefix=""):
        inner = [keys(value, f"{prefix}{key}.") for key, value in data.items() if isinstance(value, dict) and value]
        return {f"{prefix}{key}" for key, value in data.items() if not isinstance(value, dict)}.union(*inner)

    written = yaml.safe_load(to_yaml(build(BASE)))
    written["local"] |= LOCAL
    assert written.pop("grid") == {}
    del written["models"]["distilbert"]  # as minilm
    for model in ("textcnn", "minilm"):  # another architecture is another model
        del written["models"][model]["architecture"]
    assert keys(written) | {"models.mine.options"} == set(OTHER)


@pytest.mark.parametrize("key", OTHER)
def test_an_identity_holds_what_decides_the_numbers(build, key):
    model = [f"model={key.split('.')[1]}"] if key.startswith("models.") else []
    [before] = cells(build(BASE, *model))
    [after] = cells(build(BASE, *model, f"{key}={OTHER[key]}"))
    assert (identity(after) == identity(before)) is (key in FREE)


def test_a_cell_is_the_same_run_alone_and_in_a_grid():
    [alone] = cells(Experiment(name="a", alpha=3.0))
    both = cells(Experiment(name="b", grid={"alpha": [0.1, 3.0]}))
    assert [identity(cell) == identity(alone) for cell in both] == [False, True]


def test_a_cell_is_read_back_from_json_as_it_was(tmp_path):
    """As `cells.parquet` keeps it; with files of one's own, and without."""
    for files in ("", f"\ncorpus: {{files: {{train: {tmp_path}/a.csv, test: b.csv}}, classes: [0, 1]}}"):
        path = tmp_path / "study.yaml"
        path.write_text(f"name: study{files}\ngrid: {{model: [textcnn, minilm], rule: [fedavg, fedavgw(beta=0.5)]}}")
        for cell in cells(load(path)):
            assert Cell.model_validate_json(cell.model_dump_json()) == cell
