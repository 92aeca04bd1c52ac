"""What a newcomer starts from: examples, the schema that editors read, and the reference of all keys."""

import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import BaseModel

from fedjax_paradox.cli import main
from fedjax_paradox.config import load, reference
from fedjax_paradox.config.dialect import read_yaml
from fedjax_paradox.config.examples import examples
from fedjax_paradox.config.schema import Corpus, CustomModel, Experiment, Local, Partition, TextCNN, Transformer
from fedjax_paradox.errors import InputError

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """call(argument, ...) -> (exit code, standard output, standard error) in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["fedjax-paradox", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return run


def test_init_writes_an_example_that_is_the_one_in_the_checkout(call, tmp_path):
    code, said, _ = call("init")
    assert (code, said) == (0, "quickstart.yaml: change it, then `fedjax-paradox run quickstart.yaml`\n")
    assert load(tmp_path / "quickstart.yaml") == load(ROOT / "configs" / "quickstart.yaml")
    before = (tmp_path / "quickstart.yaml").read_bytes()
    code, _, error = call("init")
    assert (code, error.split(" is ")[0]) == (2, "error: quickstart.yaml")
    assert (tmp_path / "quickstart.yaml").read_bytes() == before
    call("init", "e2_clients", "--out", "mine.yaml")
    assert load(tmp_path / "mine.yaml") == load(ROOT / "configs" / "paper" / "e2_clients.yaml")


def test_init_names_the_examples(call):
    assert call("init", "--list")[1].split() == sorted(path.stem for path in CONFIGS)
    code, _, error = call("init", "quickstarts")
    assert code == 2
    assert "there are e1_alpha_grid" in error


def test_an_example_leads_an_editor_to_the_schema():
    for name, text in examples().items():
        first = text.splitlines()[0]
        schema = Path(first.removeprefix("# yaml-language-server: $schema=file://"))
        assert json.loads(schema.read_text(encoding="utf-8"))["title"] == "Experiment", name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_schema_accepts_what_the_package_does(path):
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    schema = path.parent / first.removeprefix("# yaml-language-server: $schema=")
    jsonschema.validate(read_yaml(path), json.loads(schema.read_text("utf-8")))


def test_and_refuses_what_the_package_refuses():
    for wrong in ({"name": "x", "rounds": 0}, {"name": "x", "corpus": {"train_rows": "all"}}, {}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, json.loads(reference.json_schema()))


def test_schema_and_reference_are_those_of_the_code(call):
    remedy = "write it anew: fedjax-paradox schema [--markdown]"
    assert call("schema")[1] == (ROOT / "configs" / "experiment.schema.json").read_text(encoding="utf-8"), remedy
    assert call("schema", "--markdown")[1] == (ROOT / "docs" / "keys.md").read_text(encoding="utf-8"), remedy


@pytest.mark.parametrize("schema", [Experiment, Corpus, Partition, Local, TextCNN, Transformer, CustomModel])
def test_every_key_says_what_it_means(schema: type[BaseModel]):
    assert [name for name, field in schema.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("lr=0.1", "local.learning_rate"),
        ("beta=0.5", "rule=fedavgw(beta=...)"),
        ("dropout=0.5", "models.NAME.dropout"),
        ("max_length=32", "models.NAME.max_length"),
        ("clients=5", "num_clients"),
        ("batch=8", "local.batch_size"),
    ],
)
def test_what_people_write_leads_to_the_key(written, meant):
    with pytest.raises(InputError) as told:
        load(ROOT / "configs" / "quickstart.yaml", [written])
    assert f"did you mean '{meant}'?" in str(told.value)


def test_a_list_for_one_value_leads_to_the_grid():
    with pytest.raises(InputError, match=r"seed: .* write grid\.seed=\[\.\.\.\]"):
        load(ROOT / "configs" / "quickstart.yaml", ["seed=[1, 2]"])
