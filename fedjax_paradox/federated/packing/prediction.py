"""What models make of rows, dropout off. Axes: P models, B batch, N rows, T tokens."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from fedjax_paradox.federated.trainer import Data
from fedjax_paradox.federated.types import Tree


def predict(
    apply: Callable[..., jax.Array],
    models: Tree,
    frozen: Tree,
    tokens: jax.Array,
    asked: tuple[jax.Array, jax.Array],
    *,
    length: int | None = None,
    places: int | None = None,
) -> jax.Array:
    """The predicted classes of batches of rows, dropout off.

    Args:
      models: [P, ...], one a cell, or those that are served; tokens: i32[N, T].
      asked: (i32[batches], which model predicts; i32[batches, B], which rows of `tokens`).
      length: of every row only the tokens before it are read; None: all.
      places: of a batch that are computed, at least as many as any has tokens, where the model packs; None: all.

    Returns:
      i32[batches, B].
    """

    def classes(leaves: Tree, rows: jax.Array) -> jax.Array:
        logits = apply(leaves, frozen, tokens[rows, :length], None, **_told(places))
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    return _each_batch(classes, models, asked)


def losses(
    apply: Callable[..., jax.Array],
    models: Tree,
    frozen: Tree,
    data: Data,
    asked: tuple[jax.Array, jax.Array],
    *,
    length: int | None = None,
    places: int | None = None,
) -> jax.Array:
    """The cross-entropy of batches of rows, f32[batches, B], dropout off; the rest as in `predict`."""

    def each(leaves: Tree, rows: jax.Array) -> jax.Array:
        logits = apply(leaves, frozen, data.tokens[rows, :length], None, **_told(places))
        return optax.softmax_cross_entropy_with_integer_labels(logits, data.labels[rows])

    return _each_batch(each, models, asked)


def _told(places: int | None) -> dict[str, int]:
    # A model that does not pack has no such argument.
    return {} if places is None else {"places": places}


def _each_batch(
    function: Callable[[Tree, jax.Array], jax.Array], models: Tree, asked: tuple[jax.Array, jax.Array]
) -> jax.Array:
    def one(batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        model, rows = batch
        leaves = jax.tree.map(partial(jax.lax.dynamic_index_in_dim, index=model, keepdims=False), models)
        return function(leaves, rows)

    # A batch of one cell keeps the device busy. Those of twelve at once need twelve times the memory, and leave a
    # CPU's cache: MiniLM's took twice as long.
    return jax.lax.map(one, asked)
