"""TextCNN (Kim 2014, arXiv:1408.5882): convolutions over time, their largest responses, one dense layer."""

from collections.abc import Callable
from math import prod

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_paradox.models.base import Dropout, Model, Params

Initializer = Callable[..., jax.Array]


def _uniform(fan_in: int) -> Initializer:
    """U(+-1/sqrt(fan_in)): PyTorch's default for kernels and biases, which the published runs used."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def _padding_zero(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    return jax.random.normal(key, shape, jnp.float32).at[0].set(0.0)


class Convolution(nn.Module):
    """ReLU(max over time of a valid convolution). x: f32[B, T, E] -> f32[B, filters].

    Written as a product of unfolded windows, which under `vmap` over lanes with their own kernels stays a
    batched product; `jax.lax.conv` would become a grouped convolution.
    """

    filters: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        length, embedding = x.shape[1:]
        shape = (self.width, embedding, self.filters)
        init = _uniform(prod(shape[:2]))
        kernel = self.param("kernel", init, shape).reshape(-1, self.filters)
        bias = self.param("bias", init, (self.filters,))
        windows = length - self.width + 1
        unfolded = jnp.concatenate([x[:, i : i + windows] for i in range(self.width)], axis=-1)
        largest = (unfolded @ kernel).max(axis=1)
        return jax.nn.relu(largest + jnp.broadcast_to(bias, largest.shape))


class TextCNN(nn.Module):
    vocabulary_size: int
    num_classes: int
    embedding_size: int
    filters: int
    widths: tuple[int, ...]
    dropout: float

    @nn.compact
    def __call__(self, tokens: jax.Array, deterministic: bool = True) -> jax.Array:
        table = self.param("embedding", _padding_zero, (self.vocabulary_size, self.embedding_size))
        # The mask keeps the padding row at zero: it then receives no gradient either.
        x = jnp.where((tokens != 0)[..., None], table[tokens], 0.0)
        features = [Convolution(self.filters, width, name=f"conv_{width}")(x) for width in self.widths]
        x = Dropout(self.dropout)(jnp.concatenate(features, axis=-1), deterministic)
        init = _uniform(x.shape[-1])
        return nn.Dense(self.num_classes, kernel_init=init, bias_init=init, name="classifier")(x)


def textcnn(
    vocabulary_size: int,
    num_classes: int,
    embedding_size: int = 128,
    filters: int = 100,
    widths: tuple[int, ...] = (3, 4, 5),
    dropout: float = 0.5,
) -> Model:
    """Kim's TextCNN, trained from scratch: everything is trainable, nothing is an adapter.

    tokens: i32[B, T] with T >= max(widths); 0 is padding and embeds to zero. The defaults give 2,715,104
    parameters at 20,000 words and 4 classes. Initial distributions are PyTorch's defaults.
    """
    module = TextCNN(vocabulary_size, num_classes, embedding_size, filters, tuple(widths), dropout)
    shortest = jnp.zeros((1, max(widths)), jnp.int32)

    @jax.jit
    def init(key: jax.Array) -> tuple[Params, Params]:
        return module.init(key, shortest)["params"], {}

    def apply(
        trainable: Params,
        frozen: Params,  # noqa: ARG001  (a model trained from scratch has none)
        tokens: jax.Array,
        key: jax.Array | None = None,
    ) -> jax.Array:
        rngs = None if key is None else {"dropout": key}
        return module.apply({"params": trainable}, tokens, key is None, rngs=rngs)

    return Model(init, apply, lambda path: False)  # noqa: ARG005
