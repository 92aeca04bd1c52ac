"""What the engine knows of a model: three pure functions over plain nested dicts of arrays."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jax.extend.random import threefry2x32_p

Params = dict[str, Any]
KeyPath = tuple[Any, ...]
Rate = float | jax.Array


class Apply(Protocol):
    """`apply(trainable, frozen, tokens: i32[B, T], key=None, rates=None) -> logits f32[B, C]`.

    No key means evaluation; a key means training, and drives dropout. `rates`: f32[] by the names of
    `Model.rates`, which may be traced; None means the model's own. A model without rates is called without.
    """

    def __call__(
        self,
        trainable: Params,
        frozen: Params,
        tokens: jax.Array,
        key: jax.Array | None = None,
        rates: Mapping[str, Rate] | None = None,
    ) -> jax.Array: ...


class Model(NamedTuple):
    """A classifier as pure functions, like `optax.GradientTransformation`.

    `init(key) -> (trainable, frozen)`: float32 leaves; only `trainable` depends on the key, so
    `jax.vmap(lambda key: model.init(key)[0])(keys)` gives one fresh set per key beside one shared
    `frozen`; a model that computes in bfloat16 has its frozen matrices in bfloat16. `is_adapter(path)`:
    whether a leaf of `trainable`, named by its jax key path, is a LoRA factor. `rates`: the dropout rates
    that `apply` takes as data; a rate of 0 is structure and not among them. `table`: the trainable leaf f32[V, E],
    if any, that `apply` reads only as its rows at `tokens`, and never row 0; its training can then be sparse.
    `lora_scale`: what the product of a LoRA pair is multiplied by. `trailing`: how many padding places after a row's
    last token decide the logits without dropout, so that those that follow may be cut off; None: all of them do.
    `packs`: `apply` has one more argument, `places`: how many token places are computed, at least as many as the batch
    has tokens. None: all. It changes nothing but the time, up to float rounding; if `trailing` is 0, neither does
    cutting off places that hold no token of the batch, and both are so with dropout too.
    """

    init: Callable[[jax.Array], tuple[Params, Params]]
    apply: Apply
    is_adapter: Callable[[KeyPath], bool]
    rates: Mapping[str, float] = {}
    table: str | None = None
    lora_scale: float = 1.0
    trailing: int | None = None
    packs: bool = False


def sizes(model: Model) -> tuple[int, int]:
    """(numbers that training changes, numbers in all) of the model, without making one."""
    trainable, frozen = (
        sum(leaf.size for leaf in jax.tree.leaves(part))
        for part in jax.eval_shape(lambda: model.init(jax.random.key(0)))
    )
    return trainable, trainable + frozen


def split(params: Params, is_trainable: Callable[[KeyPath], bool]) -> tuple[Params, Params]:
    """The leaves of nested dicts, parted by jax key path; `merge` is the inverse."""
    parts: tuple[dict[tuple[str, ...], Any], dict[tuple[str, ...], Any]] = ({}, {})
    for names, leaf in traverse_util.flatten_dict(params).items():
        path = tuple(jax.tree_util.DictKey(name) for name in names)
        parts[0 if is_trainable(path) else 1][names] = leaf
    return traverse_util.unflatten_dict(parts[0]), traverse_util.unflatten_dict(parts[1])


def merge(trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> Params:
    """The union of two nested dicts that share no leaf; ValueError where both claim the same one."""
    merged: Params = dict(frozen)
    for name, value in trainable.items():
        if name not in frozen:
            merged[name] = value
        elif isinstance(value, Mapping) and isinstance(frozen[name], Mapping):
            merged[name] = merge(value, frozen[name])
        else:
            raise ValueError(f"both trees hold a leaf at {name!r}: split() never gives this")
    return merged


class Dropout(nn.Module):
    """Zeroes each element with probability `round(65536 rate) / 65536` and rescales the others.

    Sixteen random bits an element, a quarter of a hash, instead of the whole one of `flax.linen.Dropout`: threefry is a
    large share of a training step on a CPU, and the rate stays exact to one in 131,072. A rate in [0, 1) is a
    number or a traced f32[]: the same draws and the same result. The number 0 draws nothing.

    More places along the last two axes change no draw of those before, but along `quartered`, whose parts share hashes.
    """

    quartered: int = -1

    @nn.compact
    def __call__(self, x: jax.Array, rate: Rate) -> jax.Array:
        if isinstance(rate, int | float) and rate == 0:
            return x
        # At most 65535: a rate that rounds to 1 would divide by zero.
        dropped = jnp.minimum(jnp.round(65536.0 * jnp.asarray(rate, jnp.float32)), 65535.0)
        bits = _sixteen_bits(self.make_rng("dropout"), x.shape, self.quartered)
        # In float32: a scale that is itself rounded to bfloat16 would push every element the same way.
        scaled = (x.astype(jnp.float32) * (65536.0 / (65536.0 - dropped))).astype(x.dtype)
        return jnp.where(bits >= dropped.astype(jnp.uint16), scaled, jnp.zeros_like(x))


def _sixteen_bits(key: jax.Array, shape: tuple[int, ...], quartered: int) -> jax.Array:
    """u16[shape]: hashes of (second last axis and those before it, last axis), each of which four parts share."""
    parts = list(shape)
    parts[quartered] = -(-shape[quartered] // 4)
    *before, inner = (jax.lax.broadcasted_iota(jnp.uint32, parts, axis) for axis in range(len(parts)))
    outer = before.pop() if before else jnp.zeros_like(inner)
    for axis, index in enumerate(before):
        outer = outer * parts[axis] + index
    first, second, *_ = jax.random.key_data(key)
    words = jnp.concatenate(threefry2x32_p.bind(first, second, outer, inner), quartered)
    bits = jnp.concatenate([words.astype(jnp.uint16), (words >> 16).astype(jnp.uint16)], quartered)
    return jax.lax.slice_in_dim(bits, 0, shape[quartered], axis=quartered)
