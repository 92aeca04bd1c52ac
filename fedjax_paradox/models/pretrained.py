"""A pretrained encoder's safetensors -> Flax tree, every tensor accounted for. Never pickle.

DistilBERT, BERT and RoBERTa run on one encoder, whose padding is 0 and whose positions count from 0: the rest is how
their tables are read.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from fedjax_paradox.errors import InputError
from fedjax_paradox.models.base import Params
from fedjax_paradox.models.distilbert import EncoderSizes, frozen_shapes
from fedjax_paradox.models.download import find_checkpoint, weights_digest
from fedjax_paradox.models.shards import open_weights
from fedjax_paradox.text import printable

__all__ = ["find_checkpoint", "load_checkpoint", "weights_digest"]

_BERT_BLOCKS = (
    "encoder.layer",
    {"attention.q_lin": "attention.self.query", "attention.k_lin": "attention.self.key"}
    | {"attention.v_lin": "attention.self.value", "attention.out_lin": "attention.output.dense"}
    | {"sa_layer_norm": "attention.output.LayerNorm", "output_layer_norm": "output.LayerNorm"}
    | {"lin1": "intermediate.dense", "lin2": "output.dense"},
)
# Where each architecture keeps what `distilbert.Classifier` calls by DistilBERT's names.
BLOCKS = {
    "distilbert": (
        "transformer.layer",
        {name: name for name in ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin")}
        | {"sa_layer_norm": "sa_layer_norm", "output_layer_norm": "output_layer_norm"}
        | {"lin1": "ffn.lin1", "lin2": "ffn.lin2"},
    ),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), _BERT_BLOCKS),
}
# What its tensors' names may begin with.
PREFIXES = {"distilbert": "distilbert.", "bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta."}
EMBEDDINGS = {"word": "word_embeddings", "position": "position_embeddings", "layer_norm": "LayerNorm"}
POSITION, WORD = ("embeddings", "position"), ("embeddings", "word", "embedding")
SEGMENTS = "embeddings.token_type_embeddings.weight"
# Pretraining and classification heads (ours start fresh) and a buffer; everything else must be claimed.
UNUSED = re.compile(
    r"(pooler|vocab_transform|vocab_layer_norm|vocab_projector|lm_head|cls|pre_classifier|classifier)\."
    r"|embeddings\.position_ids$"
)
_BERT_SIZES = (
    "vocab_size",
    "max_position_embeddings",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)
# In the order of EncoderSizes.
SIZE_KEYS = {
    "distilbert": ("vocab_size", "max_position_embeddings", "dim", "n_layers", "n_heads", "hidden_dim"),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), _BERT_SIZES),
}
_BERT_BUILT_IN = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
# Configuration values that the encoder has built in; a key that is absent means this value.
BUILT_IN: dict[str, dict[str, Any]] = {
    "distilbert": {"activation": "gelu"},
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), _BERT_BUILT_IN),
}
# The id of padding where config.json does not name it; RoBERTa counts positions from the one after it.
PADDING = {"distilbert": 0, "bert": 0, "roberta": 1, "xlm-roberta": 1}
COUNTED_FROM_PADDING = ("roberta", "xlm-roberta")
FLOATS = ("F16", "BF16", "F32")
LARGEST_SIZE = 2**31 - 1
MOST_PROBLEMS = 10  # told of one file


class Described(NamedTuple):
    """What config.json says."""

    model_type: str
    sizes: EncoderSizes  # positions: those that a text can have
    padding: int  # id of the padding token
    unused: int  # rows of the position table before the first that a text has


def load_checkpoint(folder: Path) -> tuple[EncoderSizes, Params]:
    """The sizes and frozen float32 weights, as `distilbert.transformer` takes them.

    `folder` holds config.json of a model of a type in `BLOCKS` and the weights. The token-type row 0 of BERT and
    RoBERTa is added to every position: exact, since all tokens have type 0 here. The word of id 0 and padding change
    places (`subwords.encode_subwords` does the same), and positions start with the first that a text has. Raises
    InputError listing the tensors that are missing, of another shape, not of floats, not finite, or unknown. Nothing is
    allocated before config.json and the tensors agree.
    """
    described = read_config(folder)
    with open_weights(folder) as file:
        return described.sizes, _read_tensors(file, described)


def read_config(folder: Path) -> Described:
    """InputError where config.json is not of an encoder that can be run here."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error}). Download it again.") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(model_type, str) or model_type not in SIZE_KEYS:
        raise InputError(f"{path}: model_type must be one of {', '.join(SIZE_KEYS)}, got {model_type!r:.80}.")
    for key, value in BUILT_IN[model_type].items():
        if config.get(key, value) != value:
            raise InputError(f"{path}: only {key}={value!r} is supported, got {config[key]!r:.80}.")
    sizes, padding = _sizes(path, config), config.get("pad_token_id", PADDING[model_type])
    if type(padding) is not int or not 0 <= padding < sizes.vocabulary_size:
        raise InputError(f"{path}: pad_token_id must be the id of a token, got {padding!r:.80}.")
    unused = padding + 1 if model_type in COUNTED_FROM_PADDING else 0
    if unused >= sizes.positions:
        raise InputError(f"{path}: positions are counted from {unused}, of which there are {sizes.positions}.")
    return Described(model_type, sizes._replace(positions=sizes.positions - unused), padding, unused)


def _sizes(path: Path, config: dict[str, Any]) -> EncoderSizes:
    model_type = config["model_type"]
    numbers: list[Any] = [config.get(key) for key in SIZE_KEYS[model_type]]
    if not all(type(number) is int and 0 < number <= LARGEST_SIZE for number in numbers):
        keys = ", ".join(SIZE_KEYS[model_type])
        raise InputError(f"{path}: {keys} must be positive integers below 2^31, got {numbers!r:.200}.")
    eps = config.get("layer_norm_eps", 1e-12)
    if type(eps) not in (int, float) or not 0 < eps < 1:
        raise InputError(f"{path}: layer_norm_eps must be a number between 0 and 1, got {eps!r:.80}.")
    sizes = EncoderSizes(*numbers)._replace(layer_norm_eps=eps)
    if sizes.dim % sizes.heads:
        raise InputError(f"{path}: the width {sizes.dim} must be a multiple of the {sizes.heads} heads.")
    return sizes


def _read_tensors(file: Any, described: Described) -> Params:
    model_type, sizes, padding, unused = described
    stored = {normalised(name, model_type): name for name in file.keys()}  # noqa: SIM118  (not a dict)
    if sizes.layers * len(BLOCKS[model_type][1]) > len(stored):  # before the shapes of so many layers are written down
        _refuse([f"config.json says {sizes.layers} layers, more than the {len(stored)} tensors make"])
    expected = traverse_util.flatten_dict(frozen_shapes(sizes))
    sources = {names: _tensor_name(names, model_type) for names in expected}
    shapes: dict[str, tuple[int | None, ...]] = {
        sources[names]: _stored_shape(names, spec.shape) for names, spec in expected.items()
    }
    shapes[sources[POSITION]] = (sizes.positions + unused, sizes.dim)
    if model_type != "distilbert":
        shapes[SEGMENTS] = (None, sizes.dim)
    _check(file, stored, shapes)

    def read(source: str) -> np.ndarray:
        return np.asarray(file.get_tensor(stored[source])).astype(np.float32)

    leaves = {names: read(source) for names, source in sources.items()}
    infinite = [sources[names] for names, leaf in leaves.items() if not np.isfinite(leaf).all()]
    if infinite:
        _refuse([f"{name} holds values that are not finite" for name in infinite])
    leaves[POSITION] = leaves[POSITION][unused:]
    leaves[WORD][[0, padding]] = leaves[WORD][[padding, 0]]
    if model_type != "distilbert":
        leaves[POSITION] += read(SEGMENTS)[:1]
    return traverse_util.unflatten_dict(
        {names: jnp.asarray(leaf.T if names[-1] == "kernel" else leaf) for names, leaf in leaves.items()}
    )


def _check(file: Any, stored: dict[str, str], shapes: dict[str, tuple[int | None, ...]]) -> None:
    problems = [f"missing {name}" for name in shapes if name not in stored]
    problems += [f"twice {name}" for name in file.keys() if name not in stored.values()]  # noqa: SIM118
    for name, original in stored.items():
        if name not in shapes:
            if not UNUSED.match(name):
                problems.append(f"unknown {original}")
            continue
        view = file.get_slice(original)
        found, wanted = tuple(view.get_shape()), shapes[name]
        if len(found) != len(wanted) or any(
            w != f if w is not None else f < 1 for f, w in zip(found, wanted, strict=True)
        ):
            problems.append(f"{original} has shape {found}, config.json says {wanted}")
        if view.get_dtype() not in FLOATS:
            problems.append(f"{original} has type {view.get_dtype()}, must be one of {', '.join(FLOATS)}")
    if problems:
        _refuse(problems)


def _refuse(problems: list[str]) -> NoReturn:
    more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
    raise InputError(
        "model.safetensors does not hold the encoder that config.json describes: "
        f"{printable('; '.join(problems[:MOST_PROBLEMS] + more))}. "
        "Use an unmodified DistilBERT, BERT or RoBERTa checkpoint."
    )


def normalised(name: str, model_type: str) -> str:
    """Without the optional architecture prefix, and with TensorFlow's LayerNorm names translated."""
    name = name.removeprefix(PREFIXES[model_type])
    return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))


def _tensor_name(names: tuple[str, ...], model_type: str) -> str:
    """("layer_0", "lin1", "kernel") -> "transformer.layer.0.ffn.lin1.weight"."""
    if names[0] == "embeddings":
        stem = f"embeddings.{EMBEDDINGS[names[1]]}"
    else:
        prefix, modules = BLOCKS[model_type]
        stem = f"{prefix}.{names[0].removeprefix('layer_')}.{modules['.'.join(names[1:-1])]}"
    return stem + (".bias" if names[-1] == "bias" else ".weight")


def _stored_shape(names: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1] if names[-1] == "kernel" else shape
