"""The configuration: what it accepts, what it refuses and in which words, and every shipped file."""

import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedjax_paradox import config
from fedjax_paradox.config import Experiment, cells, content_hash, load, parse_call, structure, to_yaml
from fedjax_paradox.errors import InputError

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))
# Written out here a second time, from the paper's notebook, not imported.
SGD = {"epochs": 5, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9}
SGD |= {"weight_decay": 0.0, "drop_ragged": True, "objective": "cross_entropy", "mu": 0.0}
ADAMW = SGD | {"epochs": 1, "batch_size": 16, "optimizer": "adamw", "learning_rate": 5e-5, "momentum": 0.0}
ADAMW |= {"weight_decay": 0.01, "drop_ragged": False}
OWN = "model: mine\nmodels: {mine: {architecture: 'my.pkg:net', options: "


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """text, *overrides -> Experiment, through a file."""
    path = tmp_path_factory.mktemp("configs") / "study.yaml"

    def write_and_load(text, *overrides):
        path.write_text(f"name: study\n{text}", encoding="utf-8")
        return load(path, overrides)

    return write_and_load


def only(experiment):
    [cell] = cells(experiment)
    return cell


def test_defaults_are_the_published_point():
    cell = only(Experiment(name="study"))
    assert (cell.name, cell.model, cell.rule, cell.alpha) == ("single", "textcnn", "fedavg", 0.1)
    assert (cell.num_clients, cell.participation, cell.rounds) == (10, 1.0, 50)
    assert (cell.partition_seed, cell.seed, cell.min_participant_rows) == (42, 42, 1)
    assert cell.protocols == ("train_rows", "label_filtered", "label_matched", "global")
    assert cell.architecture.widths == (3, 4, 5)


# Precedence: published < models.X.local < local < grid.
LOCAL = [
    ("model: textcnn", SGD),
    ("model: distilbert", ADAMW),
    ("model: minilm", ADAMW),
    (OWN + "{depth: 2}}}", SGD),
    ("models: {textcnn: {local: {epochs: 6}}}", SGD | {"epochs": 6}),
    ("models: {textcnn: {local: {epochs: 6}}}\nlocal: {epochs: 7}", SGD | {"epochs": 7}),
    ("local: {epochs: 7}\ngrid: {local.epochs: [8]}", SGD | {"epochs": 8}),
    ("model: distilbert\nlocal: {epochs: 5, momentum: 0.9}", ADAMW | {"epochs": 5, "momentum": 0.9}),
    ("local: {momentum: 0, drop_ragged: false}", SGD | {"momentum": 0.0, "drop_ragged": False}),
]


@pytest.mark.parametrize(("text", "expected"), LOCAL)
def test_local_training(build, text, expected):
    assert only(build(text)).local.model_dump() == expected


def test_local_of_one_model_and_of_all(build):
    experiment = build("grid: {model: [textcnn, distilbert]}\nmodels.textcnn.local: {epochs: 2}", "local.batch_size=8")
    assert [(cell.local.epochs, cell.local.batch_size) for cell in cells(experiment)] == [(2, 8), (1, 8)]
    # A default that is written out must not hide a lower layer.
    assert cells(build(to_yaml(experiment).removeprefix("name: study\n"))) == cells(experiment)


def test_models_are_merged_over_the_presets(build):
    models = build("models: {textcnn: {filters: 7}}", "models.distilbert.lora_rank=2").models
    assert list(models) == ["textcnn", "distilbert", "minilm"]
    assert (models["textcnn"].filters, models["textcnn"].embedding_size, models["distilbert"].lora_rank) == (
        7,
        128,
        2,
    )


def test_cells_are_the_product_in_file_order_last_axis_fastest(build):
    experiment = build("grid: {partition_seed: [1, 2], alpha: [5, 0.1], model: [textcnn, minilm]}")
    points = [(cell.partition_seed, cell.alpha, cell.model) for cell in cells(experiment)]
    assert points == list(itertools.product([1, 2], [5.0, 0.1], ["textcnn", "minilm"]))
    assert cells(experiment)[0].name == "model=textcnn,alpha=5.0,partition_seed=1"


def test_keys_of_a_joined_axis_vary_together(build):
    experiment = build("grid: {alpha: [1.0, 5.0], 'partition_seed, seed': [[1, 7], [2, 8]]}")
    found = [(cell.alpha, cell.partition_seed, cell.seed) for cell in cells(experiment)]
    assert found == [(1.0, 1, 7), (1.0, 2, 8), (5.0, 1, 7), (5.0, 2, 8)]
    assert cells(experiment)[0].name == "alpha=1.0,partition_seed=1,seed=7"
    assert experiment == build("grid.alpha: [1.0, 5.0]", "grid.partition_seed,seed=[[1, 7], [2, 8]]")


def test_nested_and_dotted_grid_keys_are_the_same(build):
    nested = build("grid: {local: {mu: [0.1, 1], objective: [fedprox]}}")
    assert nested == build("grid: {local.mu: [0.1, 1], local.objective: [fedprox]}")
    assert [cell.local.mu for cell in cells(nested)] == [0.1, 1.0]


def test_a_base_point_that_the_grid_completes_is_accepted(build):
    build("protocols: [holdout]\ngrid: {partition.holdout_fraction: [0.1, 0.2]}")
    build("local: {mu: 0.1}\ngrid: {local.objective: [fedprox]}")


FEDPROX, HELD = {"local.objective": "fedprox", "local.mu": 0.1}, {"partition.holdout_fraction": 0.1}
DATA = {"alpha": 0.7, "seed": 7, "partition_seed": 7, "rule": "fedavgw(beta=0.5)", "num_clients": 3}
DATA |= {"participation": 0.5, "partition.kind": "shards", "min_participant_rows": 2, "local.learning_rate": 0.3}
DATA |= {"local.momentum": 0.1, "local.weight_decay": 0.1, "local.epochs": 9, "local.drop_ragged": "false"}
DATA |= {"models.textcnn.dropout": 0.1}
PROGRAM = HELD | {"model": "minilm", "corpus.name": "other", "rounds": 3, "protocols": "[global]"}
PROGRAM |= {"local.batch_size": 8, "local.optimizer": "adamw", "local.objective": "fedprox"}
PROGRAM |= {"models.textcnn.dropout": 0.0, "corpus.seed": 1, "corpus.classes": "[0, 1]"}
PROGRAM |= {"models.textcnn.filters": 3, "models.textcnn.compute_dtype": "bfloat16"}
CHANGES = [({}, DATA, True), ({}, PROGRAM, False), (FEDPROX, {"local.mu": 1}, True)]
RATES = [f"models.minilm.{part}dropout" for part in ("", "lora_", "attention_", "head_")]
CHANGES += [({"model": "minilm"}, dict.fromkeys(RATES, rate), rate > 0) for rate in (0.3, 0.0)]
CHANGES += [({"model": "minilm"}, {"models.minilm.compute_dtype": "bfloat16"}, False)]
CHANGES += [(HELD, {"partition.holdout_fraction": 0.2}, True)]


@pytest.mark.parametrize(("base", "changes", "shared"), CHANGES)
def test_structure_separates_programs_and_not_data(build, base, changes, shared):
    overrides = [f"{key}={value}" for key, value in base.items()]
    before = only(build("", *overrides))
    hashes = {content_hash(build("", *overrides))}
    for key, value in changes.items():
        changed = build("", *overrides, f"{key}={value}")
        assert only(changed) != before, key
        assert (structure(only(changed)) == structure(before)) is shared, key
        hashes.add(content_hash(changed))
    assert len(hashes) == len(changes) + 1


def test_hash_ignores_order_defaults_and_speed(build):
    text = "alpha: 0.5\nmodel: textcnn\ngrid: {seed: [1, 2], rule: [fedavg, fedavgw(beta=1)]}"
    expected = content_hash(build(text))
    same = [
        "grid: {rule: [fedavg, fedavgw(beta=1.0)], seed: [1, 2]}\nmodel: textcnn\nalpha: 5e-1",
        f"{text}\nrounds: 50\nlocal: {{epochs: 5}}\nmodels: {{textcnn: {{filters: 100, local: {{mu: 0}}}}}}",
        f"{text}\nlanes: 4\ncheckpoints_kept: 9",
        f"{text}\nmodels: {{unused: {{architecture: textcnn, filters: 3}}, minilm: {{lora_rank: 2}}}}",
    ]
    assert {content_hash(build(other)) for other in same} | {content_hash(build(text, "name=other"))} == {expected}
    assert re.fullmatch("[0-9a-f]{16}", expected)


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)


@given(
    study=st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="/"), max_size=8).map("s{}".format),
    name=texts | st.sampled_from(["5e-5", "1e3", "null", "no", "1:30", "~", "2024-01-01"]),
    options=st.dictionaries(texts, scalars | st.lists(scalars, max_size=2), max_size=3),
    alphas=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=3, unique=True),
)
def test_to_yaml_is_read_back_equal(tmp_path_factory, study, name, options, alphas):
    models = {"mine": {"architecture": "my.pkg:net", "options": options, "local": {"epochs": 2}}}
    corpus = {"name": name, "files": {"train": "a.csv", "test": "b.csv"}, "classes": [name, 10**9]}
    grid = {"alpha": alphas, "local.learning_rate": [5e-5]}
    experiment = Experiment(name=study, models=models, model="mine", corpus=corpus, grid=grid)
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    path.write_bytes(to_yaml(experiment).encode())
    again = load(path)
    assert again == experiment
    assert list(again.grid) == list(experiment.grid)
    assert content_hash(again) == content_hash(experiment)


@given(value=st.floats(min_value=1e-300, max_value=1e12, exclude_min=True))
def test_every_spelling_python_has_for_a_float_is_a_number(build, value):
    assert build("", f"alpha={value!r}").alpha == value
    assert build("", f"grid.alpha=[{value:e}]").grid == {"alpha": (float(f"{value:e}"),)}


FILES = {
    b"name: a\nlocal: {mu: 0, mu: 0}\n": "'mu' is written twice",
    b"name: [a\n": r"bad.yaml is not valid YAML.*line 1",
    b"": "must hold `key: value` lines",
    b"name: \xff\n": "UTF-8",
    b"name: !!python/object/apply:os.getcwd []\n": "not valid YAML",
    b"alpha: 1\n": "name is required",
}


@pytest.mark.parametrize("content", FILES)
def test_unusable_files_are_refused(tmp_path, content):
    path = tmp_path / "bad.yaml"
    with pytest.raises(InputError, match=r"cannot read .*bad\.yaml"):
        load(path)
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.compile(FILES[content], re.DOTALL)):
        load(path)


NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True)


@given(NAMES, st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False), max_size=3))
def test_format_call_is_read_back_equal(name, settings):
    assert parse_call(config.format_call(name, settings)) == (name, settings)
    assert config.format_call(*parse_call(" my.mod:rule( b=.5 , a=5e-1 ) ")) == "my.mod:rule(a=0.5, b=0.5)"


MALFORMED = "|f(|f)|1f|f(a=1)(b=2)|f(a=g(b=1))|f g|a:b:c|f(a=1,)|f(a=1, a=2)|f(0.5)|f(a=x)|f(a=true)|f(a=null)"
MALFORMED += "|f(a=.inf)|f(a=[1])|f(a=1 2)|f(a='1')|f(a=__import__('os'))"


@pytest.mark.parametrize("text", MALFORMED.split("|"))
def test_malformed_calls_are_refused(text):
    with pytest.raises(InputError, match=re.escape(repr(text)) + r".* by name, such as fedavgw\(beta=0.5\)"):
        parse_call(text)


def test_overrides_of_any_depth_apply_in_order(build):
    files = ("corpus.files.train=a.csv", "corpus.files.test=b=c.csv")
    text = "corpus: {train_rows: 5}\nlocal:\n"
    experiment = build(text, *files, "corpus.train_rows=null", "rounds=9", "rounds=8", "corpus={seed: 3}")
    assert (experiment.corpus.files.train, experiment.corpus.files.test) == (Path("a.csv"), Path("b=c.csv"))
    assert (experiment.corpus.train_rows, experiment.corpus.seed, experiment.rounds) == (None, 3, 8)


GRID_OVERRIDES = {
    "grid.alpha=[3.0]": {"alpha": (3.0,), "local.epochs": (1, 2)},
    "grid.local.epochs=[3]": {"alpha": (1.0, 2.0), "local.epochs": (3,)},
    "grid.alpha=null; alpha=0.5": {"local.epochs": (1, 2)},
    "grid=null": {},
    "grid={seed: [1]}; grid.local.epochs=null": {"alpha": (1.0, 2.0), "seed": (1,)},
}


@pytest.mark.parametrize("overrides", GRID_OVERRIDES)
def test_overrides_of_the_grid(build, overrides):
    grid = build("grid: {alpha: [1.0, 2.0], local: {epochs: [1, 2]}}", *overrides.split("; ")).grid
    assert grid == GRID_OVERRIDES[overrides]


def test_own_functions_are_accepted_by_reference(build):
    overrides = [
        "protocols=['m.p:f']",
        "partition.kind=m.p:f",
        "rule=m.p:f(a=1)",
        "local={objective: 'm.p:f', mu: 1}",
    ]
    cell = only(build("", *overrides))
    assert (cell.protocols, cell.partition.kind, cell.rule) == (("m.p:f",), "m.p:f", "m.p:f(a=1.0)")
    assert (cell.local.objective, cell.local.mu) == ("m.p:f", 1.0)


UNKNOWN = {
    "local.lerning_rate": "local: unknown key 'lerning_rate'; did you mean 'learning_rate'?",
    "corpsu.name": "unknown key 'corpsu'; did you mean 'corpus'?",
    "learning_rate": "unknown key 'learning_rate'; did you mean 'local.learning_rate'?",
    "corpus.files.trian": "corpus.files: unknown key 'trian'; did you mean 'train'?",
    "models.textcnn.filter": "models.textcnn: unknown key 'filter'; did you mean 'filters'?",
    "models.minilm.local.epoch": "models.minilm.local: unknown key 'epoch'; did you mean 'epochs'?",
}


@pytest.mark.parametrize("key", UNKNOWN)
@pytest.mark.parametrize("where", ["file", "override", "grid", "grid override"])
def test_unknown_keys_suggest_the_nearest(build, key, where):
    value = "[0.1]" if "grid" in where else "0.1"
    flow = "{" + key.replace(".", ": {") + f": {value}" + "}" * (key.count(".") + 1)
    arguments = {"file": [flow[1:-1]], "override": ["", f"{key}=0.1"], "grid": [f"grid: {flow}"]}
    with pytest.raises(InputError) as caught:
        build(*arguments.get(where, ["", f"grid.{key}=[0.1]"]))
    assert str(caught.value).splitlines()[1:] == [f"  {UNKNOWN[key]}"]


# Key, values that are each refused, and what the one line about the key says.
BAD_VALUES = r"""
alpha                | 0; -1                        | greater than 0 \(got
alpha                | .inf; abc; '0.1'; true; null | a finite number \(got inf|a valid number \(got
participation        | 0; 1.1                       | greater than 0 \(got|less than or equal to 1 \(got 1.1
rounds               | 0                            | greater than or equal to 1 \(got 0
rounds               | 1.5; 2.0; true; '3'; {x: 1}  | a valid integer \(got
seed                 | -1; 2147483648               | greater than or equal to 0|less than or equal to 2147483647
lanes                | 0; many                      | or Input should be 'auto' \(got
corpus.classes       | []; [1]; [yes, no]           | at least 2 items
corpus.name          | ''; 12                       | at least 1 character|a valid string
corpus               | docstrings                   | a valid dictionary .*\(got 'docstrings
local.optimizer      | adam                         | 'sgd' or 'adamw' \(got 'adam'
local.objective      | fedprox(mu=)                 | 'fedprox\(mu=\)' is not NAME or NAME\(setting=number
local.momentum       | 1; -0.1                      | less than 1|greater than or equal to 0
partition.kind       | dirichle                     | 'dirichlet', 'iid' or 'shards' \(got 'dirichle'
protocols            | []; global; [label_match]    | at least 1 item|a list|'label_matched'
rule                 | 3; fedavgw(0.5)              | a valid string|by name, such as
models.textcnn.widths| []; [3, 0]; 3                | at least 1 item|greater than or equal to 1|a list
models.textcnn       | {architecture: textcn}       | needs architecture=textcnn, transformer or module:function
models.big           | {architecture: transformer}  | weights is required
grid.alpha           | 0.1; []                      | a list \(got 0.1|at least 1 item
"""
ROWS = [[part.strip() for part in row.split("|", 2)] for row in BAD_VALUES.strip().splitlines()]
CASES = [(key, value, rule) for key, values, rule in ROWS for value in values.split("; ")]


@pytest.mark.parametrize(("key", "value", "rule"), CASES)
def test_bad_values_name_key_rule_and_value(build, key, value, rule):
    with pytest.raises(InputError) as caught:
        build("", f"{key}={value}")
    [line] = str(caught.value).splitlines()[1:]
    assert re.match(rf"  {key}: .*({rule})", line)


# Overrides, each line refused as a whole; then the message.
MISTAKES = r"""
alpha=-1; local.mu=-2; models.textcnn.filters=0 | \n  alpha: .*\n  models.textcnn.filters: .*\n  local.mu
protocols=[holdout]                         | partition.holdout_fraction above 0 .*set it to 0.1
local.mu=0.01                               | does not read local\.mu \(got 0\.01\); set local.objective=fedprox
grid.local.mu=[0.0, 0.5]                    | cell 'local.mu=0.5'.*set local.objective=fedprox
corpus.files.train=a.csv                    | set both corpus.files.train and corpus.files.test
model=textcn                                | one of textcnn, distilbert, minilm.*got 'textcn'
grid.alpha=[0.1, -3]                        | cell .*'alpha': -3.*\n  alpha: .*greater than 0 \(got -3\)
grid.alpha=[1, 1.0]                         | are the same run
grid.rule=[fedavgw(beta=1), fedavgw(beta=1.0)] | are the same run
local.mu=0; grid.models.textcnn.local.mu=[0, 0.5] | are the same run
grid.lanes=[1, 2]                           | grid.lanes cannot be swept
grid.name,seed=[[a, 1]]                     | grid.name,seed cannot be swept
grid.partition_seed,seed=[1, 2]             | grid.partition_seed,seed needs lists of 2 values.*got 1
grid.partition_seed,seed=[[1, 2, 3]]        | grid.partition_seed,seed needs lists of 2 values.*got \[1, 2, 3\]
grid.partition_seed,seed=[[1, 2]]; seed=3   | override seed=3 .*grid.partition_seed,seed=null
grid=[0.1]                                  | grid.KEY=\[...\].*got \[0.1\]
grid.alpha=[1.0]; alpha=0.5                 | override alpha=0.5 .*grid.alpha=\[0.5\], .*grid.alpha=null
grid.local.mu=[0]; local={mu: 0.5}          | override local.mu=0.5 .*grid.local.mu=\[0.5\]
grid.rule=[f(a=1, b=2)]                     | quote a call that contains a comma
grid.alpha=[0.1                             | override 'grid.alpha=\[0.1' is not valid YAML
rounds                                      | must be key=value, .*got 'rounds'
=3                                          | must be key=value, .*got '=3'
a..b=1                                      | must be key=value, .*got 'a..b=1'
"""


@pytest.mark.parametrize("row", MISTAKES.strip().splitlines())
def test_mistakes_are_refused(build, row):
    overrides, message = row.split("|", 1)
    with pytest.raises(InputError, match=message.strip()):
        build("", *overrides.strip().split("; "))


@pytest.mark.parametrize("path", CONFIGS)
def test_shipped_file_expands_and_states_its_command(path):
    files = ["corpus.files.train=train.csv", "corpus.files.test=test.csv"]
    count = len(cells(load(ROOT / path, files)))
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines(keepends=True)
    header = "".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert all(part in header for part in (f"fedjax-paradox run {path}\n", f" {count} cells", " ".join(files)))
    # gap = average - worst; all three are rounded to 0.1, so they agree within 0.15.
    found = re.findall(r"([\d.]+) +/ ([\d.]+) +/ ([\d.]+)", header)
    assert bool(found) is ("paper" in path)
    assert all(float(a) - float(worst) == pytest.approx(float(gap), abs=0.15) for a, worst, gap in found)


CNN, ALPHAS = ["textcnn"], (0.1, 0.5, 1.0, 5.0)
RULES = ("fedavg", "fedavgw(beta=0.1)", "fedavgw(beta=0.5)", "fedavgw(beta=1.0)")
GRIDS = {
    "configs/paper/e1_alpha_grid.yaml": (["textcnn", "distilbert"], [10], ["fedavg"], ALPHAS),
    "configs/paper/e2_clients.yaml": (CNN, [5, 10, 20, 50], ["fedavg"], [0.5]),
    "configs/paper/e3_fedprox.yaml": (CNN, [10], ["fedavg"], ALPHAS),
    "configs/paper/e4_sentiment140.yaml": (CNN, [10], ["fedavg"], ALPHAS),
    "configs/paper/e5_fedavgw.yaml": (["distilbert"], [10], RULES, [0.1]),
}


@pytest.mark.parametrize("path", [path for path in CONFIGS if "paper" in path])
def test_paper_files_hold_the_published_grid_and_settings(path):
    found = cells(load(ROOT / path))
    points = [(cell.model, cell.num_clients, cell.rule, cell.alpha) for cell in found]
    assert points == list(itertools.product(*GRIDS[path]))
    fedprox = {"objective": "fedprox", "mu": 0.01} if "e3_fedprox" in path else {}
    for cell in found:
        assert cell.local.model_dump() == (SGD if cell.model == "textcnn" else ADAMW) | fedprox
        assert (cell.seed, cell.partition_seed, cell.participation) == (42, 42, 1.0)
        assert cell.rounds == (20 if "e5_fedavgw" in path else 50)
        assert {"train_rows", "label_filtered"} <= set(cell.protocols)
    written = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    swept = {axis.removeprefix("local.") for axis in written["grid"] if axis.startswith("local.")}
    assert all({*model["local"], *swept} == set(SGD) for model in written["models"].values())


def test_the_laptop_sized_experiments_are_valid_and_cover_every_paper_file(tmp_path):
    # Stands in for the command: keeps its arguments, one a line, and an empty line after each call.
    (tmp_path / "fedjax-paradox").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" "" >> {tmp_path}/calls\n')
    (tmp_path / "fedjax-paradox").chmod(0o755)
    script = [ROOT / "experiments/paper/laptop.sh", "news", "tweets", "runs"]
    subprocess.run(script, check=True, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    calls = [call.split("\n") for call in (tmp_path / "calls").read_text().strip().split("\n\n")]
    found = [cell for _, path, *overrides, _, _ in calls for cell in cells(load(path, overrides))]
    assert {Path(path).name for _, path, *_ in calls} == {Path(path).name for path in GRIDS}
    pairs = {(cell.partition_seed, cell.seed) for cell in found}
    assert len(pairs) == len({seed for _, seed in pairs})  # a training seed serves one partition alone
    assert len({partition for partition, _ in pairs}) >= 3
    models = {(cell.corpus.name, cell.model, cell.alpha) for cell in found if cell.rule == "fedavg"}
    assert models >= set(itertools.product(("ag_news", "sentiment140"), ("textcnn", "minilm"), ALPHAS))


def test_the_distilbert_command_in_the_header_of_e4():
    path = ROOT / "configs/paper/e4_sentiment140.yaml"
    overrides = ["grid.model=[distilbert]", "grid.alpha=[0.1, 1.0]", "rounds=20", "min_participant_rows=2"]
    assert all(override in path.read_text(encoding="utf-8") for override in overrides)
    found = cells(load(path, overrides))
    points = [(cell.model, cell.alpha, cell.rounds, cell.min_participant_rows) for cell in found]
    assert points == [("distilbert", 0.1, 20, 2), ("distilbert", 1.0, 20, 2)]
