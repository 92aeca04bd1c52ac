"""Training an embedding table at the cost of the rows that a batch names, with the results of dense SGD.

A row that a batch does not name has no gradient of the data, but it does not rest: its momentum, its weight
decay and its pull to the global row go on. With SGD that is a linear recurrence,

    m' = momentum m + weight_decay w + mu (w - w_start),    w' = w - learning_rate m',

so a row can be left alone and brought forward by a power of a 2 x 2 matrix when a batch names it again. In
exact arithmetic this is dense SGD with momentum. Axes: V words, E embedding, B batch, T tokens, and
N = 1 + B T rows: the padding row 0, then one for every token of the batch.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_paradox.federated.trainer import Ended
from fedjax_paradox.federated.types import Hyper, Tree

# Steps of a local update stay below 2**POWERS.
POWERS = 24
# Rows that `add` takes at once. A small client names no more, and a large one pays a few turns.
BLOCK = 256


class Table(NamedTuple):
    """One lane's embedding table. Rows of `updated` 0 are as the job found them, whatever stands here."""

    weights: jax.Array  # f32[V, E]
    momentum: jax.Array  # f32[V, E]
    updated: jax.Array  # i32[V], the job's steps that the row has seen


class Sum(NamedTuple):
    """A weighted sum of the tables of jobs that started alike: start * rest + moved.

    Rows that a job did not name are its start times one number, so that only the others need be visited.
    """

    rest: jax.Array  # f32[]
    moved: jax.Array  # f32[V, E]


class Origin(NamedTuple):
    """Where a job's table comes from, and what happens to its rows at rest."""

    name: str  # the leaf that the table stands for
    tables: jax.Array  # f32[P, V, E], the cells' at the round's start
    cell: jax.Array  # i32[]
    hyper: Hyper  # with the pull towards the start as mu


def empty(shape: tuple[int, int], dtype: jnp.dtype) -> Table:
    """A table whose rows are all as the job found them."""
    zeros = jnp.zeros(shape, dtype)
    return Table(zeros, zeros, jnp.zeros(shape[:1], jnp.int32))


def sparse_step(
    step: Callable[..., tuple[tuple[Tree, Tree], jax.Array]],
    state: tuple[Tree, Tree, Table],
    batch: tuple[jax.Array, jax.Array, jax.Array],
    origin: Origin,
    number: jax.Array,
) -> tuple[tuple[Tree, Tree, Table], jax.Array]:
    """One step of SGD on all leaves, of the table only the rows that the batch names.

    Args:
      step: ((leaves, optimizer state), batch, rows of the table at the start) -> (state, loss), a `local_step` with
        `local.sgd`; sees the rows as a table of N rows and the tokens as their places in it. The model may read the
        table at its tokens only, and row 0 not at all.
      state: (leaves, optimizer state, table), the first two without the table.
      batch: tokens i32[B, T], labels, mask; nothing is written where the mask is False throughout.
      number: i32[], steps of the job before this one.

    Returns:
      (state, loss).
    """
    (params, optimizer_state, table), (tokens, labels, mask), name = state, batch, origin.name
    rows, places, first = _named(tokens, len(table.updated))
    begin, seen = origin.tables[origin.cell, rows], table.updated[rows]
    weights, momentum = _forward(table.weights[rows], table.momentum[rows], begin, seen, (number, origin.hyper))
    trace = optax.tree_utils.tree_get(optimizer_state, "trace")
    inner = optax.tree_utils.tree_set(optimizer_state, trace={**trace, name: momentum})
    (params, inner), loss = step(({**params, name: weights}, inner), (places, labels, mask), begin)
    trace = dict(optax.tree_utils.tree_get(inner, "trace"))
    params, weights, momentum = dict(params), params[name], trace.pop(name)
    del params[name]
    target = jnp.where(first & jnp.any(mask), rows, len(table.updated))
    table = Table(
        table.weights.at[target].set(weights, mode="drop"),
        table.momentum.at[target].set(momentum, mode="drop"),
        table.updated.at[target].set(number + 1, mode="drop"),
    )
    return (params, optax.tree_utils.tree_set(inner, trace=trace), table), loss


def finish(table: Table, start: jax.Array, number: jax.Array, hyper: Hyper) -> jax.Array:
    """f32[V, E], the whole table after `number` steps; start: f32[V, E]."""
    return _forward(table.weights, table.momentum, start, table.updated, (number, hyper))[0]


def add(sums: Sum, weight: jax.Array, tables: Table, origin: Origin, job: Ended) -> tuple[Sum, jax.Array]:
    """Adds weight * `finish` of one lane's table to one cell's sum, at the cost of the rows that the job named.

    Args:
      sums: [P, ...]; tables: [L, ...].

    Returns:
      (sums, bool[], what was added is finite).
    """
    (cell, lane), start, until_end = (origin.cell, job.lane), origin.tables, (job.steps, origin.hyper)
    seen = tables.updated[lane]
    until = jnp.cumsum((seen > 0).astype(jnp.int32))
    one = jnp.ones((1, 1), start.dtype)
    unnamed = _forward(one, one, one, jnp.zeros(1, jnp.int32), until_end)[0][0, 0]

    def block(number: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        moved, finite = carry
        rows = jnp.searchsorted(until, number * BLOCK + jnp.arange(1, BLOCK + 1, dtype=jnp.int32))
        begin = start[cell, rows]
        final, _ = _forward(tables.weights[lane, rows], tables.momentum[lane, rows], begin, seen[rows], until_end)
        share = jnp.where((rows < len(seen))[:, None] & (weight > 0), weight * (final - unnamed * begin), 0.0)
        return moved.at[cell, rows].add(share, mode="drop"), finite & jnp.all(jnp.isfinite(share))

    blocks = (until[-1] + BLOCK - 1) // BLOCK
    moved, finite = jax.lax.fori_loop(0, blocks, block, (sums.moved, jnp.ones((), bool)))
    return Sum(sums.rest.at[cell].add(weight * unnamed), moved), finite


def total(sums: Sum, start: jax.Array) -> jax.Array:
    """f32[V, E], the weighted sum of whole tables."""
    return start * sums.rest + sums.moved


def _named(tokens: jax.Array, words: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(rows i32[N], places i32[B, T] of the tokens among them, bool[N] the row's first mention)."""
    flat = tokens.reshape(-1)
    order = jnp.arange(1, len(flat) + 1, dtype=jnp.int32)
    mention = jnp.full(words, len(flat) + 1, jnp.int32).at[flat].min(order)
    places = jnp.where(flat == 0, 0, mention[flat])
    first = jnp.concatenate([jnp.zeros(1, bool), places == order])
    return jnp.concatenate([jnp.zeros(1, jnp.int32), flat]), places.reshape(tokens.shape), first


def _forward(
    weights: jax.Array, momentum: jax.Array, start: jax.Array, seen: jax.Array, until: tuple[jax.Array, Hyper]
) -> tuple[jax.Array, jax.Array]:
    """Rows [n, E] that have seen `seen` i32[n] of the steps `until[0]` -> (weights, momentum) after all of them."""
    number, hyper = until
    fresh = (seen == 0)[:, None]
    pull = hyper.weight_decay + hyper.mu
    # Where weight decay and pull balance, a row rests; without either, everywhere.
    rest = start * jnp.where(pull > 0, hyper.mu / jnp.where(pull > 0, pull, 1.0), 0.0)
    away = jnp.where(fresh, start, weights) - rest
    momentum = jnp.where(fresh, 0.0, momentum)
    aa, ab, ba, bb = (entry[:, None] for entry in _power(number - seen, hyper))
    return rest + (aa * away + ab * momentum), ba * away + bb * momentum


_Matrix = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _power(steps: jax.Array, hyper: Hyper) -> _Matrix:
    """Row by row, the four entries of M ** steps for the step M of (w - rest, m); steps: i32[n] -> f32[n] each."""
    rate, decay, pull = hyper.learning_rate, hyper.momentum, hyper.weight_decay + hyper.mu
    square = (1.0 - rate * pull, -rate * decay, pull, decay)
    zero, one = jnp.zeros(steps.shape, rate.dtype), jnp.ones(steps.shape, rate.dtype)
    power = (one, zero, zero, one)
    for bit in range(POWERS):
        taken = (steps >> bit) & 1 == 1
        power = jax.tree.map(partial(jnp.where, taken), _product(power, square), power)
        square = _product(square, square)
    return power


def _product(left: _Matrix, right: _Matrix) -> _Matrix:
    """The product of two 2 x 2 matrices, entry by entry, so that all of a power fuses into one loop."""
    (a, b, c, d), (e, f, g, h) = left, right
    return a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h
