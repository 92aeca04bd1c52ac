"""From a cell's architecture to its tokens and its model."""

import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fedjax_paradox.config import DROPOUT_RATES, Cell, CustomModel, TextCNN, Transformer, parse_call
from fedjax_paradox.data.corpus import Corpus, check_token_ids, subword_corpus, word_corpus
from fedjax_paradox.errors import InputError
from fedjax_paradox.hub import local_folder
from fedjax_paradox.models.base import Model, Params
from fedjax_paradox.models.distilbert import EncoderSizes, transformer
from fedjax_paradox.models.download import find_checkpoint, weights_digest
from fedjax_paradox.models.textcnn import textcnn
from fedjax_paradox.registry import resolve
from fedjax_paradox.sweep.checks import check_model


def corpus_and_model(cell: Cell, texts: Any, weights: Callable, folder: Path) -> tuple[Corpus, Model, dict[str, str]]:
    """A cell's tokenised corpus, its model, and content hashes of both.

    Args:
      weights: name, revision -> (folder of the checkpoint, sizes, frozen leaves).

    Raises:
      InputError: sizes, tokens or a person's own architecture do not fit.
    """
    spec, classes = cell.architecture, len(texts.classes)
    if isinstance(spec, TextCNN | CustomModel):
        corpus = _own_corpus(spec, texts, folder)
        sizes = (corpus.vocabulary_size, classes)
        return corpus, scratch_model(spec, *sizes), {"corpus": corpus.fingerprint}
    checkpoint, sizes, frozen = weights(spec.weights, spec.revision)
    if spec.max_length > sizes.positions:
        raise InputError(
            f"models.{cell.model}.max_length must be at most {sizes.positions}, the positions of {spec.weights}, "
            f"got {spec.max_length}; lower it"
        )
    corpus = subword_corpus(texts, checkpoint, spec.max_length, folder)
    check_token_ids(corpus, sizes.vocabulary_size)
    model = encoder_model(spec, sizes, frozen, classes)
    shape = json.dumps(sizes._asdict())  # heads and epsilon are not among the weights
    return corpus, model, {"corpus": corpus.fingerprint, "weights": weights_digest(checkpoint), "encoder": shape}


def tokenizer_folder(spec: TextCNN | CustomModel, cache: Path) -> Path | None:
    """Where the tokenizer of a model from scratch is; None where it reads words."""
    if not isinstance(spec, CustomModel) or spec.tokenizer is None:
        return None
    return local_folder(spec.tokenizer) or find_checkpoint(spec.tokenizer, cache)


def _own_corpus(spec: TextCNN | CustomModel, texts: Any, cache: Path) -> Corpus:
    tokenizer = tokenizer_folder(spec, cache)
    if tokenizer is None:
        return word_corpus(texts, spec.vocabulary_size, spec.max_length, cache)
    corpus = subword_corpus(texts, tokenizer, spec.max_length, cache)
    check_token_ids(corpus, corpus.vocabulary_size)
    return corpus


def scratch_model(spec: TextCNN | CustomModel, vocabulary_size: int, classes: int) -> Model:
    """A model that is not pretrained."""
    build: Any = _textcnn if isinstance(spec, TextCNN) else _custom_model
    return build(spec, vocabulary_size, classes)


def encoder_model(spec: Transformer, sizes: EncoderSizes, frozen: Params, classes: int) -> Model:
    """An encoder of the sizes and weights of `load_checkpoint`."""
    options = ("lora_rank", "lora_alpha", *DROPOUT_RATES, "compute_dtype", "trains")
    weights = frozen if spec.pretrained else None
    return transformer(sizes, weights, classes, **{name: getattr(spec, name) for name in options})


def _textcnn(spec: TextCNN, vocabulary_size: int, classes: int) -> Model:
    if max(spec.widths) > spec.max_length:
        raise InputError(
            f"the widths of a textcnn must be at most its max_length={spec.max_length}, got {max(spec.widths)}; "
            "lower models.<name>.widths or raise models.<name>.max_length"
        )
    sizes = (vocabulary_size, classes, spec.embedding_size, spec.filters, tuple(spec.widths))
    return textcnn(*sizes, dropout=spec.dropout, compute_dtype=spec.compute_dtype)


def _custom_model(spec: CustomModel, vocabulary_size: int, num_classes: int) -> Model:
    name, numbers = parse_call(spec.architecture)
    build = resolve("architecture", name, {})
    sizes = {key: int(value) if value.is_integer() else value for key, value in numbers.items()}
    arguments = {"vocabulary_size": vocabulary_size, "num_classes": num_classes, **spec.options, **sizes}
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as error:
        raise InputError(
            f"architecture {spec.architecture!r} cannot be called with {', '.join(arguments)} ({error}); "
            "correct models.<name>.options"
        ) from error
    return check_model(spec.architecture, partial(build, **arguments), num_classes, spec.max_length)
