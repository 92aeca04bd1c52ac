"""Configs that are wrong in every way there is: each is refused at once, in words, and nothing of it is run."""

import importlib.util
import os
import re
import sys
import time
from pathlib import Path

import pytest

from fedjax_paradox.config import cells, content_hash, load, parse_call, to_yaml
from fedjax_paradox.errors import InputError

CASES = Path(__file__).parent.parent / "experiments" / "faults" / "configs.py"


@pytest.fixture(scope="module")
def bad():
    spec = importlib.util.spec_from_file_location("faulty_configs", CASES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.cases())


def refusal(path, content, *overrides):
    """What a person is told about a file and its overrides."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        load(path, overrides)
    return str(caught.value)


def test_every_bad_config_is_refused_at_once_and_in_words(tmp_path, bad):
    assert len({case.name for case in bad}) == len(bad) >= 300
    wrong = {}
    for case in [*bad[::3], *bad[-100:]]:  # the last ones are files; the campaign takes all
        began = time.process_time()
        (tmp_path / "bad.yaml").write_bytes(case.content)
        try:
            load(tmp_path / "bad.yaml", case.overrides)
            wrong[case.name] = "accepted"
        except InputError as error:
            told = str(error)
            readable = all(letter.isprintable() for letter in told.replace("\n", ""))
            if len(told) > 2000 or not readable or re.search(r" at 0x|\bos\.environ\b.*PATH", told):
                wrong[case.name] = told
        except Exception as error:  # every one is a defect, and the list of them is the message
            wrong[case.name] = repr(error)
        if time.process_time() - began > 10:  # aliases that double take for ever; a collection of garbage may take one
            wrong[case.name] = "slow"
    assert wrong == {}


DOUBLED = b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 60))
# Content of a file, and what is said of it.
TOLD = {
    b"name: \xff": "bad.yaml: .*UTF-8",
    "name: study\n".encode("utf-16"): "bad.yaml: .*UTF-8",
    b"name: a\n#" + b"x" * 2**21: "larger than 1,048,576 bytes",
    b"name: a\nlocal: " + b"[" * 500: "more than 30 levels deep.*line 2",
    b"&a0 [1]: 1\n": "as a key is no text.*line 1",
    b"a0: &a0 [1]\n" + DOUBLED: "more than 20,000 values, aliases spelt out.*line 1[0-9]",
    b"name: a\nlocal: &a {x: *a}\n": r"alias \*a stands within.*line 2",
    b"name: a\nlocal: {<<: {epochs: 3}}\n": "merged keys.*line 2",
    b"name: a\n1: x\n": "the key '1' is no text; put it in quotes.*line 2",
    b"name: a\n[a]: x\n": "as a key is no text.*line 2",
    b"name: 2024-01-01\n": "'2024-01-01' reads as a timestamp.*put it in quotes.*line 1",
    b"name: !!binary aGk=\n": "the tag .*binary' has no meaning.*line 1",
    b"name: a\nseed: 1" + b":1" * 1000: "more than 100 digits.*line 2",
    b"name: a\nlocal: {epochs: 1}\nlocal.epochs: 2\n": "sets 'local.epochs' twice",
    b"name: a\nlocal: 3\nlocal.epochs: 2\n": "sets 'local' twice, whole and in parts",
    b"name: a\ngrid: {local: {epochs: [1]}, local.epochs: [2]}\n": "the grid sets 'grid.local.epochs' twice",
    b"name: a\ngrid: {seed: [1], 'partition_seed, seed': [[1, 2]]}\n": "the grid sets 'grid.seed' twice",
    b"name: a\ngrid: {'seed,seed': [[1, 2]]}\n": "the grid sets 'grid.seed' twice",
    b"name: a\ngrid: {local: [{}], local.mu: [0.0]}\n": "the grid sets 'grid.local' twice, whole and in parts",
}


@pytest.mark.parametrize("content", TOLD, ids=range(len(TOLD)))
def test_a_file_is_refused_for_its_reason_and_line(tmp_path, content):
    assert re.search(TOLD[content], refusal(tmp_path / "bad.yaml", content), re.DOTALL)


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing", "a\0b", "/dev/zero"):
        with pytest.raises(InputError, match=r"cannot read|is larger than"):
            load(path)


OVERRIDES = {
    "seed=[1, 2]": r"seed: .*integer \(got \[1, 2\]\); for a run of each, write grid\.seed=\[\.\.\.\]",
    "local.objective=[fedprox]": r"local\.objective: .*write grid\.local\.objective",
    "lr=0.1": "did you mean 'local.learning_rate'",
    "grid.=1": "must be key=value",
    "models.x.local.epochs.y=3": "models.x: needs architecture",
    "local.epochs.y=3": "local.epochs: .*integer",
    ".".join(["local"] * 5000) + "=1": "no key is more than 30 levels deep",
    "local.batch_size=1000000000": "local.batch_size: .*less than or equal to 65536",
    "local.batch_size=1e9": r"local.batch_size: .*valid integer \(got 1000000000.0\)",
    "rounds=1000000000000": "rounds: .*less than or equal to 1000000",
    "num_clients=1000000000": "num_clients: .*less than or equal to 1000000",
    "models.textcnn.widths=[2, 2]": "models.textcnn.widths: '2' is listed twice; keep one",
    "protocols=[global, global]": "protocols: 'global' is listed twice; keep one",
    "corpus.classes=[1, '1']": "corpus.classes: '1' is listed twice; keep one",
    r'corpus.files.train="a\0b"': "corpus.files.train: must not hold control characters",
    r'corpus.name="a\0b"': "corpus.name: must not hold control characters",
    r'models.minilm.weights="a\0b"': "models.minilm.weights: must not hold control characters",
    r'models={"\e[0m": {architecture: textcnn}}': r"models.\\x1b\[0m: must not hold control characters",
    "models={m: {architecture: 'a:b', options: {x: [.nan]}}}": "models.m.options: must hold finite numbers",
    "rule=fedavgw(beta=1e400)": "rule: numbers of a call must be at most",
    "local.learning_rate=1e-300": "local.learning_rate: .*greater than or equal to",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_is_refused_for_its_reason(tmp_path, override):
    assert re.search(OVERRIDES[override], refusal(tmp_path / "bad.yaml", "name: study", override))


AWAY = ["../../x", "/srv/x", "a/b", ".", "..", " ", "", "a\0b", "a\nb", "\u202eb", "x" * 201, "é" * 101, "x" * 5000]


@pytest.mark.parametrize("name", AWAY)
def test_a_name_cannot_leave_the_folder_of_runs(tmp_path, name):
    told = refusal(tmp_path / "bad.yaml", 'name: "' + name.replace("\0", r"\0").replace("\n", r"\n") + '"')
    assert re.search("  name: (must (fit into|not hold)|String should have at (most|least))", told)


@pytest.mark.parametrize("name", ["my study", "étude-α.2", "研究", "a,b=c", "v1.0", "-x", "a" * 200])
def test_ordinary_names_are_accepted(tmp_path, name):
    (tmp_path / "good.yaml").write_text(f"name: '{name}'", encoding="utf-8")
    assert load(tmp_path / "good.yaml").name == name


def test_eight_axes_of_nine_are_counted_and_not_made(tmp_path):
    keys = ("seed", "partition_seed", "corpus.seed", "num_clients", "rounds", "alpha", "local.epochs", "local.mu")
    grid = "".join(f"  {key}: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" for key in keys)
    began = time.process_time()
    told = refusal(tmp_path / "bad.yaml", f"name: study\ngrid:\n{grid}")
    assert "43,046,721 cells, and max_cells is 10,000; leave out an axis or values, or raise max_cells" in told
    assert time.process_time() - began < 1


def test_max_cells_is_a_limit_and_no_setting(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text("name: study\ngrid: {seed: [1, 2, 3]}")
    assert len(cells(load(path, ["max_cells=3"]))) == 3
    assert content_hash(load(path, ["max_cells=3"])) == content_hash(load(path))
    assert "3 cells, and max_cells is 2" in refusal(path, path.read_bytes(), "max_cells=2")
    assert "cannot be swept" in refusal(path, path.read_bytes(), "grid.max_cells=[3]")


def test_aliases_within_bounds_and_axes_that_are_overridden_stay_possible(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text("name: study\npartition_seed: &s 7\nseed: *s\ngrid: {local: {epochs: [1, 2]}, alpha: [1.0]}")
    experiment = load(path, ["grid={local: {epochs: [3]}}", "grid.alpha=null", "grid.local={mu: [0.0]}"])
    assert (experiment.seed, experiment.grid) == (7, {"local.epochs": (3,), "local.mu": (0.0,)})


@pytest.mark.parametrize("text", ["1" * 500_000 + "x", "1" * 500_000 + "."])
def test_long_digits_take_no_time(tmp_path, text):
    began = time.process_time()
    refusal(tmp_path / "bad.yaml", f"alpha: {text}")
    with pytest.raises(InputError):
        parse_call(f"f(a={text[:4000]}x)")
    assert time.process_time() - began < 5


def test_loading_imports_and_calls_nothing(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("import os\nos.environ['EVIL'] = 'imported'\n\ndef function(**_): 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "good.yaml"
    path.write_text(
        "name: study\nmodel: mine\nmodels: {mine: {architecture: 'evil:function', options: {f: 'evil:function'}}}\n"
        "rule: evil:function\nlocal: {objective: 'evil:function'}\npartition: {kind: 'evil:function'}\n"
        "protocols: ['evil:function']\n"
    )
    experiment = load(path, ["grid.rule=['evil:function', 'evil:function(a=1)']"])
    assert len(cells(experiment)) == 2
    assert content_hash(experiment)
    assert "evil:function" in to_yaml(experiment)
    assert "evil" not in sys.modules
    assert "EVIL" not in os.environ
