"""What an experiment may say: every key, its bounds and its default."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, JsonValue, model_validator

from fedjax_paradox.config.dialect import axes, merge
from fedjax_paradox.config.values import (
    Amount,
    Call,
    Classes,
    ComputeType,
    Count,
    Division,
    Epochs,
    File,
    Fraction,
    Length,
    Name,
    NonNegative,
    Optimizer,
    Options,
    Own,
    Positive,
    Protocols,
    Rate,
    Rows,
    Seed,
    Size,
    Text,
    Vocabulary,
    Widths,
)

_SHORT = {"lr": "learning_rate", "wd": "weight_decay"}


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
                near = difflib.get_close_matches(_SHORT.get(key, key[:80]), _paths(cls), n=1, cutoff=0)
                raise ValueError(f"unknown key {key!r:.80}; did you mean {near[0]!r}?")
        return {} if data is None else data


class Splits(_Section):
    train: Text = "train"
    test: Text = "test"


class Files(_Section):
    train: File | None = None
    test: File | None = None


class Corpus(_Section):
    name: Text = "docstrings"
    subset: Text | None = None
    splits: Splits = Splits()
    files: Files = Files()
    text_column: Text = "text"
    label_column: Text = "label"
    classes: Classes | None = None
    train_rows: Rows | None = None
    test_rows: Rows | None = None
    seed: Seed = 0


class Partition(_Section):
    kind: Division = "dirichlet"
    min_client_rows: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] = 0
    shards_per_client: Amount = 2
    holdout_fraction: Fraction = 0.0


class Local(_Section):
    """Local training; the defaults are the published TextCNN values."""

    epochs: Epochs = 5
    batch_size: Size = 32
    optimizer: Optimizer = "sgd"
    learning_rate: Rate = 0.01
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0
    drop_ragged: bool = True
    objective: Call = "cross_entropy"
    mu: NonNegative = 0.0


class TextCNN(_Section):
    architecture: Literal["textcnn"] = "textcnn"
    max_length: Length = 64
    vocabulary_size: Vocabulary = 20_000
    embedding_size: Size = 128
    filters: Size = 100
    widths: Widths = (3, 4, 5)
    dropout: Fraction = 0.5
    compute_dtype: ComputeType = "float32"
    local: Local = Local()


class Transformer(_Section):
    architecture: Literal["transformer"] = "transformer"
    weights: Text
    max_length: Length = 64
    lora_rank: Size = 8
    lora_alpha: Rate = 16.0
    lora_dropout: Fraction = 0.1
    dropout: Fraction = 0.1
    attention_dropout: Fraction = 0.1
    head_dropout: Fraction = 0.2
    compute_dtype: ComputeType = "float32"
    local: Local = Local()


class CustomModel(_Section):
    architecture: Own
    max_length: Length = 64
    vocabulary_size: Vocabulary = 20_000
    options: Options = {}  # handed to the function
    local: Local = Local()


# Data to a compiled program, except that a rate of 0 draws no random bits.
DROPOUT_RATES = ("dropout", "lora_dropout", "attention_dropout", "head_dropout")
# The published DistilBERT values, where they differ from TextCNN's.
_ADAMW: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 5e-5, "momentum": 0.0, "weight_decay": 0.01}
DISTILBERT = {"epochs": 1, "batch_size": 16, "drop_ragged": False} | _ADAMW
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
Models = Annotated[dict[Text, _Parsed], BeforeValidator(lambda models: merge(PRESETS, models or {}))]


class Point(_Section):
    name: Name
    corpus: Corpus = Corpus()
    model: Text = "textcnn"
    rule: Call = "fedavg"
    alpha: Positive = 0.1
    num_clients: Amount = 10
    participation: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    rounds: Amount = 50
    partition: Partition = Partition()
    partition_seed: Seed = 42
    seed: Seed = 42
    min_participant_rows: Rows = 1
    protocols: Protocols = ("train_rows", "label_filtered", "label_matched", "global")


class Cell(Point):
    """One point of the grid with every value settled; `local` is the only place of local hyper-parameters."""

    name: str
    architecture: Model
    local: Local


class Experiment(Point):
    """One study: a base point and a `grid` of lists whose product are its cells."""

    models: Models = Field(default={}, validate_default=True)
    local: Local = Local()
    lanes: Size | Literal["auto"] = "auto"
    checkpoints_kept: Amount = 2
    max_cells: Annotated[Count, Field(le=100_000)] = 10_000
    grid: Annotated[dict[str, Annotated[tuple[JsonValue, ...], Field(min_length=1)]], BeforeValidator(axes)] = {}
