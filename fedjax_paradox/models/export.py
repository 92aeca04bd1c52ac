"""Trained models as files that other tools open, and back: PEFT adapters, plain `transformers` folders, safetensors.

`fedjax_paradox.json` says what a folder holds. All tensors are safetensors, named and shaped as their readers expect.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.flax import load_file, save_file

from fedjax_paradox.errors import InputError
from fedjax_paradox.models.base import Params
from fedjax_paradox.models.lora import LORA_LEAVES
from fedjax_paradox.models.pretrained import BLOCKS, normalised, read_config
from fedjax_paradox.models.shards import open_weights

RECORD, HEAD = "fedjax_paradox.json", "head.safetensors"
ADAPTER, WHOLE = "adapter_model.safetensors", "model.safetensors"
TOKENIZER = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
# The modules that carry adapters, by their names in `transformers`.
TARGETS = {name: ["query", "value"] for name in ("bert", "roberta", "xlm-roberta")} | {"distilbert": ["q_lin", "v_lin"]}
# Classes of `transformers`: of an encoder without a head, and of a tokenizer whose files do not name theirs.
ENCODERS = {"bert": "BertModel", "roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel"}
TOKENIZERS = {"distilbert": "DistilBertTokenizer", "bert": "BertTokenizer"}
TOKENIZERS |= {"roberta": "RobertaTokenizer", "xlm-roberta": "XLMRobertaTokenizer"}
_OTHER_HEADS = re.compile(r"(vocab_\w+|lm_head|cls|pre_classifier|classifier)\.")
_ENDINGS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "kernel": "weight", "bias": "bias"}


class Base(NamedTuple):
    """The checkpoint beneath an adapter."""

    name: str  # as the config has it: a hub name or a folder
    folder: Path
    model_type: str
    revision: str | None  # the hub's commit


def base_of(name: str, folder: Path) -> Base:
    """Of `download.find_checkpoint(name, cache)`; a folder of one's own is named by its whole path."""
    commit = folder.name if re.fullmatch("[0-9a-f]{40}", folder.name) else None
    name = str(folder.resolve()) if Path(name).expanduser().is_dir() else name
    return Base(name, folder, read_config(folder).model_type, commit)


class LoRA(NamedTuple):
    alpha: float
    rank: int
    dropout: float


def write_adapter(trainable: Params, base: Base, lora: LoRA, folder: Path) -> None:
    """An adapter that PEFT opens: a DistilBERT's with its head, a BERT's or RoBERTa's for the encoder with it beside.

    Their own classification heads pool by tanh, ours does not: `head.safetensors` holds it, as torch.nn.Linear has it.

    Raises:
      InputError: the kernels under the adapters are the model's own, which an adapter does not hold.
    """
    leaves = traverse_util.flatten_dict(trainable)
    if any(names[-1] == "base_kernel" for names in leaves):
        raise InputError("the rule changed the kernels under the adapters, which an adapter does not hold; merge them")
    whole = base.model_type == "distilbert"
    adapters = {names: leaf for names, leaf in leaves.items() if whole or names[-1] in LORA_LEAVES}
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if whole else "FEATURE_EXTRACTION",
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": TARGETS[base.model_type],
        "modules_to_save": ["pre_classifier", "classifier"] if whole else None,
        "bias": "none",
    }
    _write_json(folder / "adapter_config.json", config)
    _save({_adapter_name(names, base.model_type): leaf.T for names, leaf in adapters.items()}, folder / ADAPTER)
    if not whole:
        _save(_head(leaves), folder / HEAD)
    _copy_tokenizer(base, folder)


def write_merged(trainable: Params, base: Base, lora: LoRA, folder: Path, classes: Sequence[str]) -> None:
    """A plain `transformers` folder with the adapters added to the kernels.

    For a DistilBERT `AutoModelForSequenceClassification` opens it; for a BERT `AutoModel`, the head being beside it.
    """
    leaves, scale = traverse_util.flatten_dict(trainable), lora.alpha / lora.rank
    tensors = _base_tensors(base)
    for names in (names[:-1] for names in leaves if names[-1] == "lora_a"):
        name = f"{_module(names, base.model_type)}.weight"
        kernel = np.asarray(leaves.get((*names, "base_kernel"), tensors[name].astype(np.float32).T), np.float64)
        product = np.asarray(leaves[(*names, "lora_a")], np.float64) @ np.asarray(leaves[(*names, "lora_b")])
        tensors[name] = (kernel + scale * product).T.astype(np.float32)
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    if base.model_type == "distilbert":
        tensors = {f"distilbert.{name}": tensor for name, tensor in tensors.items()} | _head(leaves)
        config |= {"architectures": ["DistilBertForSequenceClassification"], **_labels(classes)}
    else:
        config |= {"architectures": [ENCODERS[base.model_type]]}
        _save(_head(leaves), folder / HEAD)
    _write_json(folder / "config.json", config)
    _save(tensors, folder / WHOLE)
    _copy_tokenizer(base, folder)


def write_scratch(trainable: Params, vocabulary: Mapping[str, int] | Path, folder: Path) -> None:
    """A model from scratch: its leaves by their dotted names, and the words in the order of their ids or the tokenizer
    of another folder."""
    leaves = {".".join(names): leaf for names, leaf in traverse_util.flatten_dict(trainable).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: jnp.asarray(leaf) for name, leaf in leaves.items()}, folder / WHOLE)
    if isinstance(vocabulary, Path):
        _copy_files(vocabulary, folder)
    else:
        _write_json(folder / "vocabulary.json", sorted(vocabulary, key=vocabulary.__getitem__))


def read_words(folder: Path) -> dict[str, int]:
    """Word -> id, as `write_scratch` wrote them."""
    path = folder / "vocabulary.json"
    try:
        return {str(word): number for number, word in enumerate(json.loads(path.read_text(encoding="utf-8")))}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); export the model again") from error


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    _write_json(folder / RECORD, record)


def read_record(folder: Path) -> dict[str, Any]:
    """What `write_record` wrote; InputError where `folder` is no exported model."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder} is no exported model: {RECORD} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{folder / RECORD} is damaged (no JSON object); export the model again")
    return found


def read_leaves(folder: Path, shapes: Params, model_type: str = "") -> Params:
    """The trainable leaves that a folder holds, of the given shapes; adapters that were merged are 0.

    Args:
      model_type: of the encoder; "" for a model from scratch.

    Raises:
      InputError: a tensor is missing or of another shape.
    """
    files = [path for name in (ADAPTER, HEAD, WHOLE) if (path := folder / name).is_file()]
    tensors = {name: tensor for path in files for name, tensor in load_file(path).items()}
    merged = model_type and not (folder / ADAPTER).is_file()
    found = {}
    for names, leaf in traverse_util.flatten_dict(shapes).items():
        if merged and names[-1] in LORA_LEAVES:
            found[names] = jnp.zeros(leaf.shape, leaf.dtype)
            continue
        name = _stored_name(names, model_type, bool(merged))
        tensor = tensors.get(name)
        tensor = tensor.T if tensor is not None and model_type else tensor
        if tensor is None or tensor.shape != leaf.shape:
            raise InputError(f"{folder} does not hold {name} of shape {leaf.shape}; export the model again")
        found[names] = tensor.astype(leaf.dtype)
    return traverse_util.unflatten_dict(found)


def _stored_name(names: tuple[str, ...], model_type: str, merged: bool) -> str:
    if not model_type:
        return ".".join(names)
    if not merged and (model_type == "distilbert" or names[-1] in LORA_LEAVES):
        return _adapter_name(names, model_type)
    return ".".join((*names[:-1], _ENDINGS[names[-1]]))


def _adapter_name(names: tuple[str, ...], model_type: str) -> str:
    """("layer_0", "attention", "q_lin", "lora_a") -> PEFT's dotted name of the same tensor."""
    *modules, leaf = names
    inside = [_module(tuple(modules), model_type)] if modules[0].startswith("layer_") else modules
    prefix = "distilbert." if model_type == "distilbert" and inside != modules else ""
    return f"base_model.model.{prefix}{'.'.join(inside)}.{_ENDINGS[leaf]}"


def _module(names: tuple[str, ...], model_type: str) -> str:
    """("layer_0", "attention", "q_lin") -> "transformer.layer.0.attention.q_lin"."""
    prefix, modules = BLOCKS[model_type]
    return f"{prefix}.{names[0].removeprefix('layer_')}.{modules['.'.join(names[1:])]}"


def _head(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Of torch.nn.Linear, whose matrices are [out, in]."""
    own = {names: leaf for names, leaf in leaves.items() if not names[0].startswith("layer_")}
    return {".".join((*names[:-1], _ENDINGS[names[-1]])): leaf.T for names, leaf in own.items()}


def _base_tensors(base: Base) -> dict[str, np.ndarray]:
    """The encoder's tensors by their names without its prefix; pretraining heads are left out."""
    with open_weights(base.folder) as file:
        named = {normalised(name, base.model_type): name for name in file.keys()}  # noqa: SIM118  (not a dict)
        return {name: np.asarray(file.get_tensor(held)) for name, held in named.items() if not _OTHER_HEADS.match(name)}


def _save(tensors: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: jnp.asarray(leaf) for name, leaf in tensors.items()}, path, metadata={"format": "pt"})


def _labels(classes: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": {str(number): name for number, name in enumerate(classes)},
        "label2id": {name: number for number, name in enumerate(classes)},
        "problem_type": "single_label_classification",
    }


def _copy_tokenizer(base: Base, folder: Path) -> None:
    _copy_files(base.folder, folder)
    if not (folder / "tokenizer_config.json").exists():
        lower = {"do_lower_case": True} if base.model_type in ("distilbert", "bert") else {}
        _write_json(folder / "tokenizer_config.json", {"tokenizer_class": TOKENIZERS[base.model_type], **lower})


def _copy_files(source: Path, folder: Path) -> None:
    for name in TOKENIZER:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
