"""The configuration: what it accepts, what it refuses and in which words, and every shipped file."""

import itertools
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedjax_paradox.config import (
    Experiment,
    ResolvedLocal,
    cells,
    content_hash,
    format_call,
    load,
    parse_call,
    structure,
    to_yaml,
)
from fedjax_paradox.errors import InputError

ROOT = Path(__file__).parent.parent
CONFIGS = {
    "configs/quickstart.yaml": 4,
    "configs/paper/e1_alpha_grid.yaml": 8,
    "configs/paper/e2_clients.yaml": 4,
    "configs/paper/e3_fedprox.yaml": 4,
    "configs/paper/e4_sentiment140.yaml": 4,
    "configs/paper/e5_fedavgw.yaml": 4,
}
# Written out here a second time, from the paper's notebook, not imported.
SGD = {
    "epochs": 5,
    "batch_size": 32,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "drop_ragged": True,
    "objective": "cross_entropy",
    "mu": 0.0,
}
ADAMW = SGD | {
    "epochs": 1,
    "batch_size": 16,
    "optimizer": "adamw",
    "learning_rate": 5e-5,
    "momentum": 0.0,
    "weight_decay": 0.01,
    "drop_ragged": False,
}


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


# Published values


def test_defaults_are_the_published_point():
    cell = only(Experiment(name="study"))
    assert (cell.name, cell.model, cell.rule, cell.alpha) == ("single", "textcnn", "fedavg", 0.1)
    assert (cell.num_clients, cell.participation, cell.rounds) == (10, 1.0, 50)
    assert (cell.partition_seed, cell.seed, cell.min_participant_rows) == (42, 42, 1)
    assert cell.protocols == ("train_rows", "label_filtered", "label_matched", "global")
    assert cell.architecture.widths == (3, 4, 5)


@pytest.mark.parametrize(("model", "expected"), [("textcnn", SGD), ("distilbert", ADAMW), ("minilm", ADAMW)])
def test_published_local_training(model, expected):
    assert only(Experiment(name="study", model=model)).local.model_dump() == expected


def test_custom_model_starts_from_textcnn_values(build):
    text = "models: {mine: {architecture: 'my.pkg:net', options: {depth: 2}}}\nmodel: mine"
    cell = only(build(text))
    assert cell.local == ResolvedLocal(**SGD)
    assert cell.architecture.options == {"depth": 2}


# Precedence: preset < models.X.local < local < grid


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(0, 5), (1, 6), (2, 7), (3, 8)],
    ids=["preset", "models.X.local", "local", "grid"],
)
def test_each_layer_overrides_the_one_below(build, layers, expected):
    overrides = ["models.textcnn.local.epochs=6", "local.epochs=7", "grid.local.epochs=[8]"][:layers]
    if layers == 3:
        # An override that the grid masks is refused, so the layer below comes from the file.
        experiment = build("local: {epochs: 7}", overrides[0], overrides[2])
    else:
        experiment = build("", *overrides)
    assert only(experiment).local == ResolvedLocal(**SGD | {"epochs": expected})


def test_an_explicit_zero_or_false_overrides(build):
    local = only(build("", "local.momentum=0", "local.drop_ragged=false")).local
    assert (local.momentum, local.drop_ragged) == (0.0, False)


def test_experiment_local_reaches_every_model_and_model_local_only_its_own(build):
    text = "grid: {model: [textcnn, distilbert]}\nmodels: {textcnn: {local: {epochs: 2}}}"
    cnn, bert = cells(build(text, "local.batch_size=8"))
    assert (cnn.local.epochs, cnn.local.batch_size) == (2, 8)
    assert (bert.local.epochs, bert.local.batch_size) == (1, 8)


def test_models_are_merged_over_the_presets(build):
    experiment = build("models: {textcnn: {filters: 7}}", "models.distilbert.lora_rank=2")
    assert set(experiment.models) == {"textcnn", "distilbert", "minilm"}
    assert (experiment.models["textcnn"].filters, experiment.models["textcnn"].embedding_size) == (7, 128)
    assert experiment.models["distilbert"].lora_rank == 2
    assert experiment.models["distilbert"].weights == "distilbert-base-uncased"


def test_another_architecture_replaces_the_preset(build):
    experiment = build("models: {distilbert: {architecture: textcnn, filters: 3}}\nmodel: distilbert")
    assert only(experiment).local == ResolvedLocal(**SGD)


# Cells


def test_cells_are_the_product_in_file_order_last_axis_fastest(build):
    experiment = build("grid: {partition_seed: [1, 2], alpha: [5, 0.1], model: [textcnn, minilm]}")
    points = [(cell.partition_seed, cell.alpha, cell.model) for cell in cells(experiment)]
    assert points == list(itertools.product([1, 2], [5.0, 0.1], ["textcnn", "minilm"]))
    assert cells(experiment)[0].name == "model=textcnn,alpha=5.0,partition_seed=1"


def test_nested_and_dotted_grid_keys_are_the_same(build):
    nested = build("grid: {local: {mu: [0.1, 1], objective: [fedprox]}}")
    dotted = build("grid: {local.mu: [0.1, 1], local.objective: [fedprox]}")
    assert nested == dotted
    assert [cell.local.mu for cell in cells(nested)] == [0.1, 1.0]


def test_rules_are_written_one_way_in_cells(build):
    names = [
        cell.rule
        for cell in cells(build("grid: {rule: [fedavg, 'fedavgw( beta=0.50 )', 'my.mod:rule(b=1,a=2)']}"))
    ]
    assert names == ["fedavg", "fedavgw(beta=0.5)", "my.mod:rule(a=2.0, b=1.0)"]


def test_an_invalid_cell_is_named(build):
    with pytest.raises(InputError, match=r"cell 'model=textcnn,alpha=-3'.*\n  alpha: .*above 0 \(got -3\)"):
        build("grid: {alpha: [0.1, -3], model: [textcnn]}")


@pytest.mark.parametrize(
    "text", ["grid: {alpha: [1, 1.0]}", "grid: {rule: [fedavgw(beta=1), fedavgw(beta=1.0)]}"]
)
def test_repeated_cells_are_refused(build, text):
    with pytest.raises(InputError, match="are the same run"):
        build(text)


def test_a_swept_value_hidden_by_a_higher_layer_is_refused(build):
    with pytest.raises(InputError, match="hides a swept one"):
        build("local: {epochs: 2}\ngrid: {models.textcnn.local.epochs: [1, 3]}")


def test_a_base_point_that_the_grid_completes_is_accepted(build):
    build("protocols: [holdout]\ngrid: {partition.holdout_fraction: [0.1, 0.2]}")
    build("local: {mu: 0.1}\ngrid: {local.objective: [fedprox]}")


DATA = {
    "alpha": 0.7,
    "seed": 7,
    "partition_seed": 7,
    "rule": "fedavgw(beta=0.5)",
    "num_clients": 3,
    "participation": 0.5,
    "local.learning_rate": 0.3,
    "local.momentum": 0.1,
    "local.weight_decay": 0.1,
    "local.epochs": 9,
    "local.drop_ragged": "false",
    "partition.kind": "shards",
    "min_participant_rows": 2,
}
PROGRAM = {
    "model": "minilm",
    "corpus.name": "other",
    "rounds": 3,
    "protocols": "[global]",
    "local.batch_size": 8,
    "local.optimizer": "adamw",
    "local.objective": "fedprox",
    "partition.holdout_fraction": 0.1,
    "models.textcnn.dropout": 0.1,
}


@pytest.mark.parametrize(("changes", "shared"), [(DATA, True), (PROGRAM, False)], ids=["data", "program"])
def test_structure_separates_programs_and_not_data(build, changes, shared):
    base = only(build(""))
    for key, value in changes.items():
        changed = only(build("", f"{key}={value}"))
        assert changed != base, key
        assert (structure(changed) == structure(base)) is shared, key
    assert hash(structure(base)) == hash(structure(only(build(""))))


def test_mu_and_the_size_of_the_holdout_are_data(build):
    proximal = [only(build("local: {objective: fedprox}", f"local.mu={mu}")) for mu in (0.1, 0.2)]
    held = [only(build("", f"partition.holdout_fraction={share}")) for share in (0.1, 0.2)]
    for left, right in (proximal, held):
        assert left != right
        assert structure(left) == structure(right)


def test_structure_of_a_custom_model_is_hashable(build):
    text = "models: {mine: {architecture: 'm:f', options: {b: [1], a: {c: 2}}}}\nmodel: mine"
    swapped = "models: {mine: {architecture: 'm:f', options: {a: {c: 2}, b: [1]}}}\nmodel: mine"
    assert {structure(only(build(text)))} == {structure(only(build(swapped)))}


# Content hash


def test_hash_ignores_order_defaults_and_speed(build):
    text = "alpha: 0.5\nmodel: textcnn\ngrid: {seed: [1, 2], rule: [fedavg, fedavgw(beta=1)]}"
    expected = content_hash(build(text))
    same = [
        "grid: {rule: [fedavg, fedavgw(beta=1.0)], seed: [1, 2]}\nmodel: textcnn\nalpha: 5e-1",
        f"{text}\nrounds: 50\nlocal: {{epochs: 5}}\nmodels: {{textcnn: {{filters: 100, local: {{mu: 0}}}}}}",
        f"{text}\nlanes: 4\nchunk_steps: 3\ncheckpoints_kept: 9",
        f"{text}\nmodels: {{unused: {{architecture: textcnn, filters: 3}}, minilm: {{lora_rank: 2}}}}",
    ]
    assert [content_hash(build(other)) for other in same] == [expected] * len(same)
    assert content_hash(build(text, "name=other")) == expected
    assert re.fullmatch("[0-9a-f]{16}", expected)


def test_hash_of_every_result_changing_key_differs(build):
    settings = DATA | PROGRAM | {"corpus.seed": 1, "corpus.classes": "[0, 1]", "local.epochs": 2}
    hashes = [content_hash(build("", f"{key}={value}")) for key, value in settings.items()]
    assert len({content_hash(build("")), *hashes}) == len(settings) + 1


# YAML round trip


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts)


@given(
    name=texts | st.sampled_from(["5e-5", "1e3", "null", "no", "1:30", "~", "2024-01-01"]),
    options=st.dictionaries(texts, scalars | st.lists(scalars, max_size=2), max_size=3),
    alphas=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=3, unique=True),
)
def test_to_yaml_is_read_back_equal(tmp_path_factory, name, options, alphas):
    models = {"mine": {"architecture": "my.pkg:net", "options": options, "local": {"epochs": 2}}}
    corpus = {"name": name, "files": {"train": "a.csv", "test": "b.csv"}, "classes": [name, 3]}
    grid = {"alpha": alphas, "local.learning_rate": [5e-5]}
    experiment = Experiment(name=name, models=models, model="mine", corpus=corpus, grid=grid)
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    path.write_bytes(to_yaml(experiment).encode())
    again = load(path)
    assert again == experiment
    assert list(again.grid) == list(experiment.grid)
    assert content_hash(again) == content_hash(experiment)


# Calls


@given(
    name=st.from_regex(r"[a-z_][a-z0-9_]{0,5}(\.[a-z]{1,3})?(:[a-z]{1,5})?", fullmatch=True),
    settings=st.dictionaries(
        st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True),
        st.floats(allow_nan=False, allow_infinity=False),
        max_size=3,
    ),
)
def test_format_call_is_read_back_equal(name, settings):
    assert parse_call(format_call(name, settings)) == (name, settings)


@pytest.mark.parametrize("text", ["fedavgw(beta=0.50)", " fedavgw( beta = .5 ) ", "fedavgw(beta=5e-1)"])
def test_spellings_of_one_call(text):
    assert format_call(*parse_call(text)) == "fedavgw(beta=0.5)"


def test_call_without_settings():
    assert parse_call("fedavg") == parse_call("fedavg()") == ("fedavg", {})


def test_positional_setting_is_refused_with_the_keyword_form():
    with pytest.raises(
        InputError, match=r"fedavgw\(0\.5\).*write fedavgw\(SETTING=0\.5\), as in fedavgw\(beta=0\.5\)"
    ):
        parse_call("fedavgw(0.5)")


@pytest.mark.parametrize(
    "text",
    ["", "f(", "f)", "1f", "f(a=1)(b=2)", "f(a=g(b=1))", "f g", "a:b:c", "f(a=1,)", "f(a=1, a=2)"]
    + [
        f"f(a={value})"
        for value in ("x", "true", "null", ".inf", ".nan", "[1]", "__import__('os')", "1 2", "'1'")
    ],
)
def test_malformed_calls_are_refused(text):
    with pytest.raises(InputError, match=re.escape(repr(text))):
        parse_call(text)


def test_an_unquoted_comma_in_a_list_is_explained(build):
    with pytest.raises(InputError, match="quote a call that contains a comma"):
        build("", "grid.rule=[f(a=1, b=2)]")


# Overrides


@given(value=st.floats(min_value=1e-300, allow_infinity=False, exclude_min=True))
def test_every_spelling_python_has_for_a_float_is_a_number(build, value):
    assert build("", f"alpha={value!r}").alpha == value
    assert build("", f"alpha={value:e}").alpha == float(f"{value:e}")


@pytest.mark.parametrize(
    ("text", "value"), [("5e-5", 5e-5), ("1E3", 1e3), ("+2e+1", 20), (".5e1", 5), ("1.5e2", 150)]
)
def test_exponents_that_yaml_1_1_reads_as_text(build, text, value):
    assert build(f"alpha: {text}").alpha == value
    assert build("grid: {alpha: [1.0]}", f"grid.alpha=[{text}]").grid == {"alpha": (value,)}


def test_overrides_of_any_depth_apply_in_order(build):
    overrides = ("corpus.files.train=a.csv", "corpus.files.test=b=c.csv", "corpus.train_rows=null", "lanes=4")
    experiment = build(
        "corpus: {train_rows: 5}\nrounds: 3", *overrides, "rounds=9", "rounds=8", "corpus={seed: 3}"
    )
    assert experiment.corpus.files.train == Path("a.csv")
    assert experiment.corpus.files.test == Path("b=c.csv")
    assert (experiment.corpus.train_rows, experiment.corpus.seed) == (None, 3)
    assert (experiment.lanes, experiment.rounds) == (4, 8)


def test_overrides_of_the_grid(build):
    text = "grid: {alpha: [1.0, 2.0], local: {epochs: [1, 2]}}"
    assert build(text, "grid.alpha=[3.0]").grid == {"alpha": (3.0,), "local.epochs": (1, 2)}
    assert build(text, "grid.local.epochs=[3]").grid == {"alpha": (1.0, 2.0), "local.epochs": (3,)}
    assert build(text, "grid.alpha=null", "alpha=0.5").grid == {"local.epochs": (1, 2)}
    assert build(text, "grid=null").grid == {}
    assert build(text, "grid={seed: [1]}", "grid.local.epochs=null").grid == {
        "alpha": (1.0, 2.0),
        "seed": (1,),
    }


@pytest.mark.parametrize("override", ["alpha=0.5", "local={mu: 0.5}"])
def test_an_override_that_the_grid_masks_is_refused(build, override):
    with pytest.raises(InputError) as caught:
        build("grid: {alpha: [1.0], local.mu: [0.0]}", override)
    key = "alpha" if override.startswith("alpha") else "local.mu"
    for part in (f"override {key}=0.5", f"grid.{key}=[0.5]", f"grid.{key}=null"):
        assert part in str(caught.value)


@pytest.mark.parametrize("override", ["rounds", "=3", "a..b=1", ".a=1", "--rounds 3"])
def test_malformed_overrides_are_refused(build, override):
    with pytest.raises(
        InputError, match=r"must be key=value, such as rounds=3.*" + re.escape(repr(override))
    ):
        build("", override)


def test_a_malformed_value_names_its_override(build):
    with pytest.raises(InputError, match=r"override 'grid.alpha=\[0.1'"):
        build("", "grid.alpha=[0.1")


# Unknown keys


UNKNOWN = [
    ("local.lerning_rate", "local.learning_rate"),
    ("corpsu.name", "corpus"),
    ("learning_rate", "local.learning_rate"),
    ("corpus.files.trian", "corpus.files.train"),
    ("models.textcnn.filter", "models.textcnn.filters"),
    ("models.distilbert.local.epoch", "models.distilbert.local.epochs"),
]


@pytest.mark.parametrize(("key", "near"), UNKNOWN)
@pytest.mark.parametrize("where", ["file", "override", "grid", "grid override"])
def test_unknown_keys_suggest_the_nearest(build, key, near, where):
    nested = [0.1] if where.startswith("grid") else 0.1
    for part in reversed(key.split(".")):
        nested = {part: nested}
    arguments = {
        "file": [yaml.safe_dump(nested)],
        "override": ["", f"{key}=0.1"],
        "grid": [yaml.safe_dump({"grid": nested})],
        "grid override": ["", f"grid.{key}=[0.1]"],
    }
    with pytest.raises(InputError) as caught:
        build(*arguments[where])
    prefix = "grid." if where.startswith("grid") else ""
    assert f"did you mean '{prefix}{near}'?" in str(caught.value)
    assert re.search(rf"unknown key '{prefix}{re.escape(key.split('.')[0])}", str(caught.value))


def test_unknown_keys_without_a_near_one_list_the_valid_ones(build):
    with pytest.raises(
        InputError, match=r"unknown key 'corpus.files.zzz'; valid keys: corpus.files.train, corpus.files.test"
    ):
        build("corpus: {files: {zzz: 1}}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounds: {x: 1}", "unknown key 'rounds.x'; 'rounds' takes a value"),
        ("local.mu: 0.1", "unknown key 'local.mu'; .*write {'local': {'mu': '...'}}"),
        ("1: 2", "unknown key '1'"),
        ("grid: {lanes: [1, 2]}", "lanes is one for all cells and cannot be swept"),
        ("grid: {corpus: [docstrings]}", "corpus is a section; sweep one of its keys: name"),
        ("grid: {alpha: 0.1}", r"grid.alpha must be a non-empty list.*got 0.1"),
        ("grid: {alpha: []}", r"grid.alpha must be a non-empty list.*got \[\]"),
        ("grid: [0.1]", "grid must hold keys with lists"),
        ("grid: {local: {mu: [0]}, local.mu: [1]}", "sweeps 'local.mu' twice"),
    ],
)
def test_misplaced_keys_are_refused(build, text, message):
    with pytest.raises(InputError, match=message):
        build(text)


# Values


BAD_VALUES = [
    ("alpha", ["0", "-1", ".inf", ".nan", "abc", "'0.1'", "true", "null"], "a number above 0"),
    ("participation", ["0", "1.1"], "a number above 0 and at most 1"),
    ("rounds", ["0", "1.5", "2.0", "true", "'3'"], "a whole number from 1"),
    ("seed", ["-1", "2147483648"], "a whole number from 0 to 2147483647"),
    ("partition_seed", ["-1", "2147483648"], "a whole number from 0 to 2147483647"),
    ("lanes", ["0", "many"], "a whole number from 1, or auto"),
    ("corpus.train_rows", ["0"], "a whole number from 1"),
    ("corpus.classes", ["[]", "[1]", "[yes, no]"], "a list of two or more labels"),
    ("corpus.classes", ["[1, 1]"], "must not repeat an entry"),
    ("corpus.name", ["", "12"], "must be text"),
    ("corpus", ["docstrings"], "a section with keys among name"),
    ("local.optimizer", ["adam"], "must be sgd or adamw"),
    (
        "local.objective",
        ["fedprx"],
        "one of cross_entropy, fedprox, or package.module:function .*did you mean 'fedprox'",
    ),
    ("local.momentum", ["1", "-0.1"], "a number from 0 to below 1"),
    ("local.drop_ragged", ["1"], "true or false"),
    ("partition.kind", ["dirichle"], "did you mean 'dirichlet'"),
    ("partition.holdout_fraction", ["1", "-0.1"], "a number from 0 to below 1"),
    ("protocols", ["[]", "global"], "a non-empty list of protocols"),
    ("protocols", ["[global, global]"], "must not repeat an entry"),
    ("protocols", ["[label_match]"], "did you mean 'label_matched'"),
    ("rule", ["3", "[fedavg]"], "must be text"),
    ("rule", ["fedavgw(0.5)"], "settings are given by name"),
    ("model", ["textcn"], "one of textcnn, distilbert, minilm.*did you mean 'textcnn'"),
    ("models.textcnn.widths", ["[]", "[3, 0]", "3"], "a list of whole numbers from 1"),
    ("models.textcnn.architecture", ["textcn"], "needs an architecture: textcnn, transformer or"),
    ("models.distillbert.max_length", ["3"], "needs an architecture: .*did you mean 'distilbert'"),
    ("models", ["{'a,b': {architecture: textcnn}}"], "a model's name is made of"),
    ("models", ["{big: {architecture: transformer}}"], "models.big.weights: is required"),
    ("corpus.files.train", ["a.csv"], "set both corpus.files.train and corpus.files.test"),
]


@pytest.mark.parametrize(
    ("key", "value", "message"), [(key, value, text) for key, values, text in BAD_VALUES for value in values]
)
def test_bad_values_name_key_rule_and_value(build, key, value, message):
    if value == "":
        value = "''"
    with pytest.raises(InputError, match=message) as caught:
        build("", f"{key}={value}")
    assert re.search(rf"^  {key.split('.')[0]}[\w.]*: ", str(caught.value), re.MULTILINE)
    assert "pydantic" not in str(caught.value)


def test_all_problems_are_listed_at_once(build):
    with pytest.raises(InputError) as caught:
        build("alpha: -1\nrounds: 0\nlocal: {mu: -2}\nmodels: {textcnn: {filters: 0}}")
    lines = str(caught.value).splitlines()[1:]
    assert sorted(line.split(":")[0].strip() for line in lines) == [
        "alpha",
        "local.mu",
        "models.textcnn.filters",
        "rounds",
    ]
    assert "  alpha: must be a number above 0 (got -1)" in lines


def test_own_functions_are_accepted_by_reference(build):
    experiment = build(
        "protocols: ['my.mod:protocol']\npartition: {kind: 'my.mod:split'}\n"
        "local: {objective: 'my.mod:loss', mu: 0.3}\nrule: my.mod:rule(a=1)"
    )
    cell = only(experiment)
    assert (cell.protocols, cell.partition.kind, cell.rule) == (
        ("my.mod:protocol",),
        "my.mod:split",
        "my.mod:rule(a=1.0)",
    )
    assert (cell.local.objective, cell.local.mu) == ("my.mod:loss", 0.3)


def test_holdout_needs_a_fraction(build):
    with pytest.raises(InputError, match=r"set partition\.holdout_fraction=0\.1"):
        build("protocols: [holdout]")
    build("protocols: [holdout]\npartition: {holdout_fraction: 0.1}")


def test_mu_needs_a_proximal_objective(build):
    with pytest.raises(InputError, match=r"got local\.mu=0\.01\); set local.objective=fedprox"):
        build("local: {mu: 0.01}")
    with pytest.raises(InputError, match=r"cell 'local.mu=0.5'.*\n.*set local.objective=fedprox"):
        build("grid: {local.mu: [0.0, 0.5]}")


def test_everything_is_frozen():
    experiment = Experiment(name="study")
    for record, key in [(experiment, "alpha"), (experiment.local, "mu"), (only(experiment), "alpha")]:
        with pytest.raises(ValueError, match="frozen"):
            setattr(record, key, 1.0)


# Files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: a\nname: b\n", "'name' is written twice"),
        (b"name: a\nlocal: {mu: 0, mu: 0}\n", "'mu' is written twice"),
        (b"name: [a\n", r"bad.yaml is not valid YAML.*line 1"),
        (b"- a\n", "must hold `key: value` lines"),
        (b"", "must hold `key: value` lines"),
        (b"name: \xff\n", "must be UTF-8"),
        (b"name: &a [*a]\n", "not valid YAML"),
        (b"grid: &g {a: *g}\n", "not valid YAML"),
        (b"name: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        (b"name: 2024-13-45\n", "not valid YAML"),
        (b"name: a\n---\nname: b\n", "not valid YAML"),
        (b"alpha: 1\n", "name: is required"),
    ],
)
def test_unusable_files_are_refused(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.compile(message, re.DOTALL)):
        load(path)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_opened_is_named(tmp_path, name):
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
        load(tmp_path / name)


def test_empty_sections_mean_defaults(build):
    assert build("local:\ngrid:\nmodels:\ncorpus:\n  files:\n") == Experiment(name="study")


# The shipped files


def test_every_shipped_file_is_listed():
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")} == set(CONFIGS)


@pytest.mark.parametrize(("path", "count"), CONFIGS.items())
def test_shipped_file_expands_and_states_its_command(path, count):
    assert len(cells(load(ROOT / path))) == count
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines(keepends=True)
    header = "".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert f"fedjax-paradox run {path}\n" in header
    assert f"{count} cells" in header
    assert "corpus.files.train=train.csv corpus.files.test=test.csv" in header
    load(ROOT / path, ["corpus.files.train=train.csv", "corpus.files.test=test.csv"])


@pytest.mark.parametrize("path", CONFIGS)
def test_published_numbers_in_headers_are_consistent(path):
    """gap = average - worst; all three are rounded to 0.1, so they agree within 0.15."""
    found = re.findall(r"([\d.]+) +/ ([\d.]+) +/ ([\d.]+)", (ROOT / path).read_text(encoding="utf-8"))
    assert bool(found) is ("paper" in path)
    for average, worst, gap in found:
        assert float(average) - float(worst) == pytest.approx(float(gap), abs=0.15)


@pytest.mark.parametrize("path", [path for path in CONFIGS if "paper" in path])
def test_paper_files_hold_the_published_settings(path):
    fedprox = {"objective": "fedprox", "mu": 0.01} if "e3" in path else {}
    for cell in cells(load(ROOT / path)):
        expected = (SGD if cell.model == "textcnn" else ADAMW) | fedprox
        assert cell.local.model_dump() == expected
        assert (cell.seed, cell.partition_seed, cell.participation) == (42, 42, 1.0)
        assert cell.rounds == (20 if "e5" in path else 50)
        assert {"train_rows", "label_filtered"} <= set(cell.protocols)


def test_paper_files_write_every_local_setting_out():
    for path in (path for path in CONFIGS if "paper" in path):
        models = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))["models"]
        assert all(set(model["local"]) == set(SGD) for model in models.values()), path


def test_grids_of_the_paper_files():
    def points(name, *keys):
        return [
            tuple(getattr(cell, key) for key in keys)
            for cell in cells(load(ROOT / f"configs/paper/{name}.yaml"))
        ]

    alphas = [0.1, 0.5, 1.0, 5.0]
    assert points("e1_alpha_grid", "model", "alpha") == list(
        itertools.product(["textcnn", "distilbert"], alphas)
    )
    assert points("e2_clients", "num_clients", "alpha") == [(count, 0.5) for count in (5, 10, 20, 50)]
    assert points("e3_fedprox", "alpha", "model") == [(alpha, "textcnn") for alpha in alphas]
    assert points("e4_sentiment140", "alpha", "model") == [(alpha, "textcnn") for alpha in alphas]
    rules = ["fedavg", "fedavgw(beta=0.1)", "fedavgw(beta=0.5)", "fedavgw(beta=1.0)"]
    assert points("e5_fedavgw", "rule", "alpha") == [(rule, 0.1) for rule in rules]


def test_the_distilbert_command_in_the_header_of_e4():
    path = ROOT / "configs/paper/e4_sentiment140.yaml"
    overrides = ["grid.model=[distilbert]", "grid.alpha=[0.1, 1.0]", "rounds=20", "min_participant_rows=2"]
    header = path.read_text(encoding="utf-8")
    assert all(override in header for override in overrides)
    found = cells(load(path, overrides))
    assert [(cell.model, cell.alpha, cell.rounds, cell.min_participant_rows) for cell in found] == [
        ("distilbert", 0.1, 20, 2),
        ("distilbert", 1.0, 20, 2),
    ]
    assert found[0].corpus.classes == (0, 4)
    assert (found[0].corpus.train_rows, found[0].corpus.test_rows) == (40_000, 8_000)


def test_quickstart_uses_all_five_protocols_without_a_data_download():
    cell = cells(load(ROOT / "configs/quickstart.yaml"))[0]
    assert set(cell.protocols) == {"train_rows", "label_filtered", "label_matched", "holdout", "global"}
    assert (cell.corpus.name, cell.partition.holdout_fraction) == ("docstrings", 0.1)
