"""What models make of rows, dropout off. Axes: P models, B batch, N rows, T tokens."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedjax_paradox.federated.trainer import Data
from fedjax_paradox.federated.types import Tree


def predict(
    apply: Callable[..., jax.Array],
    globals_: Tree,
    frozen: Tree,
    tokens: jax.Array,
    rows: jax.Array,
    *,
    length: int | None = None,
    places: int | None = None,
) -> jax.Array:
    """Every model's predicted class of the given rows, dropout off.

    Args:
      globals_: [P, ...], one model a cell, or those that are served; tokens: i32[N, T]; rows: i32[batches, B] of them.
      length: of every row only the tokens before it are read; None: all.
      places: of a batch that are computed, at least as many as any has tokens, where the model packs; None: all.

    Returns:
      i32[batches, P, B].
    """

    def classes(leaves: Tree, rows: jax.Array) -> jax.Array:
        logits = apply(leaves, frozen, tokens[rows, :length], None, **_told(places))
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    return _each_batch(classes, globals_, rows)


def losses(
    apply: Callable[..., jax.Array],
    globals_: Tree,
    frozen: Tree,
    data: Data,
    rows: jax.Array,
    *,
    length: int | None = None,
    places: int | None = None,
) -> jax.Array:
    """Every cell's cross-entropy of the given rows, f32[batches, P, B], dropout off; the rest as in `predict`."""

    def each(leaves: Tree, rows: jax.Array) -> jax.Array:
        logits = apply(leaves, frozen, data.tokens[rows, :length], None, **_told(places))
        return optax.softmax_cross_entropy_with_integer_labels(logits, data.labels[rows])

    return _each_batch(each, globals_, rows)


def _told(places: int | None) -> dict[str, int]:
    # A model that does not pack has no such argument.
    return {} if places is None else {"places": places}


def _each_batch(function: Callable[[Tree, jax.Array], jax.Array], globals_: Tree, rows: jax.Array) -> jax.Array:
    # A batch of one cell keeps the device busy. Those of twelve at once need twelve times the memory, and leave a
    # CPU's cache: MiniLM's took twice as long.
    return jax.lax.map(lambda rows: jax.lax.map(lambda leaves: function(leaves, rows), globals_), rows)
