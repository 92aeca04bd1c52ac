"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685), and its export to PEFT's file format."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from safetensors.numpy import save_file

from fedjax_paradox.models.base import Dropout, KeyPath, Model, Params, Rate

LORA_LEAVES = ("lora_a", "lora_b")


def is_adapter(path: KeyPath) -> bool:
    """Whether a jax key path ends in a LoRA factor."""
    return path[-1].key in LORA_LEAVES


class LoRADense(nn.Module):
    """y = x W + b + (alpha / rank) dropout(x) A B (Hu et al. 2021, eq. 3), W and b frozen.

    x: [..., in] -> [..., features] in the type of x, to which the leaves are cast.
    A ~ U(+-1/sqrt(in)) (kaiming_uniform with a = sqrt(5), as PEFT), B = 0, so that training starts from the
    frozen model. Three plain products: under `vmap` with a shared W the first stays one large product over
    all lanes.
    """

    features: int
    rank: int
    alpha: float

    @nn.compact
    def __call__(self, x: jax.Array, dropout: Rate) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros, shape)
        bias = self.param("bias", nn.initializers.zeros, shape[1:])
        a_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        lora_a = self.param("lora_a", a_init, (shape[0], self.rank))
        lora_b = self.param("lora_b", nn.initializers.zeros, (self.rank, self.features))
        kernel, bias, lora_a, lora_b = (leaf.astype(x.dtype) for leaf in (kernel, bias, lora_a, lora_b))
        update = (Dropout()(x, dropout) @ lora_a) * (self.alpha / self.rank) @ lora_b
        y = x @ kernel
        return y + jnp.broadcast_to(bias, y.shape) + update


def with_own_kernels(model: Model) -> Model:
    """The model with the kernels that its adapters are added to as leaves `base_kernel` beside these, float32.

    ValueError for a model without adapters.
    """

    def own(trainable: Params, frozen: Params) -> tuple[Params, Params]:
        if "lora_a" in trainable:
            rest = {name: leaf for name, leaf in frozen.items() if name != "kernel"}
            return {**trainable, "base_kernel": frozen["kernel"].astype(jnp.float32)}, rest
        both = {name: own(trainable[name], frozen[name]) for name in trainable if name in frozen}
        moved, rest = ({name: pair[part] for name, pair in both.items()} for part in (0, 1))
        return {**trainable, **moved}, {**frozen, **rest}

    def back(trainable: Params) -> Params:
        if not isinstance(trainable, dict):
            return trainable
        return {"kernel" if name == "base_kernel" else name: back(leaf) for name, leaf in trainable.items()}

    def apply(trainable: Params, *arguments: Any, **more: Any) -> jax.Array:
        return model.apply(back(trainable), *arguments, **more)

    if not any(path[-1].key == "lora_a" for path, _ in _leaves(model)):
        raise ValueError("there is no adapter")
    return model._replace(init=lambda key: own(*model.init(key)), apply=apply)


def _leaves(model: Model) -> list[tuple[KeyPath, Any]]:
    return jax.tree_util.tree_leaves_with_path(jax.eval_shape(lambda: model.init(jax.random.key(0))[0]))


def export_peft(trainable: Params, folder: Path, *, base_model: str, alpha: float = 16.0, dropout: float = 0.1) -> None:
    """Writes a trained DistilBERT adapter and head as PEFT reads them.

    `trainable`: the leaves of one `distilbert.transformer` model (no client or lane axis) on a DistilBERT
    checkpoint; `base_model`: what PEFT should load beneath it. Gives `folder/adapter_config.json` and
    `folder/adapter_model.safetensors`.
    """
    leaves = traverse_util.flatten_dict(trainable)
    tensors = {_peft_name(names): np.ascontiguousarray(np.asarray(leaf).T) for names, leaf in leaves.items()}
    rank = next(leaf.shape[-1] for names, leaf in leaves.items() if names[-1] == "lora_a")
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": ["q_lin", "v_lin"],
        "modules_to_save": ["pre_classifier", "classifier"],
        "bias": "none",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _peft_name(names: tuple[str, ...]) -> str:
    """("layer_0", "attention", "q_lin", "lora_a") -> PEFT's dotted name of the same tensor."""
    *modules, leaf = names
    ending = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "kernel": "weight", "bias": "bias"}[leaf]
    if modules[0].startswith("layer_"):
        modules[0] = "distilbert.transformer.layer." + modules[0].removeprefix("layer_")
    return ".".join(["base_model.model", *modules, ending])
