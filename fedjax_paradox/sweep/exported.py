"""A trained model as a folder of its own, and back."""

import shutil
from pathlib import Path

import jax

from fedjax_paradox.config import Cell, Transformer
from fedjax_paradox.errors import InputError
from fedjax_paradox.models import export
from fedjax_paradox.models.base import Model
from fedjax_paradox.models.download import find_checkpoint
from fedjax_paradox.models.pretrained import load_checkpoint, read_config
from fedjax_paradox.sweep.architectures import encoder_model, scratch_model
from fedjax_paradox.sweep.trained import Trained, Vocabulary, check_trusted


def write(trained: Trained, folder: Path, cache: Path, merge: bool = False) -> str:
    """Writes all but the card; returns which kind of `report.card.OPEN` it is.

    Raises:
      InputError: `folder` holds something, there is nothing to merge, or an adapter cannot hold the model.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; export to another folder")
    spec = trained.cell.architecture
    if merge and not (isinstance(spec, Transformer) and _on_checkpoint(spec)):
        raise InputError(f"models.{trained.cell.model} has no adapters to merge; leave out --merge")
    if isinstance(spec, Transformer) and _on_checkpoint(spec):
        kind = _write_encoder(trained, spec, folder, cache, merge)
    elif isinstance(spec, Transformer):
        kind, base = "from scratch", find_checkpoint(spec.weights, cache, spec.revision)
        export.write_scratch(trained.trainable, base, folder)
        shutil.copyfile(base / "config.json", folder / "config.json")
    else:
        kind, vocabulary = "from scratch", trained.vocabulary
        export.write_scratch(trained.trainable, vocabulary.words or vocabulary.folder or Path(), folder)
    cell = trained.cell.model_dump(mode="json")
    record = {"cell": cell, "round": trained.round, "client": trained.client, "classes": list(trained.classes)}
    export.write_record(folder, record)
    return kind


def _on_checkpoint(spec: Transformer) -> bool:
    """Whether a checkpoint and adapters are all of the model."""
    return spec.pretrained and spec.trains == "adapters"


def _write_encoder(trained: Trained, spec: Transformer, folder: Path, cache: Path, merge: bool) -> str:
    base = export.base_of(spec.weights, find_checkpoint(spec.weights, cache, spec.revision))
    lora = export.LoRA(spec.lora_alpha, spec.lora_rank, spec.lora_dropout)
    if merge:
        export.write_merged(trained.trainable, base, lora, folder, trained.classes)
        return "merged" if base.model_type == "distilbert" else "merged encoder"
    export.write_adapter(trained.trainable, base, lora, folder)
    return "adapter" if base.model_type == "distilbert" else "encoder adapter"


def open_exported(folder: Path, cache: Path, own_code: bool = False) -> Trained:
    """The model that `write` wrote.

    Args:
      own_code: whether the `module:function` that the folder names may be called.

    Raises:
      InputError: `folder` is no exported model, is damaged, or names functions that may not be called.
    """
    record = export.read_record(folder)
    try:
        cell = Cell.model_validate(record["cell"])
        classes, round_, client = tuple(record["classes"]), record["round"], record["client"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / export.RECORD} is damaged ({error!s:.200}); export the model again") from error
    check_trusted(cell, own_code)
    spec = cell.architecture
    model_type = ""
    if isinstance(spec, Transformer) and not _on_checkpoint(spec):
        vocabulary = Vocabulary(spec.max_length, folder=folder)
        model = _scratch_encoder(spec, folder, cache, len(classes))
    elif not isinstance(spec, Transformer):
        words = None if getattr(spec, "tokenizer", None) else export.read_words(folder)
        vocabulary = Vocabulary(spec.max_length, words, folder)
        model = scratch_model(spec, vocabulary.size(), len(classes))
    else:
        merged = not (folder / export.ADAPTER).is_file()
        base = folder if merged else find_checkpoint(spec.weights, cache, spec.revision)
        sizes, weights = load_checkpoint(base)
        model, vocabulary = encoder_model(spec, sizes, weights, len(classes)), Vocabulary(spec.max_length, folder=base)
        model_type = export.base_of(spec.weights, base).model_type
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0))[0])
    _, frozen = model.init(jax.random.key(0))
    trainable = export.read_leaves(folder, shapes, model_type)
    return Trained(cell, round_, client, classes, model, trainable, frozen, vocabulary)


def _scratch_encoder(spec: Transformer, folder: Path, cache: Path, classes: int) -> Model:
    """The model whose trained leaves `folder` holds; a checkpoint beneath a head is not among them."""
    if spec.pretrained and spec.trains == "head":
        sizes, weights = load_checkpoint(find_checkpoint(spec.weights, cache, spec.revision))
        return encoder_model(spec, sizes, weights, classes)
    return encoder_model(spec.model_copy(update={"pretrained": False}), read_config(folder).sizes, {}, classes)
