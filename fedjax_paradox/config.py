"""The schema of an experiment: YAML plus `key=value` overrides -> `Experiment` -> the cells of its grid.

Defaults are the published settings of arXiv:2605.08992. Every mistake is reported as `InputError` before any
work starts. Precedence of local hyper-parameters: published < `models.NAME.local` < `local` < `grid`.
Paths are kept as written and are relative to the working directory.
"""

import difflib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from fedjax_paradox.errors import InputError

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_CALL = re.compile(r"(?P<name>[A-Za-z_][\w.]*(?::[A-Za-z_]\w*)?)\s*(?:\((?P<settings>[^()]*)\))?")
_SETTING = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(\S+)\s*")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")


# YAML


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 5e-5 as a number and refuses repeated keys and recursive aliases."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        # PyYAML detects an alias to one of its own ancestors only in this mode.
        self.deep_construct = True

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            problem = f"the key {repeated[0]!r} is written twice; keep one of them"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


# YAML 1.1 wants a point and a signed exponent, so it reads 5e-5 as text.
for _dialect in (_Loader, _Dumper):
    _dialect.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _parse_yaml(text: str, source: str) -> Any:
    """The single YAML document in `text`; InputError naming `source` when there is none."""
    try:
        loader = _Loader(text)
        loader.name = source
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{source} is not valid YAML: {error}") from error


# Calls such as fedavgw(beta=0.5)


def parse_call(text: str) -> tuple[str, dict[str, float]]:
    """`fedavgw(beta=0.5)` -> `("fedavgw", {"beta": 0.5})`; that the name exists is not checked.

    The name is an identifier or `package.module:function`. Raises InputError when the text has another form,
    a setting is positional or repeated, or its value is not a finite number.
    """
    match = _CALL.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"{text!r} is not NAME or NAME(setting=number, ...), as in fedavgw(beta=0.5); "
            "inside a YAML list, quote a call that contains a comma"
        )
    settings: dict[str, float] = {}
    for part in (match["settings"] or "").split(",") if (match["settings"] or "").strip() else []:
        key, value = _parse_setting(part, match["name"], text)
        if key in settings:
            raise InputError(f"{text!r} gives {key!r} twice; keep one of them")
        settings[key] = value
    return match["name"], settings


def _parse_setting(part: str, name: str, text: str) -> tuple[str, float]:
    match = _SETTING.fullmatch(part)
    if match is None:
        value = part.strip() or "number"
        raise InputError(
            f"{text!r}: settings are given by name; write {name}(SETTING={value}), as in fedavgw(beta=0.5)"
        )
    value = _parse_yaml(match[2], f"{match[1]} in {text!r}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{text!r}: {match[1]} must be a finite number, as in {name}({match[1]}=0.5)")
    return match[1], float(value)


def format_call(name: str, settings: Mapping[str, float]) -> str:
    """The one spelling of a call: settings by name, numbers in their shortest form that reads back equal."""
    inside = ", ".join(f"{key}={float(settings[key])!r}" for key in sorted(settings))
    return f"{name}({inside})" if inside else name


# The schema


def _nearest(word: str, words: Sequence[str]) -> str:
    """`; did you mean 'x'?` or nothing."""
    near = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _one_of(*names: str) -> AfterValidator:
    """Accepts one of `names` or a person's own `package.module:function`."""

    def check(value: str) -> str:
        if value not in names and not _REFERENCE.fullmatch(value):
            rule = f"must be one of {', '.join(names)}, or package.module:function"
            raise ValueError(f"{rule} (got {value!r}){_nearest(value, names)}")
        return value

    return AfterValidator(check)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    repeated = [value for value in values if values.count(value) > 1]
    if repeated:
        raise ValueError(f"must not repeat an entry (got {repeated[0]!r} twice or more); keep one of them")
    return values


def _number(description: str, **limits: Any) -> Any:
    return Field(strict=True, description=description, **limits)


Text = Annotated[str, Field(min_length=1, description="text (in quotes when it looks like a number or a date)")]
Flag = Annotated[bool, Field(strict=True, description="true or false")]
Count = Annotated[int, _number("a whole number from 1", ge=1)]
Rows = Annotated[int, _number("a whole number from 0", ge=0)]
Seed = Annotated[int, _number("a whole number from 0 to 2147483647", ge=0, le=2**31 - 1)]
Positive = Annotated[float, _number("a number above 0", gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, _number("a number from 0", ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, _number("a number from 0 to below 1", ge=0, lt=1)]
Share = Annotated[float, _number("a number above 0 and at most 1", gt=0, le=1)]
Optimizer = Annotated[Literal["sgd", "adamw"], Field(description="sgd or adamw")]
Objective = Annotated[Text, _one_of("cross_entropy", "fedprox")]
Rule = Annotated[Text, AfterValidator(lambda text: format_call(*parse_call(text)))]
Protocol = Annotated[Text, _one_of("train_rows", "label_filtered", "label_matched", "holdout", "global")]
Protocols = Annotated[
    tuple[Protocol, ...],
    Field(min_length=1, description="a non-empty list of protocols"),
    AfterValidator(_distinct),
]
ClassName = Annotated[int, Field(strict=True)] | Text
Classes = Annotated[
    tuple[ClassName, ...],
    Field(min_length=2, description="a list of two or more labels, each a whole number or (quoted) text"),
    AfterValidator(_distinct),
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Splits(_Frozen):
    train: Text = "train"
    test: Text = "test"


class Files(_Frozen):
    train: Annotated[Path, Field(description="a path")] | None = None
    test: Annotated[Path, Field(description="a path")] | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.train is None) != (self.test is None):
            got = f"train={self.train}, test={self.test}"
            raise ValueError(f"set both corpus.files.train and corpus.files.test, or neither (got {got})")
        return self


class Corpus(_Frozen):
    name: Text = "docstrings"
    subset: Text | None = None
    splits: Splits = Splits()
    files: Files = Files()
    text_column: Text = "text"
    label_column: Text = "label"
    classes: Classes | None = None
    train_rows: Count | None = None
    test_rows: Count | None = None
    seed: Rows = 0


class Local(_Frozen):
    """Local training; what is None keeps the value of the next lower layer."""

    epochs: Count | None = None
    batch_size: Count | None = None
    optimizer: Optimizer | None = None
    learning_rate: Positive | None = None
    momentum: Fraction | None = None
    weight_decay: NonNegative | None = None
    drop_ragged: Flag | None = None
    objective: Objective | None = None
    mu: NonNegative | None = None


class ResolvedLocal(_Frozen):
    """Local training with every value settled; the defaults are the published TextCNN values."""

    epochs: Count = 5
    batch_size: Count = 32
    optimizer: Optimizer = "sgd"
    learning_rate: Positive = 0.01
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0
    drop_ragged: Flag = True
    objective: Objective = "cross_entropy"
    mu: NonNegative = 0.0


class TextCNN(_Frozen):
    architecture: Literal["textcnn"] = "textcnn"
    max_length: Count = 64
    vocabulary_size: Count = 20_000
    embedding_size: Count = 128
    filters: Count = 100
    widths: Annotated[tuple[Count, ...], Field(min_length=1, description="a list of whole numbers from 1")] = (
        3,
        4,
        5,
    )
    dropout: Fraction = 0.5
    local: Local = Local()


class Transformer(_Frozen):
    architecture: Literal["transformer"] = "transformer"
    weights: Text
    max_length: Count = 64
    lora_rank: Count = 8
    lora_alpha: Positive = 16.0
    lora_dropout: Fraction = 0.1
    dropout: Fraction = 0.1
    attention_dropout: Fraction = 0.1
    head_dropout: Fraction = 0.2
    local: Local = Local()


class CustomModel(_Frozen):
    """A person's own model, `architecture: package.module:function`; `options` are handed to the function."""

    architecture: Text
    max_length: Count = 64
    vocabulary_size: Count = 20_000
    options: dict[str, JsonValue] = {}
    local: Local = Local()


PUBLISHED_SGD = ResolvedLocal()
PUBLISHED_ADAMW = ResolvedLocal(
    epochs=1,
    batch_size=16,
    optimizer="adamw",
    learning_rate=5e-5,
    momentum=0.0,
    weight_decay=0.01,
    drop_ragged=False,
)
PRESETS: dict[str, dict[str, Any]] = {
    "textcnn": {"architecture": "textcnn"},
    "distilbert": {"architecture": "transformer", "weights": "distilbert-base-uncased"},
    "minilm": {"architecture": "transformer", "weights": "sentence-transformers/all-MiniLM-L6-v2"},
}
_ARCHITECTURES: dict[str, type[_Frozen]] = {"textcnn": TextCNN, "transformer": Transformer}


def _model_class(model: Any) -> type[_Frozen] | None:
    """The schema that the `architecture` of `model` selects, or None when it selects none."""
    chosen = model.get("architecture") if isinstance(model, Mapping) else getattr(model, "architecture", None)
    own = CustomModel if _REFERENCE.fullmatch(str(chosen)) else None
    return _ARCHITECTURES.get(str(chosen), own)


ModelConfig = Annotated[
    Annotated[TextCNN, Tag("TextCNN")]
    | Annotated[Transformer, Tag("Transformer")]
    | Annotated[CustomModel, Tag("CustomModel")],
    Discriminator(lambda model: getattr(_model_class(model), "__name__", None)),
]


class Partition(_Frozen):
    kind: Annotated[Text, _one_of("dirichlet", "iid", "shards")] = "dirichlet"
    min_client_rows: Rows = 0
    shards_per_client: Count = 2
    holdout_fraction: Fraction = 0.0


class Experiment(_Frozen):
    """One study: a base point and a `grid` of lists whose product are its cells."""

    name: Text
    corpus: Corpus = Corpus()
    models: dict[str, ModelConfig] = Field(default={}, validate_default=True)
    model: Text = "textcnn"
    rule: Rule = "fedavg"
    alpha: Positive = 0.1
    num_clients: Count = 10
    participation: Share = 1.0
    rounds: Count = 50
    partition: Partition = Partition()
    partition_seed: Seed = 42
    seed: Seed = 42
    min_participant_rows: Count = 1
    local: Local = Local()
    protocols: Protocols = ("train_rows", "label_filtered", "label_matched", "global")
    lanes: Annotated[Count | Literal["auto"], Field(description="a whole number from 1, or auto")] = "auto"
    chunk_steps: Count = 16
    checkpoints_kept: Count = 2
    grid: dict[str, tuple[JsonValue, ...]] = {}

    @field_validator("models", mode="before")
    @classmethod
    def _add_presets(cls, models: Any) -> Any:
        if not isinstance(models, Mapping):
            return models
        models = _merge(PRESETS, models)
        for name, model in models.items():
            if not re.fullmatch(r"[\w-]+", str(name)) or not isinstance(name, str):
                raise ValueError(f"a model's name is made of letters, digits, _ and - (got {name!r})")
            if _model_class(model) is None:
                known = f"{', '.join(_ARCHITECTURES)} or package.module:function"
                near = _nearest(name, list(PRESETS)) if name not in PRESETS else ""
                raise ValueError(f"{name!r} needs an architecture: {known} (got {_short(model)}){near}")
        return models

    @field_validator("grid", mode="before")
    @classmethod
    def _flatten(cls, grid: Any) -> Any:
        return {key: values for key, values in _axes(grid).items() if values is not None}

    @model_validator(mode="after")
    def _agree(self) -> Self:
        # With a grid the base point alone need not make sense; `cells` checks every point.
        problems = [] if self.grid else list(_disagreements(self))
        if problems:
            raise ValueError("\n  ".join(problems))
        return self


def _disagreements(point: Experiment) -> Iterator[str]:
    if "holdout" in point.protocols and not point.partition.holdout_fraction:
        yield (
            "protocols: holdout needs rows kept out of training (got partition.holdout_fraction=0.0); "
            "set partition.holdout_fraction=0.1, or leave holdout out of protocols"
        )
    if point.model not in point.models:
        known, near = ", ".join(point.models), _nearest(point.model, list(point.models))
        yield f"model: must be one of {known}, or be described under models (got {point.model!r}){near}"
        return
    local = _resolve_local(point)
    if local.mu > 0 and local.objective == "cross_entropy":
        yield (
            f"local.mu: cross_entropy has no proximal term (got local.mu={local.mu}); "
            "set local.objective=fedprox, or local.mu=0"
        )


def _resolve_local(point: Experiment) -> ResolvedLocal:
    """The published values of the architecture (TextCNN's for a custom model) under the ones that are set."""
    model = point.models[point.model]
    published = PUBLISHED_ADAMW if isinstance(model, Transformer) else PUBLISHED_SGD
    layers = (model.local.model_dump(exclude_none=True), point.local.model_dump(exclude_none=True))
    return ResolvedLocal(**{**published.model_dump(), **layers[0], **layers[1]})


# From a file to an Experiment


def load(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read the YAML file at `path`, apply `key=value` overrides in order, and check every cell of the grid.

    Values are YAML (`'grid.alpha=[0.1, 5.0]'`, `corpus.train_rows=null`); a mapping is merged into the
    section that it names; `grid.KEY=null` drops that axis. Raises InputError.
    """
    data = _read(Path(path))
    data["grid"] = _axes(data.get("grid"))
    assignments = [_parse_override(text) for text in overrides]
    for key, value in assignments:
        data = _override(data, key, value)
    _refuse_masked(assignments, data["grid"])
    experiment = _validated(data, str(path))
    cells(experiment)
    return experiment


def to_yaml(experiment: Experiment) -> str:
    """The whole configuration, defaults included, as YAML that `load` reads back to an equal Experiment."""
    data = experiment.model_dump(mode="json")
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the configuration {path} must be UTF-8 text: {error}; save it as UTF-8") from error
    data = _parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold `key: value` lines, such as `name: study` (got {_short(data)})")
    return data


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise InputError(f"an override must be key=value, such as rounds=3 or local.epochs=1 (got {text!r})")
    return key, _parse_yaml(value, f"the value of the override {text!r}")


def _override(data: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """`data` with the dotted `key` set; a key below grid names an axis."""
    if key == "grid":
        return data | {"grid": {} if value is None else data["grid"] | _axes(value)}
    if key.startswith("grid."):
        return data | {"grid": data["grid"] | _axes({key.removeprefix("grid."): value})}
    return _merge(data, _nest(key, value))


def _nest(key: str, value: Any) -> dict[str, Any]:
    """`("a.b", 1)` -> `{"a": {"b": 1}}`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(base: Any, over: Any) -> Any:
    """`over` laid upon `base`, mapping by mapping; a model of another architecture replaces the old one."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    if {"architecture"} <= base.keys() & over.keys() and base["architecture"] != over["architecture"]:
        return over
    return {**base, **{key: _merge(base.get(key), value) for key, value in over.items()}}


def _axes(grid: Any, prefix: str = "") -> dict[str, Any]:
    """A grid with nested or dotted keys -> dotted key: non-empty list, or None for an axis to drop."""
    if grid is None:
        return {}
    if not isinstance(grid, Mapping):
        raise InputError(f"grid must hold keys with lists, such as grid.alpha=[0.1, 1.0] (got {_short(grid)})")
    axes: dict[str, Any] = {}
    for name, values in grid.items():
        key = f"{prefix}{name}"
        found = _axes(values, f"{key}.") if isinstance(values, Mapping) else {key: values}
        if axes.keys() & found.keys():
            raise InputError(f"the grid sweeps {sorted(axes.keys() & found.keys())[0]!r} twice; keep one list")
        axes |= found
    for key, values in axes.items():
        if values is not None and not (isinstance(values, list | tuple) and values):
            raise InputError(
                f"grid.{key} must be a non-empty list, such as grid.{key}=[...] (got {_short(values)})"
            )
    return axes


def _leaves(data: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(data, Mapping):
        yield prefix, data
        return
    for key, value in data.items():
        yield from _leaves(value, f"{prefix}.{key}")


def _refuse_masked(assignments: Sequence[tuple[str, Any]], axes: Mapping[str, Any]) -> None:
    """An override of a swept key would have no effect."""
    swept = {axis: values for axis, values in axes.items() if values is not None}
    leaves = [leaf for key, value in assignments if key.split(".")[0] != "grid" for leaf in _leaves(value, key)]
    for (key, value), axis in itertools.product(leaves, swept):
        if key == axis or key.startswith(f"{axis}."):
            raise InputError(
                f"the override {key}={_label(value)} has no effect because grid.{axis}={_label(swept[axis])} "
                f"sweeps that key; write grid.{axis}={_label([value])}, or drop the axis: grid.{axis}=null"
            )


# Validation with messages for people

_SETTLED = ("name", "lanes", "chunk_steps", "checkpoints_kept", "grid")


def _validated(data: Mapping[str, Any], source: str) -> Experiment:
    """`data` as an Experiment, or InputError with one line for every problem."""
    keys = _key_tree(data)
    problems = list(_unknown_keys(data, keys)) + list(_unusable_axes(data.get("grid", {}), keys))
    if not problems:
        try:
            return Experiment.model_validate(_without_empty_sections(data, keys))
        except ValidationError as error:
            problems = _translate(error, keys)
    raise InputError(f"{source} is not a valid experiment:\n  " + "\n  ".join(problems))


def _tree(schema: type[BaseModel]) -> dict[str, Any]:
    """The keys of a schema: a mapping at a section, the field at a value."""
    fields = schema.model_fields.items()
    return {
        key: _tree(field.annotation)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        else field
        for key, field in fields
    }


def _key_tree(data: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an experiment with the models that `data` describes."""
    models = _merge(PRESETS, data.get("models") or {})
    anything = _tree(TextCNN) | _tree(Transformer) | _tree(CustomModel)
    trees = {}
    for name, model in models.items() if isinstance(models, Mapping) else ():
        schema = _model_class(model)
        trees[name] = anything if schema is None else _tree(schema)
    return _tree(Experiment) | {"models": trees}


def _unknown_keys(data: Mapping[Any, Any], keys: Any, path: str = "", shown: str = "") -> Iterator[str]:
    """One line for each key of `data` that `keys` (the tree below `path`) does not hold."""
    for key, value in data.items():
        here = f"{path}{key}"
        if "." in str(key):
            yield f"unknown key '{here}'; dots join keys only below grid; write {_nest(key, '...')}"
        elif not isinstance(keys, dict) or key not in keys:
            yield _unknown_key(here, keys, shown)
        elif isinstance(value, Mapping) and not _is_free_form(keys[key]):
            yield from _unknown_keys(value, keys[key], f"{here}.", shown)


def _is_free_form(node: Any) -> bool:
    return isinstance(node, FieldInfo) and get_origin(node.annotation) is dict


def _unknown_key(key: str, siblings: Any, shown: str) -> str:
    section, _, name = key.rpartition(".")
    if not isinstance(siblings, dict):
        return f"unknown key '{shown}{key}'; '{shown}{section}' takes a value and has no keys below it"
    prefix = f"{shown}{section}." if section else shown
    near = difflib.get_close_matches(name, siblings, n=1)
    paths = (path[1:] for path, _ in _leaves(_tree(Experiment), ""))
    deeper = {path.rpartition(".")[2]: path for path in paths if "." in path}
    far = [shown + deeper[match] for match in difflib.get_close_matches(name, deeper, n=1, cutoff=0.85)]
    for match in [prefix + match for match in near] + far:
        return f"unknown key '{shown}{key}'; did you mean '{match}'?"
    return f"unknown key '{shown}{key}'; valid keys: {', '.join(f'{prefix}{name}' for name in siblings)}"


def _unusable_axes(axes: Mapping[str, Any], keys: dict[str, Any]) -> Iterator[str]:
    """One line for each axis that is unknown, a whole section, or cannot change a result."""
    sweepable = {key: node for key, node in keys.items() if key not in _SETTLED}
    for axis in axes:
        node: Any = sweepable
        for part in axis.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if axis in _SETTLED:
            yield f"grid.{axis}: {axis} is one for all cells and cannot be swept; set it outside the grid"
        elif isinstance(node, dict):
            yield f"grid.{axis}: {axis} is a section; sweep one of its keys: {', '.join(node)}"
        else:
            yield from _unknown_keys(_nest(axis, None), sweepable, shown="grid.")


def _without_empty_sections(data: Mapping[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    """A section written without content (YAML null) means its defaults."""
    kept = {}
    for key, value in data.items():
        node = keys.get(key)
        if isinstance(node, dict) and isinstance(value, Mapping):
            kept[key] = _without_empty_sections(value, node)
        elif value is not None or not isinstance(node, dict):
            kept[key] = value
    return kept


def _translate(error: ValidationError, keys: dict[str, Any]) -> list[str]:
    """One line for each key that breaks a rule: key, rule, value."""
    lines: dict[str, str] = {}
    for item in error.errors(include_url=False):
        key, node = "", keys
        for part in item["loc"]:
            # A location also holds indices and the names of union members; only keys are wanted.
            if isinstance(node, dict) and part in node:
                key, node = f"{key}.{part}" if key else str(part), node[part]
        lines.setdefault(key, _problem(key, node, dict(item)))
    return list(lines.values())


def _problem(key: str, node: Any, item: Mapping[str, Any]) -> str:
    if item["type"] == "value_error":
        text = str(item["ctx"]["error"])
        return f"{key}: {text}" if key else text
    rule = f"must be {_description(node)}" if _description(node) else item["msg"].removeprefix("Input ")
    if item["type"] == "missing":
        return f"{key}: is required and {rule}"
    return f"{key}: {rule} (got {_short(item['input'])})"


def _description(node: Any) -> str | None:
    """What may stand at `node` of the key tree, in words."""
    if isinstance(node, dict):
        return f"a section with keys among {', '.join(node)}" if node else "a section"
    if node.description is not None:
        return str(node.description)
    members = [note for member in get_args(node.annotation) for note in getattr(member, "__metadata__", ())]
    return next((note.description for note in members if isinstance(note, FieldInfo)), None)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# From an Experiment to its cells


class Cell(_Frozen):
    """One point of the grid with every value settled; `local` is the only place of local hyper-parameters."""

    name: str
    corpus: Corpus
    model: str
    architecture: ModelConfig
    rule: str
    alpha: float
    num_clients: int
    participation: float
    rounds: int
    partition: Partition
    partition_seed: int
    seed: int
    min_participant_rows: int
    local: ResolvedLocal
    protocols: tuple[str, ...]


def cells(experiment: Experiment) -> list[Cell]:
    """The product of the grid's axes, the last one fastest; InputError for an invalid or repeated cell."""
    base = experiment.model_dump(exclude={"grid"})
    found: list[Cell] = []
    for values in itertools.product(*experiment.grid.values()):
        data: Any = base
        for axis, value in zip(experiment.grid, values, strict=True):
            data = _merge(data, _nest(axis, value))
        label = _cell_name(dict(zip(experiment.grid, values, strict=True)))
        point = _validated(data, f"cell {label!r}")
        found.append(_cell(point, experiment.grid))
    _refuse_repeated(found)
    return found


def _cell(point: Experiment, axes: Mapping[str, Any]) -> Cell:
    # The model's own `local` has gone into `local`: one meaning, one representation, one hash.
    architecture = point.models[point.model].model_copy(update={"local": Local()})
    settled = {"name", "architecture", "local"}
    return Cell(
        name=_cell_name({axis: _value_at(point, axis) for axis in axes}),
        architecture=architecture,
        local=_resolve_local(point),
        **{key: getattr(point, key) for key in Cell.model_fields if key not in settled},
    )


def _value_at(point: Experiment, key: str) -> Any:
    value: Any = point
    for part in key.split("."):
        value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    return value


def _cell_name(values: Mapping[str, Any]) -> str:
    """`model=textcnn,alpha=0.1`, in the order of the schema whatever the order of the file."""
    order = list(Experiment.model_fields)
    keys = sorted(values, key=lambda key: (order.index(key.split(".")[0]), key))
    return ",".join(f"{key}={_label(values[key])}" for key in keys) or "single"


def _label(value: Any) -> str:
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _refuse_repeated(found: Sequence[Cell]) -> None:
    seen: dict[str, str] = {}
    for cell in found:
        for identity in (_canonical(cell, {"name"}), cell.name):
            if identity in seen:
                raise InputError(
                    f"the cells {seen[identity]!r} and {cell.name!r} are the same run; "
                    "remove the repeated value from the grid, or a setting that hides a swept one"
                )
            seen[identity] = cell.name


def _canonical(part: BaseModel, exclude: Any = None) -> str:
    data = part.model_dump(mode="json", exclude=exclude)
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def structure(cell: Cell) -> tuple[Hashable, ...]:
    """Cells with equal structure share one compiled program; everything else about them is data."""
    return (
        _canonical(cell.corpus),
        cell.model,
        _canonical(cell.architecture),
        cell.local.batch_size,
        cell.local.optimizer,
        cell.local.objective,
        cell.rounds,
        cell.protocols,
        cell.partition.holdout_fraction > 0,
    )


def content_hash(experiment: Experiment) -> str:
    """16 hex digits of the SHA-256 of all cells, equal for experiments that would run the same cells.

    The experiment's name, lanes, chunk_steps and checkpoints_kept do not change results and do not enter.
    """
    lines = sorted(_canonical(cell, {"architecture": {"local"}}) for cell in cells(experiment))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
