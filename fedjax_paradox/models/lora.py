"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

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
    all lanes. Rank 0: there is no adapter.
    """

    features: int
    rank: int
    alpha: float

    @nn.compact
    def __call__(self, x: jax.Array, dropout: Rate) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros, shape)
        bias = self.param("bias", nn.initializers.zeros, shape[1:])
        kernel, bias = (leaf.astype(x.dtype) for leaf in (kernel, bias))
        y = x @ kernel
        y = y + jnp.broadcast_to(bias, y.shape)
        if self.rank == 0:
            return y
        a_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        lora_a = self.param("lora_a", a_init, (shape[0], self.rank))
        lora_b = self.param("lora_b", nn.initializers.zeros, (self.rank, self.features))
        lora_a, lora_b = (leaf.astype(x.dtype) for leaf in (lora_a, lora_b))
        return y + (Dropout()(x, dropout) @ lora_a) * (self.alpha / self.rank) @ lora_b


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
