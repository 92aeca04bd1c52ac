"""TextCNN (Kim 2014, arXiv:1408.5882): convolutions over time, their largest responses, one dense layer."""

from collections.abc import Callable, Mapping
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_paradox.errors import InputError
from fedjax_paradox.models.base import Dropout, Model, Params, Rate
from fedjax_paradox.models.places import places_of

Initializer = Callable[..., jax.Array]
FLOAT32 = jnp.dtype(jnp.float32)
BLOCK = 512  # gradients that `_backward` takes at once


def _uniform(fan_in: int) -> Initializer:
    """U(+-1/sqrt(fan_in)): PyTorch's default for kernels and biases, which the published runs used."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def _padding_zero(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    return jax.random.normal(key, shape, jnp.float32).at[0].set(0.0)


def _responses(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A valid convolution over time as a product of unfolded windows: under `vmap` over lanes with their own
    kernels it stays a batched product, where `jax.lax.conv` would become a grouped convolution."""
    width = kernel.shape[0]
    windows = x.shape[1] - width + 1
    unfolded = jnp.concatenate([x[:, i : i + windows] for i in range(width)], axis=-1)
    return unfolded @ kernel.reshape(-1, kernel.shape[-1])


class Rows(NamedTuple):
    """Where the rows of a batch lie side by side, in N places: tokens, then as many zeros as a window reaches over.
    Windows that see padding alone respond with 0, and are not computed."""

    begin: jax.Array  # i32[B], the place of the first token
    tokens: jax.Array  # i32[B]
    place: jax.Array  # i32[T], 0 .. T - 1


def _winning(x: jax.Array, kernel: jax.Array, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """(largest response of every row's windows [B, F], which window of x it is, i32[B, F]; N: one of padding alone).

    x: [N, E]. Of equal ones the first wins.
    """
    responses, windows = _responses(x[None], kernel)[0], len(rows.place) - len(kernel) + 1
    begin = jnp.minimum(rows.begin, len(responses) - windows)  # a slice ends with the array
    ahead, count = rows.begin - begin, jnp.minimum(rows.tokens, windows)
    place = rows.place[:windows, None]

    def of_row(begin: jax.Array, ahead: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = jax.lax.dynamic_slice_in_dim(responses, begin, windows)
        own = jnp.where((place >= ahead) & (place < ahead + count), own, -jnp.inf)
        largest = own.max(axis=0, keepdims=True)
        # jnp.argmax says the same five times slower.
        winner = jnp.where(own == largest, place, windows).min(axis=0) + begin
        largest = largest[0]
        padding = (count < windows) & (largest < 0)
        return jnp.where(padding, 0.0, largest).astype(x.dtype), jnp.where(padding, len(x), winner)

    return jax.vmap(of_row)(begin, ahead, count)


def _largest(x: jax.Array, kernel: jax.Array, rows: Rows) -> jax.Array:
    return _winning(x, kernel, rows)[0]


@jax.custom_vjp
def _largest_sparse(x: jax.Array, kernel: jax.Array, rows: Rows) -> jax.Array:
    """`_largest` with a gradient that reads and writes the winning windows only, 1 in T - width + 1, and of those the
    half or so that ReLU and dropout leave. It is made of scatters, which are quick on a CPU; where they are atomic
    their sums have no fixed order."""
    return _largest(x, kernel, rows)


def _forward(x: jax.Array, kernel: jax.Array, rows: Rows) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    largest, winner = _winning(x, kernel, rows)
    return largest, (x, kernel, winner)


def _backward(saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    x, kernel, winner = saved
    width, embedding, filters = kernel.shape
    start, by_filter = winner.ravel(), kernel.transpose(2, 0, 1)
    flat = jnp.where(start < len(x), gradient.ravel(), jnp.zeros((), gradient.dtype))
    until, size = jnp.cumsum((flat != 0).astype(jnp.int32)), min(BLOCK, flat.size)
    offsets = jnp.arange(width, dtype=jnp.int32)[None]

    def block(number: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        to_x, to_kernel = sums
        pairs = jnp.searchsorted(until, number * size + jnp.arange(1, size + 1, dtype=jnp.int32))
        there, which = pairs < len(flat), pairs % filters
        at = jnp.where(there, start[pairs], len(x))[:, None] + offsets
        # Sums of many terms: float32 whatever x is.
        scaled = flat[pairs][:, None, None].astype(jnp.float32)
        to_x = to_x.at[at].add(scaled * by_filter[which].astype(jnp.float32), mode="drop")
        which = jnp.where(there, which, filters)
        return to_x, to_kernel.at[which].add(scaled * x[at].astype(jnp.float32), mode="drop")

    zeros = (jnp.zeros(x.shape), jnp.zeros((filters, width, embedding)))
    to_x, to_kernel = jax.lax.fori_loop(0, (until[-1] + size - 1) // size, block, zeros)
    return to_x.astype(x.dtype), to_kernel.transpose(1, 2, 0).astype(kernel.dtype), None


_largest_sparse.defvjp(_forward, _backward)


class Convolution(nn.Module):
    """ReLU(max over time of a valid convolution). x: f32[B, T, E], or f32[N, E] with its rows -> f32[B, filters]."""

    filters: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, rows: Rows | None = None) -> jax.Array:
        shape = (self.width, x.shape[-1], self.filters)
        init = _uniform(prod(shape[:2]))
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", init, (self.filters,))
        if rows is None:
            largest = _responses(x, kernel).max(axis=1)
        else:
            largest = jax.lax.platform_dependent(x, kernel, rows, cpu=_largest_sparse, default=_largest)
        return jax.nn.relu(largest + jnp.broadcast_to(bias, largest.shape))


def _side_by_side(tokens: jax.Array, number: int, gap: int) -> tuple[jax.Array, Rows]:
    """(i32[N] tokens of i32[B, T], at most `number` of them, each row followed by `gap` zeros; rows)."""
    batch, length = tokens.shape
    room = max(number + batch * gap, length)  # the windows of any one row are a slice of it
    taken = jnp.sum(tokens != 0, axis=1, dtype=jnp.int32)
    wide = jnp.pad(tokens, ((0, 0), (0, gap)))
    places = places_of(jnp.arange(length + gap)[None] < taken[:, None] + gap, room)
    side_by_side = wide.ravel().at[places.of].get(mode="fill", fill_value=0)
    return side_by_side, Rows(places.at[:, 0], taken, jnp.arange(length, dtype=jnp.int32))


class TextCNN(nn.Module):
    vocabulary_size: int
    num_classes: int
    embedding_size: int
    filters: int
    widths: tuple[int, ...]

    @nn.compact
    def __call__(
        self, tokens: jax.Array, dropout: Rate = 0.0, dtype: jnp.dtype = FLOAT32, number: int | None = None
    ) -> jax.Array:
        if self.is_initializing():
            self.param("embedding", _padding_zero, (self.vocabulary_size, self.embedding_size))
        # Not by `param`, which refuses the shorter table of a sparse step.
        table = self.get_variable("params", "embedding")
        rows = None
        if number is not None:
            tokens, rows = _side_by_side(tokens, number, max(self.widths) - 1)
        # The mask keeps the padding row at zero: it then receives no gradient either.
        x = jnp.where((tokens != 0)[..., None], table[tokens], 0.0)
        convolutions = [Convolution(self.filters, width, name=f"conv_{width}") for width in self.widths]
        features = jnp.concatenate([one(x.astype(dtype), rows) for one in convolutions], axis=-1)
        x = Dropout()(features, dropout).astype(jnp.float32)
        init = _uniform(x.shape[-1])
        return nn.Dense(self.num_classes, kernel_init=init, bias_init=init, name="classifier")(x)


def textcnn(
    vocabulary_size: int,
    num_classes: int,
    embedding_size: int = 128,
    filters: int = 100,
    widths: tuple[int, ...] = (3, 4, 5),
    *,
    dropout: float = 0.5,
    compute_dtype: str = "float32",
) -> Model:
    """Kim's TextCNN, trained from scratch: everything is trainable, nothing is an adapter.

    tokens: i32[B, T] with T >= max(widths); 0 is padding, which ends a row, and embeds to zero. The defaults give
    2,715,104 parameters at 20,000 words and 4 classes. Initial distributions are PyTorch's defaults. `compute_dtype`,
    `float32` or `bfloat16`: the type in which the convolutions compute; every leaf is float32.
    Raises InputError for a width that is not positive or stands twice, since a leaf is named by its width.
    """
    if not widths or min(widths) < 1 or len(set(widths)) < len(widths):
        raise InputError(
            f"the widths of a textcnn must be positive and differ, got {list(widths)}; "
            "list each once and raise models.<name>.filters for more of one"
        )
    module = TextCNN(vocabulary_size, num_classes, embedding_size, filters, tuple(widths))
    dtype = jnp.dtype(compute_dtype)
    shortest = jnp.zeros((1, max(widths)), jnp.int32)

    @jax.jit
    def init(key: jax.Array) -> tuple[Params, Params]:
        return module.init(key, shortest)["params"], {}

    def apply(
        trainable: Params,
        frozen: Params,  # noqa: ARG001  (a model trained from scratch has none)
        tokens: jax.Array,
        key: jax.Array | None = None,
        rates: Mapping[str, Rate] | None = None,
        *,
        places: int | None = None,
    ) -> jax.Array:
        # Not the table: its rows are cast after the look-up, so that their gradients add up in float32.
        convolutions = {name: leaves for name, leaves in trainable.items() if name.startswith("conv_")}
        params = {"params": trainable | jax.tree.map(lambda leaf: leaf.astype(dtype), convolutions)}
        if key is None:
            return module.apply(params, tokens, dtype=dtype, number=places)
        rate = (rates or {}).get("dropout", dropout)
        return module.apply(
            params, tokens, rate, dtype, tokens.size if places is None else places, rngs={"dropout": key}
        )

    rates = {"dropout": dropout} if dropout else {}
    # A window of padding alone takes part in the maximum, so the widest one must remain in a row that is cut.
    trailing = max(widths)
    return Model(init, apply, lambda path: False, rates, table="embedding", trailing=trailing, packs=True)  # noqa: ARG005
