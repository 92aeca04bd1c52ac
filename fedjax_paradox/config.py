"""The schema of an experiment: YAML plus `key=value` overrides -> `Experiment` -> the cells of its grid.

Defaults are those of arXiv:2605.08992. Local training: published < `models.NAME.local` < `local` < `grid`.
Every mistake is an `InputError`. Paths are relative to the working directory.
"""

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, JsonValue, model_validator
from pydantic_core import ValidationError

from fedjax_paradox.errors import InputError

_NAME, _MANTISSA, _EXPONENT = r"[A-Za-z_]\w*", r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)", "[eE][-+]?[0-9]+"
_FLOAT = re.compile(f"{_MANTISSA}{_EXPONENT}$")
_SETTING = rf"\s*({_NAME})\s*=\s*({_MANTISSA}(?:{_EXPONENT})?)\s*"
_CALL = re.compile(rf"\s*({_NAME}(?:\.{_NAME})*(?::{_NAME})?)\s*(?:\(\s*\)|\(({_SETTING}(?:,{_SETTING})*)\))?\s*")


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 5e-5 as a number and refuses a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value]
        if repeated := [name for name in names if names.count(name) > 1]:
            problem = f"the key {repeated[0]!r} is written twice; keep one of them"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper): ...


# YAML 1.1 wants a point and a signed exponent, so it reads 5e-5 as text.
for _dialect in (_Loader, _Dumper):
    _dialect.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_call(text: str) -> tuple[str, dict[str, float]]:
    """`fedavgw(beta=0.5)` -> `("fedavgw", {"beta": 0.5})`, or InputError; the name may be `module:function`."""
    match = _CALL.fullmatch(text)
    settings = re.findall(_SETTING, match[2] or "") if match else []
    if match is None or len(dict(settings)) < len(settings):
        raise InputError(
            f"{text!r} is not NAME or NAME(setting=number, ...), each setting once and by name, such as "
            "fedavgw(beta=0.5); inside a YAML list, quote a call that contains a comma"
        )
    return match[1], {key: float(value) for key, value in settings}


def format_call(name: str, settings: Mapping[str, float]) -> str:
    """The one spelling of a call: settings sorted by name, numbers in their shortest form."""
    inside = ", ".join(f"{key}={float(settings[key])!r}" for key in sorted(settings))
    return f"{name}({inside})" if inside else name


def _merge(base: Any, over: Any) -> Any:
    """`over` laid upon `base`, mapping by mapping."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    return {**base, **{key: _merge(base.get(key), value) for key, value in over.items()}}


def _leaves(data: Any, prefix: str) -> list[tuple[str, Any]]:
    if not isinstance(data, Mapping):
        return [(prefix, data)]
    return [leaf for key, value in data.items() for leaf in _leaves(value, f"{prefix}.{key}")]


def _axes(grid: Any) -> dict[str, Any]:
    """A grid with nested or dotted keys -> dotted key: values, without the axes that are null."""
    leaves = _leaves({} if grid is None else grid, "grid")
    for key, values in leaves:
        swept = {name.split(".")[0] for name in _joined(key.removeprefix("grid."))}
        if key == "grid" or swept & {"grid", "name", "lanes", "checkpoints_kept"}:
            raise InputError(f"{key} cannot be swept; write grid.KEY=[...] with another KEY (got {values!r:.80})")
    return {",".join(_joined(key.removeprefix("grid."))): values for key, values in leaves if values is not None}


def _joined(axis: str) -> list[str]:
    """The keys that an axis sweeps together: `seed`, or `partition_seed, seed` with a list of pairs."""
    return [key.strip() for key in axis.split(",")]


def _paths(schema: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a schema, sections included."""
    fields = getattr(schema, "model_fields", {}).items()
    return [path for key, field in fields for path in (prefix + key, *_paths(field.annotation, f"{prefix}{key}."))]


class _Section(BaseModel):
    model_config = {"frozen": True}

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, data: Any) -> Any:
        for key in data if isinstance(data, Mapping) else ():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), _paths(cls), n=1, cutoff=0)
                raise ValueError(f"unknown key {key!r}; did you mean {near[0]!r}?")
        return {} if data is None else data


# Strict, since YAML's true is no number and its '3' is text.
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(strict=True, ge=0, lt=1)]
Reference = Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]  # a person's own package.module:function
Rule = Annotated[Text, AfterValidator(lambda text: format_call(*parse_call(text)))]
Protocol = Literal["train_rows", "label_filtered", "label_matched", "holdout", "global"] | Reference
Protocols = Annotated[tuple[Protocol, ...], Field(min_length=1)]
ComputeType = Literal["float32", "bfloat16"]
Classes = Annotated[tuple[Annotated[int, Field(strict=True)] | Text, ...], Field(min_length=2)]


class Splits(_Section):
    train: Text = "train"
    test: Text = "test"


class Files(_Section):
    train: Path | None = None
    test: Path | None = None


class Corpus(_Section):
    name: Text = "docstrings"
    subset: Text | None = None
    splits: Splits = Splits()
    files: Files = Files()
    text_column: Text = "text"
    label_column: Text = "label"
    classes: Classes | None = None
    train_rows: Count | None = None
    test_rows: Count | None = None
    seed: Seed = 0


class Partition(_Section):
    kind: Literal["dirichlet", "iid", "shards"] | Reference = "dirichlet"
    min_client_rows: Annotated[int, Field(strict=True, ge=0)] = 0
    shards_per_client: Count = 2
    holdout_fraction: Fraction = 0.0


class Local(_Section):
    """Local training; the defaults are the published TextCNN values."""

    epochs: Count = 5
    batch_size: Count = 32
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 0.01
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0
    drop_ragged: bool = True
    objective: Literal["cross_entropy", "fedprox"] | Reference = "cross_entropy"
    mu: NonNegative = 0.0


class TextCNN(_Section):
    architecture: Literal["textcnn"] = "textcnn"
    max_length: Count = 64
    vocabulary_size: Count = 20_000
    embedding_size: Count = 128
    filters: Count = 100
    widths: Annotated[tuple[Count, ...], Field(min_length=1)] = (3, 4, 5)
    dropout: Fraction = 0.5
    compute_dtype: ComputeType = "float32"
    local: Local = Local()


class Transformer(_Section):
    architecture: Literal["transformer"] = "transformer"
    weights: Text
    max_length: Count = 64
    lora_rank: Count = 8
    lora_alpha: Positive = 16.0
    lora_dropout: Fraction = 0.1
    dropout: Fraction = 0.1
    attention_dropout: Fraction = 0.1
    head_dropout: Fraction = 0.2
    compute_dtype: ComputeType = "float32"
    local: Local = Local()


class CustomModel(_Section):
    architecture: Reference
    max_length: Count = 64
    vocabulary_size: Count = 20_000
    options: dict[str, JsonValue] = {}  # handed to the function
    local: Local = Local()


# Data to a compiled program, except that a rate of 0 draws no random bits.
DROPOUT_RATES = ("dropout", "lora_dropout", "attention_dropout", "head_dropout")
# The published DistilBERT values, where they differ from TextCNN's.
_ADAMW: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 5e-5, "momentum": 0.0, "weight_decay": 0.01}
_DISTILBERT = {"epochs": 1, "batch_size": 16, "drop_ragged": False} | _ADAMW
PRESETS: dict[str, dict[str, Any]] = {
    "textcnn": {"architecture": "textcnn"},
    "distilbert": {"architecture": "transformer", "weights": "distilbert-base-uncased"},
    "minilm": {"architecture": "transformer", "weights": "sentence-transformers/all-MiniLM-L6-v2"},
}


def _parse_model(model: Any) -> Any:
    chosen = str(model.get("architecture")) if isinstance(model, Mapping) else ""
    schemas: dict[str, type[BaseModel]] = {"textcnn": TextCNN, "transformer": Transformer}
    if chosen not in schemas and ":" not in chosen:
        raise ValueError(f"needs architecture=textcnn, transformer or module:function; known: {list(PRESETS)}")
    return schemas.get(chosen, CustomModel).model_validate(model)


Model = TextCNN | Transformer | CustomModel
_Parsed = Annotated[Model, BeforeValidator(_parse_model)]
Models = Annotated[dict[str, _Parsed], BeforeValidator(lambda models: _merge(PRESETS, models or {}))]


class _Point(_Section):
    name: Text
    corpus: Corpus = Corpus()
    model: Text = "textcnn"
    rule: Rule = "fedavg"
    alpha: Positive = 0.1
    num_clients: Count = 10
    participation: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    rounds: Count = 50
    partition: Partition = Partition()
    partition_seed: Seed = 42
    seed: Seed = 42
    min_participant_rows: Count = 1
    protocols: Protocols = ("train_rows", "label_filtered", "label_matched", "global")


class Cell(_Point):
    """One point of the grid with every value settled; `local` is the only place of local hyper-parameters."""

    architecture: Model
    local: Local


class Experiment(_Point):
    """One study: a base point and a `grid` of lists whose product are its cells."""

    models: Models = Field(default={}, validate_default=True)
    local: Local = Local()
    lanes: Count | Literal["auto"] = "auto"
    checkpoints_kept: Count = 2
    grid: Annotated[dict[str, Annotated[tuple[JsonValue, ...], Field(min_length=1)]], BeforeValidator(_axes)] = {}


def load(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """The YAML file at `path` under `key=value` overrides (values are YAML), every cell checked; or InputError."""
    try:
        data = _parse_yaml(Path(path).read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}; give the path of a UTF-8 text file") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold `key: value` lines, such as `name: study` (got {data!r:.80})")
    data["grid"] = _axes(data.get("grid"))
    assignments = [_parse_override(text) for text in overrides]
    lines = [(str(key), value) for key, value in data.items()]
    experiment = _validated(reduce(_merge, itertools.starmap(_nest, lines + assignments), {}), str(path))
    _refuse_masked(assignments, experiment.grid)
    cells(experiment)
    return experiment


def to_yaml(experiment: Experiment) -> str:
    """The whole configuration, defaults included, as YAML that `load` reads back to an equal Experiment."""
    data = experiment.model_dump(mode="json")
    # A default that is written out would hide the layers below.
    data["local"] = experiment.local.model_dump(exclude_unset=True)
    for name, model in experiment.models.items():
        data["models"][name]["local"] = model.local.model_dump(exclude_unset=True)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{source} is not valid YAML: {error}") from error


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise InputError(f"an override must be key=value, such as rounds=3 or local.epochs=1 (got {text!r})")
    return key.strip(), _parse_yaml(value, f"the value of the override {text!r}")


def _nest(key: str, value: Any) -> dict[str, Any]:
    """`("a.b", 1)` -> `{"a": {"b": 1}}`; below grid, keys stay dotted."""
    parts = key.split(".", 1 if key.startswith("grid.") else -1)
    return reduce(lambda inner, part: {part: inner}, reversed(parts), value)


def _refuse_masked(assignments: Sequence[tuple[str, Any]], grid: Mapping[str, Any]) -> None:
    """An override of a swept key would have no effect."""
    leaves = [leaf for key, value in assignments for leaf in _leaves(value, key)]
    for (key, value), axis in itertools.product(leaves, grid):
        if any(f"{key}.".startswith(f"{swept}.") for swept in _joined(axis)):
            remedy = f"write grid.{axis}=[{value}], or drop the axis: grid.{axis}=null"
            raise InputError(f"the override {key}={value} has no effect, the grid sweeps {axis}; {remedy}")


def _validated(data: Mapping[str, Any], source: str) -> Experiment:
    """`data` as an Experiment, or InputError with a line `key: rule (got value)` for every key that is wrong."""
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        items = error.errors(include_url=False)
    rules: dict[str, list[str]] = {}
    for item in items:
        rules.setdefault(_dotted(item["loc"], data), []).append(_rule(item))
    # The members of a union report one by one.
    lines = [": ".join(filter(None, [key, ", or ".join(dict.fromkeys(found))])) for key, found in rules.items()]
    raise InputError(f"{source} is not a valid experiment:\n  " + "\n  ".join(lines))


def _dotted(location: Sequence[Any], data: Any) -> str:
    """Pydantic's location without what is no key: indices of lists, members of unions."""
    keys = []
    for part in location:
        if isinstance(data, Mapping) and part in data:
            keys.append(str(part))
            data = data[part]
    return ".".join(keys)


def _rule(item: Any) -> str:
    """Pydantic's message in the words of a person who writes YAML."""
    if item["type"] == "missing":
        return f"{item['loc'][-1]} is required"
    message = item["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list").replace("Tuple", "List")
    of_section = item["type"] == "value_error" and isinstance(item["input"], Mapping)
    return message if of_section else f"{message} (got {item['input']!r:.80})"


def cells(experiment: Experiment) -> list[Cell]:
    """The product of the grid's axes, the last one fastest; InputError for an invalid or repeated cell."""
    base = experiment.model_dump(exclude={"grid"}, exclude_unset=True)
    found: dict[str, Cell] = {}
    for values in itertools.product(*experiment.grid.values()):
        settings = dict(itertools.chain.from_iterable(map(_settings, experiment.grid, values)))
        data = reduce(_merge, itertools.starmap(_nest, settings.items()), base)
        cell = _cell(_validated(data, f"the cell {settings}"), settings)
        _refuse_contradictions(cell)
        twin = found.setdefault(_canonical(cell, {"name"}), cell)
        if twin is not cell:
            raise InputError(f"cells {twin.name!r} and {cell.name!r} are the same run; remove one from the grid")
    return list(found.values())


def _settings(axis: str, value: Any) -> Iterable[tuple[str, Any]]:
    """Keys and values of one point of an axis."""
    keys = _joined(axis)
    values = [value] if len(keys) == 1 else value
    if not isinstance(values, list) or len(values) != len(keys):
        raise InputError(f"grid.{axis} needs lists of {len(keys)} values, one for each key (got {value!r:.80})")
    return zip(keys, values, strict=True)


def _cell(point: Experiment, axes: Iterable[str]) -> Cell:
    order = list(Experiment.model_fields)
    # Named in the order of the schema, so that the order of the file changes nothing.
    axes = sorted(axes, key=lambda axis: (order.index(axis.split(".")[0]), axis))
    values = (reduce(lambda at, key: dict(at)[key], axis.split("."), point) for axis in axes)
    name = ",".join(map("{}={}".format, axes, values)) or "single"
    model, known = point.models.get(point.model), ", ".join(point.models)
    if model is None:
        raise InputError(f"cell {name!r}: model must be one of {known}, or be under models (got {point.model!r})")
    published = _DISTILBERT if isinstance(model, Transformer) else {}
    own, general = (layer.model_dump(exclude_unset=True) for layer in (model.local, point.local))
    shared = {key: getattr(point, key) for key in _Point.model_fields} | {"name": name}
    # The model's own `local` goes into `local`: one meaning, one representation, one hash.
    architecture = model.model_copy(update={"local": Local()})
    return Cell(**shared, architecture=architecture, local=Local(**{**published, **own, **general}))


def _refuse_contradictions(cell: Cell) -> None:
    files, mu, problem = cell.corpus.files, cell.local.mu, ""
    if (files.train is None) != (files.test is None):
        problem = f"set both corpus.files.train and corpus.files.test, or neither (got {files})"
    if "holdout" in cell.protocols and cell.partition.holdout_fraction == 0:
        problem = "protocol holdout needs partition.holdout_fraction above 0 (got 0.0); set it to 0.1"
    if mu > 0 and cell.local.objective == "cross_entropy":
        problem = f"cross_entropy has no proximal term; set local.objective=fedprox (got local.mu={mu})"
    if problem:
        raise InputError(f"cell {cell.name!r}: {problem}")


def _canonical(part: BaseModel, exclude: Any = None) -> str:
    return json.dumps(part.model_dump(mode="json", exclude=exclude), sort_keys=True, separators=(",", ":"))


def structure(cell: Cell) -> tuple[Hashable, ...]:
    """Cells with equal structure share one compiled program; everything else about them is data."""
    shared = (_canonical(cell.corpus), cell.model, cell.rounds, cell.protocols)
    architecture = _canonical(cell.architecture, set(DROPOUT_RATES))
    undropped = tuple(getattr(cell.architecture, name, 0.0) == 0.0 for name in DROPOUT_RATES)
    local = (cell.local.batch_size, cell.local.optimizer, cell.local.objective)
    return (*shared, architecture, undropped, *local, cell.partition.holdout_fraction > 0)


def content_hash(experiment: Experiment) -> str:
    """16 hex digits of the SHA-256 of all cells; name, lanes and checkpoints_kept stay out."""
    lines = sorted(_canonical(cell, {"architecture": {"local"}}) for cell in cells(experiment))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def identity(cell: Cell) -> dict[str, Any]:
    """The settings that decide a cell's numbers, for JSON: cells where they and the inputs are equal are one run, of
    which one may be longer. Names, rounds and the places of files stay out."""
    exclude: Any = {"name": True, "rounds": True, "corpus": {"files"}, "architecture": {"local", "weights"}}
    return cell.model_dump(mode="json", exclude=exclude)
