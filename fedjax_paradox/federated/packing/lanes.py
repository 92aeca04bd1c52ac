"""Lanes: the part of the compiled program that trains, one job a lane at a time, on one device.

Axes: P cells, K client slots of a cell, L lanes of this device, B batch.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_paradox.federated.packing.schedule import Segment
from fedjax_paradox.federated.trainer import Round, Told, Trainer, Work
from fedjax_paradox.federated.types import Client, Hyper, Size, Tree


class Lanes(NamedTuple):
    """What each lane is in the middle of."""

    state: Tree  # [L, ...], of the trainer
    loss: jax.Array  # f32[L], summed over the rows visited so far
    visited: jax.Array  # f32[L], rows visited so far


def empty_lanes(trainer: Trainer, globals_: Tree, num_lanes: int) -> Lanes:
    """Lanes of all devices without a job; globals_: [P, ...], only shapes and types are read."""
    zero = jnp.zeros((), jnp.float32)
    one = Lanes(trainer.empty(globals_), zero, zero)
    return jax.tree.map(lambda leaf: jnp.zeros((num_lanes, *leaf.shape), leaf.dtype), one)


class Batches(NamedTuple):
    """What the steps of a chunk read."""

    rows: jax.Array  # i32[L, S, B], padded with -1
    round: jax.Array  # i32[]


def advance(trainer: Trainer, lanes: Lanes, round_: Round, segment: Segment, batches: Batches) -> Lanes:
    """Trains every lane for one segment: a loop over its steps, each vmapped over lanes.

    At a job's first segment its lane begins anew. The number of steps is data, so segments of any length share one
    program.
    """
    if round_.told.starts is None:
        starts = jax.vmap(trainer.start, in_axes=(None, 0))(round_.globals_, segment.cell)
    else:
        starts = jax.tree.map(partial(_of_slot, slot=segment.slot), round_.told.starts)
    numbers = jax.tree.map(lambda leaf: leaf[segment.cell], round_.hyper)
    clients = jax.vmap(_client, in_axes=(0, 0, None, 0))(starts, numbers, round_.told, segment.slot)
    lanes = jax.vmap(partial(_load, trainer))(lanes, segment.first, clients)
    keys = jax.vmap(_job_key, in_axes=(0, None, 0))(segment.seed, batches.round, segment.client)
    over_lanes = _alone if trainer.loops and len(segment.cell) == 1 else jax.vmap

    def step(number: jax.Array, lanes: Lanes) -> Lanes:
        done = segment.step + number
        rows = batches.rows[:, segment.begin + number]
        work = Work(segment.cell, done, rows, jax.vmap(jax.random.fold_in)(keys, done))
        # Of all lanes, so that it is one choice under `vmap` too.
        enough = _enough(trainer.sizes, round_.data.tokens, work.rows) if trainer.sizes else None

        def one_step(lane: Lanes, client: Client, work: Work) -> Lanes:
            state, loss = trainer.step(round_, lane.state, client, work._replace(enough=enough))
            return Lanes(state, lane.loss + loss, lane.visited + jnp.sum((work.rows >= 0).astype(jnp.float32)))

        return over_lanes(one_step)(lanes, clients, work)

    return jax.lax.fori_loop(jnp.zeros((), jnp.int32), segment.live, step, lanes)


def _enough(sizes: tuple[Size, ...], tokens: jax.Array, rows: jax.Array) -> jax.Array:
    """i32[], the first size that is enough for all batches; rows: i32[L, B], padded with -1."""
    taken = (tokens[rows] != 0) & (rows >= 0)[..., None]
    most = jnp.max(jnp.sum(taken, axis=(1, 2), dtype=jnp.int32))
    longest = jnp.max(jnp.where(taken, jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.int32), 0))
    return jnp.argmax((jnp.array(sizes, jnp.int32) >= jnp.stack([most, longest])[None]).all(axis=1))


def _alone(function: Callable[..., Lanes]) -> Callable[..., Lanes]:
    """`jax.vmap` over one lane, without it."""

    def of_one(*lanes: Tree) -> Lanes:
        lane = function(*jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[1:]), lanes))
        return jax.tree.map(lambda leaf: leaf[None], lane)

    return of_one


def _client(start: Tree, hyper: Hyper, told: Told, slot: jax.Array) -> Client:
    """The job in a slot; an idle lane has one past the end, and what it is told then has no meaning."""
    people, own = told.participants, partial(_of_slot, slot=slot)
    messages = jax.tree.map(own, told.messages)
    return Client(own(people.rows), own(people.steps), own(people.class_counts), start, messages, hyper)


def _of_slot(leaf: jax.Array, slot: jax.Array) -> jax.Array:
    """Of [P, K, ...]; a slot past the end is clamped."""
    return leaf.reshape(-1, *leaf.shape[2:])[slot]


def _load(trainer: Trainer, lane: Lanes, first: jax.Array, client: Client) -> Lanes:
    """The lane as it was, or at the start of a job where `first` is True."""
    zero = jnp.zeros((), jnp.float32)
    fresh = Lanes(trainer.init(client, lane.state), zero, zero)
    return jax.tree.map(lambda new, old: new if new is old else jnp.where(first, new, old), fresh, lane)


def _job_key(seed: jax.Array, round_: jax.Array, client: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), round_), client)
