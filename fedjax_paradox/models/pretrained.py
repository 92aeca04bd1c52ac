"""A pretrained encoder's safetensors -> Flax tree, every tensor accounted for. Never pickle."""

import json
import re
from pathlib import Path
from typing import Any, NoReturn

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

# Where each architecture keeps what `distilbert.Classifier` calls by DistilBERT's names.
BLOCKS = {
    "distilbert": (
        "transformer.layer",
        {name: name for name in ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin")}
        | {"sa_layer_norm": "sa_layer_norm", "output_layer_norm": "output_layer_norm"}
        | {"lin1": "ffn.lin1", "lin2": "ffn.lin2"},
    ),
    "bert": (
        "encoder.layer",
        {"attention.q_lin": "attention.self.query", "attention.k_lin": "attention.self.key"}
        | {"attention.v_lin": "attention.self.value", "attention.out_lin": "attention.output.dense"}
        | {"sa_layer_norm": "attention.output.LayerNorm", "output_layer_norm": "output.LayerNorm"}
        | {"lin1": "intermediate.dense", "lin2": "output.dense"},
    ),
}
EMBEDDINGS = {"word": "word_embeddings", "position": "position_embeddings", "layer_norm": "LayerNorm"}
POSITION = ("embeddings", "position")
SEGMENTS = "embeddings.token_type_embeddings.weight"
# Pretraining and classification heads (ours start fresh) and a buffer; everything else must be claimed.
UNUSED = re.compile(
    r"(pooler|vocab_transform|vocab_layer_norm|vocab_projector|cls|pre_classifier|classifier)\."
    r"|embeddings\.position_ids$"
)
# In the order of EncoderSizes.
SIZE_KEYS = {
    "distilbert": ("vocab_size", "max_position_embeddings", "dim", "n_layers", "n_heads", "hidden_dim"),
    "bert": (
        "vocab_size",
        "max_position_embeddings",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
    ),
}
# Configuration values that the encoder has built in; a key that is absent means this value.
BUILT_IN = {
    "distilbert": {"activation": "gelu", "pad_token_id": 0},
    "bert": {
        "hidden_act": "gelu",
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "is_decoder": False,
    },
}
FLOATS = ("F16", "BF16", "F32")
LARGEST_SIZE = 2**31 - 1
MOST_PROBLEMS = 10  # told of one file


def load_checkpoint(folder: Path) -> tuple[EncoderSizes, Params]:
    """The sizes and frozen float32 weights, as `distilbert.transformer` takes them.

    `folder` holds config.json of a `distilbert` or `bert` model and the weights. BERT's token-type row
    0 is added to every position: exact, since all tokens have type 0 here. Raises InputError listing the
    tensors that are missing, of another shape, not of floats, not finite, or unknown. Nothing is allocated
    before config.json and the tensors agree.
    """
    model_type, sizes = _read_config(folder / "config.json")
    with open_weights(folder) as file:
        return sizes, _read_tensors(file, model_type, sizes)


def model_type_of(folder: Path) -> str:
    """`distilbert` or `bert`; InputError where config.json says something else."""
    return _read_config(folder / "config.json")[0]


def _read_config(path: Path) -> tuple[str, EncoderSizes]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error}). Download it again.") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(model_type, str) or model_type not in SIZE_KEYS:
        raise InputError(f"{path}: model_type must be distilbert or bert, got {model_type!r:.80}.")
    for key, value in BUILT_IN[model_type].items():
        if config.get(key, value) != value:
            raise InputError(f"{path}: only {key}={value!r} is supported, got {config[key]!r:.80}.")
    numbers = [config.get(key) for key in SIZE_KEYS[model_type]]
    if not all(type(number) is int and 0 < number <= LARGEST_SIZE for number in numbers):
        keys = ", ".join(SIZE_KEYS[model_type])
        raise InputError(f"{path}: {keys} must be positive integers below 2^31, got {numbers!r:.200}.")
    eps = config.get("layer_norm_eps", 1e-12)
    if type(eps) not in (int, float) or not 0 < eps < 1:
        raise InputError(f"{path}: layer_norm_eps must be a number between 0 and 1, got {eps!r:.80}.")
    sizes = EncoderSizes(*numbers)._replace(layer_norm_eps=eps)
    if sizes.dim % sizes.heads:
        raise InputError(f"{path}: the width {sizes.dim} must be a multiple of the {sizes.heads} heads.")
    return model_type, sizes


def _read_tensors(file: Any, model_type: str, sizes: EncoderSizes) -> Params:
    stored = {normalised(name, model_type): name for name in file.keys()}  # noqa: SIM118  (not a dict)
    if sizes.layers * len(BLOCKS[model_type][1]) > len(stored):  # before the shapes of so many layers are written down
        _refuse([f"config.json says {sizes.layers} layers, more than the {len(stored)} tensors make"])
    expected = traverse_util.flatten_dict(frozen_shapes(sizes))
    sources = {names: _tensor_name(names, model_type) for names in expected}
    shapes: dict[str, tuple[int | None, ...]] = {
        sources[names]: _stored_shape(names, spec.shape) for names, spec in expected.items()
    }
    if model_type == "bert":
        shapes[SEGMENTS] = (None, sizes.dim)
    _check(file, stored, shapes)

    def read(source: str) -> np.ndarray:
        return np.asarray(file.get_tensor(stored[source])).astype(np.float32)

    leaves = {names: read(source) for names, source in sources.items()}
    infinite = [sources[names] for names, leaf in leaves.items() if not np.isfinite(leaf).all()]
    if infinite:
        _refuse([f"{name} holds values that are not finite" for name in infinite])
    if model_type == "bert":
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
        f"{printable('; '.join(problems[:MOST_PROBLEMS] + more))}. Use an unmodified DistilBERT or BERT checkpoint."
    )


def normalised(name: str, model_type: str) -> str:
    """Without the optional architecture prefix, and with TensorFlow's LayerNorm names translated."""
    name = name.removeprefix(model_type + ".")
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
