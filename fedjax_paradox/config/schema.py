"""What an experiment may say: every key, its bounds and its default."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

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
    Revision,
    Rows,
    Seed,
    Size,
    Text,
    Vocabulary,
    Widths,
)

# What people write, where no key is near it.
_SHORT = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "beta": "rule=fedavgw(beta=...)",
    "dropout": "models.NAME.dropout",
    "bs": "batch_size",
    "clients": "num_clients",
}
_ELSEWHERE = ("rule=fedavgw(beta=...)", "models.NAME.dropout", "models.NAME.max_length", "models.NAME.lora_rank")


def _paths(schema: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a schema, sections included."""
    fields = getattr(schema, "model_fields", {}).items()
    return [path for key, field in fields for path in (prefix + key, *_paths(field.annotation, f"{prefix}{key}."))]


class _Section(BaseModel):
    model_config = {"frozen": True, "use_attribute_docstrings": True}

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, data: Any) -> Any:
        for key in data if isinstance(data, Mapping) else ():
            if key not in cls.model_fields:
                known = [*_paths(cls), *(_ELSEWHERE if "models" in cls.model_fields else ())]
                near = difflib.get_close_matches(_SHORT.get(key, key[:80]), known, n=1, cutoff=0)
                raise ValueError(f"unknown key {key!r:.80}; did you mean {near[0]!r}?")
        return {} if data is None else data


class _Published(_Section):
    """What may come from the hub."""

    @model_serializer(mode="wrap")
    def _unset_left_out(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As if there were no such key: hashes and records are those of configs from before it."""
        later = ("revision", "tokenizer")
        return {key: value for key, value in write(self).items() if key not in later or value is not None}


class Splits(_Section):
    train: Text = "train"
    """Split of the data set to train on, slices such as `train[:80%]` included."""
    test: Text = "test"
    """Split to evaluate on."""


class Files(_Section):
    train: File | None = None
    """File of train rows: parquet, csv, tsv, jsonl or json; with it the name of the corpus is a label alone."""
    test: File | None = None
    """File of test rows."""


class Corpus(_Published):
    name: Text = "docstrings"
    """`docstrings`, which is built in, a data set of the Hugging Face hub, or a folder of parquet, csv or json."""
    subset: Text | None = None
    """The data set's configuration."""
    revision: Revision | None = None
    """Commit, branch or tag on the hub; by default the main branch."""
    splits: Splits = Splits()
    """Which splits are train and test."""
    files: Files = Files()
    """Files of your own, in place of a data set."""
    text_column: Text = "text"
    """Column of the texts."""
    label_column: Text = "label"
    """Column of the labels."""
    classes: Classes | None = None
    """Label values in the order of the classes; by default as the data say."""
    train_rows: Rows | None = None
    """Train rows to draw, without replacement; by default all."""
    test_rows: Rows | None = None
    """Test rows to draw; by default all."""
    seed: Seed = 0
    """Seed of that draw."""


class Partition(_Section):
    kind: Division = "dirichlet"
    """`dirichlet` (label skew by alpha), `iid`, `shards(shards_per_client=2)` or `module:function`."""
    min_client_rows: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] = 0
    """Rows that every client gets at least, taken from the largest."""
    shards_per_client: Amount = 2
    """Shards of each client, under `shards`."""
    holdout_fraction: Fraction = 0.0
    """Share of a client's rows that is kept out of training, for the protocol `holdout`."""


class Local(_Section):
    """Local training; the defaults are the published TextCNN values."""

    epochs: Epochs = 5
    """Passes over its rows that a client makes in a round."""
    batch_size: Size = 32
    """Rows of a step."""
    optimizer: Optimizer = "sgd"
    """`sgd`, `adamw(b1=0.9, b2=0.999, eps=1e-8)` or `module:function(number=...)`."""
    learning_rate: Rate = 0.01
    """Step size."""
    momentum: Fraction = 0.9
    """Of SGD; AdamW does not read it."""
    weight_decay: NonNegative = 0.0
    """L2 term under SGD, decoupled under AdamW."""
    drop_ragged: bool = True
    """Whether the last batch of an epoch is left out where it is not full and not the only one."""
    objective: Call = "cross_entropy"
    """`cross_entropy`, `fedprox(mu=...)`, `logit_adjustment`, `fedlc`, `fedrs`, `tilted`, each with `smoothing=...`,
    or `module:function(number=...)`."""
    mu: NonNegative = 0.0
    """Pull of FedProx towards the incoming model: mu / 2 ||w - w0||^2."""


class TextCNN(_Section):
    architecture: Literal["textcnn"] = "textcnn"
    """`textcnn`."""
    max_length: Length = 64
    """Words of a text that are read."""
    vocabulary_size: Vocabulary = 20_000
    """Commonest words, padding and unknown included."""
    embedding_size: Size = 128
    """Width of the embeddings."""
    filters: Size = 100
    """Convolution filters of each width."""
    widths: Widths = (3, 4, 5)
    """Words that a filter spans."""
    dropout: Fraction = 0.5
    """Rate before the classifier."""
    compute_dtype: ComputeType = "float32"
    """Type of the convolutions."""
    local: Local = Local()
    """Local training of this model; the experiment's `local` has precedence."""


class Transformer(_Published):
    architecture: Literal["transformer"] = "transformer"
    """`transformer`."""
    weights: Text
    """Hub name or folder with config.json and model.safetensors, whole or in shards, of a DistilBERT, BERT,
    RoBERTa or XLM-R."""
    revision: Revision | None = None
    """Commit, branch or tag on the hub; by default the main branch."""
    pretrained: bool = True
    """Whether it starts from these weights; false: from random ones of their shape, normal(0.02)."""
    trains: Literal["adapters", "head", "all"] = "adapters"
    """LoRA adapters and the head; the head alone; or every weight, without adapters."""
    max_length: Length = 64
    """Tokens of a text that are read, the first and the last included."""
    lora_rank: Size = 8
    """Rank of the adapters on query and value projections."""
    lora_alpha: Rate = 16.0
    """Their product is multiplied by lora_alpha / lora_rank."""
    lora_dropout: Fraction = 0.1
    """Rate before the adapters."""
    dropout: Fraction = 0.1
    """Rate of embeddings and blocks."""
    attention_dropout: Fraction = 0.1
    """Rate of attention weights."""
    head_dropout: Fraction = 0.2
    """Rate before the classifier."""
    compute_dtype: ComputeType = "float32"
    """Type of products and activations; trained weights, layer norms and losses stay float32."""
    local: Local = Local()
    """Local training of this model; the experiment's `local` has precedence."""


class CustomModel(_Published):
    architecture: Own
    """`module:function(number=...)`, called with vocabulary_size, num_classes, options and numbers; returns a
    `Model`."""
    tokenizer: Text | None = None
    """Hub name or folder of a pretrained encoder whose tokens are read; by default the texts' words are."""
    max_length: Length = 64
    """Words or tokens of a text that are read."""
    vocabulary_size: Vocabulary = 20_000
    """Commonest words, padding and unknown included; a tokenizer has its own."""
    options: Options = {}
    """Handed to the function."""
    local: Local = Local()
    """Local training of this model; the experiment's `local` has precedence."""


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
    """Of the study; a folder is named by it."""
    corpus: Corpus = Corpus()
    """Which texts."""
    model: Text = "textcnn"
    """Key of `models`."""
    rule: Call = "fedavg"
    """Aggregation: `name(number=...)` or `module:function(number=...)`; the README lists all."""
    alpha: Positive = 0.1
    """Concentration of the Dirichlet label skew: the lower, the fewer classes a client holds."""
    num_clients: Amount = 10
    """Clients that the train rows are divided among."""
    participation: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    """Share of the clients that takes part in a round, at least one."""
    rounds: Amount = 50
    """Rounds of federated training."""
    evaluate_every: Amount = 1
    """Clients are scored after every so many rounds, and after the last."""
    evaluate_clients: Amount | None = None
    """How many clients are scored: the same draw in all rounds and for all methods of a partition, of those with train
    rows first; null: all."""
    partition: Partition = Partition()
    """Who holds what."""
    partition_seed: Seed = 42
    """Seed of who holds what."""
    seed: Seed = 42
    """Seed of initial weights, order of rows, dropout and sampled clients."""
    min_participant_rows: Rows = 1
    """Train rows that a client needs to take part."""
    protocols: Protocols = ("train_rows", "label_filtered", "label_matched", "global")
    """How a client's accuracy is counted: `train_rows`, `label_filtered`, `label_matched`, `holdout`, `global`,
    `module:function`."""


class Cell(Point):
    """One point of the grid with every value settled; `local` is the only place of local hyper-parameters."""

    name: str
    architecture: Model
    local: Local


class Experiment(Point):
    """One study: a base point and a `grid` of lists whose product are its cells."""

    models: Models = Field(default={}, validate_default=True)
    """Name -> architecture and its settings; textcnn, distilbert and minilm are known."""
    local: Local = Local()
    """Local training of all models; where a key is left out, the published values of the model hold."""
    lanes: Size | Literal["auto"] = "auto"
    """Clients that train side by side in one program; results do not depend on it."""
    checkpoints_kept: Amount = 2
    """Last rounds of every cell whose models stay at hand."""
    max_cells: Annotated[Count, Field(le=100_000)] = 10_000
    """A grid of more cells is refused."""
    grid: Annotated[dict[str, Annotated[tuple[JsonValue, ...], Field(min_length=1)]], BeforeValidator(axes)] = {}
    """KEY -> list of its values; cells are the product. Keys joined by a comma vary together."""
