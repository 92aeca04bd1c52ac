"""Lanes: the part of the compiled program that trains, one job a lane at a time, on one device.

Axes: P cells, L lanes of this device, B batch, T tokens, N rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_paradox.federated.local import OPTIMIZERS, Objective, local_step, merged, optimizer_of
from fedjax_paradox.federated.packing.schedule import Chunk
from fedjax_paradox.federated.sparse import Table, empty, sparse_step
from fedjax_paradox.federated.types import Client, Hyper, Local, Participants, Tree


class Training(NamedTuple):
    """What is structure in a local update; everything else is data."""

    apply: Callable[..., jax.Array]  # (trainable, frozen, tokens, key[, rates]) -> logits f32[B, C]
    objective: Objective  # numbers of its call -> Local
    optimizer: str  # a key of `OPTIMIZERS`
    table: str | None = None  # the trainable leaf that `sparse_step` trains; needs `is_sparse`
    own: tuple[str, ...] = ()  # the numbers that the objective is called with, in `Hyper.own`
    method: Local = Local()  # what the rule adds to the objective


def half(training: Training, hyper: Hyper) -> Local:
    """The client half of a method: what the rule brings, and the objective of the config."""
    return merged(training.method, training.objective(**hyper.own))


def is_sparse(training: Training) -> bool:
    """Whether rows of a table that a batch does not name can be brought forward in closed form."""
    local = half(training, nothing(training))
    known = local.transform is None or local.pull is not None
    return training.optimizer == "sgd" and known and local.trains is None


def nothing(training: Training) -> Hyper:
    """Hyper-parameters that are all 0, for what depends on structure alone."""
    zero = jnp.zeros((), jnp.float32)
    return Hyper(zero, zero, zero, zero, own=dict.fromkeys(training.own, zero))


def pulled(training: Training, hyper: Hyper) -> Hyper:
    """With the pull of the client half as mu: what `sparse` takes."""
    pull = half(training, hyper).pull
    return hyper._replace(mu=jnp.zeros_like(hyper.mu) if pull is None else pull(hyper))


class Data(NamedTuple):
    """The corpus on the device: train rows first, then test rows."""

    tokens: Any  # i32[N, T]
    labels: Any  # i32[N]


class Lanes(NamedTuple):
    """What each lane is in the middle of."""

    params: Tree  # [L, ...], without the sparse table
    optimizer: Tree  # [L, ...]
    table: Table | None  # [L, ...]
    loss: jax.Array  # f32[L], summed over the rows visited so far
    visited: jax.Array  # f32[L], rows visited so far


class Told(NamedTuple):
    """What the jobs of a round are told before they start."""

    participants: Participants  # [P, K]
    messages: Tree  # [P, K, ...], of the rules; () where they send nothing


def empty_lanes(training: Training, globals_: Tree, num_lanes: int) -> Lanes:
    """Lanes of all devices without a job; globals_: [P, ...], only shapes and types are read."""
    zero = jnp.zeros((), jnp.float32)
    one = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), globals_)
    params, table = parted(training.table, one)
    client = Client(zero, zero, zero, params, (), nothing(training))
    state = _optimizer(training, client).init(params)
    rows = None if table is None else empty(table.shape, table.dtype)

    each = (params, state, rows, zero, zero)
    return Lanes(*jax.tree.map(lambda leaf: jnp.zeros((num_lanes, *leaf.shape), leaf.dtype), each))


def _optimizer(training: Training, client: Client) -> optax.GradientTransformation:
    return optimizer_of(half(training, client.hyper), OPTIMIZERS[training.optimizer], client)


def advance(
    training: Training,
    lanes: Lanes,
    globals_: Tree,
    hyper: Hyper,
    told: Told,
    frozen: Tree,
    data: Data,
    chunk: Chunk,
) -> tuple[Lanes, jax.Array]:
    """Trains every lane for one chunk: a loop over the live steps, each vmapped over lanes.

    At a job's first chunk its lane loads the cell's global leaves and a fresh optimizer state. The number
    of live steps is data, so chunks of any length share one program.

    Args:
      globals_: [P, ...] trainable leaves of every cell; hyper: f32[P]; frozen: shared by all lanes.

    Returns:
      (lanes, i32[] rows trained).
    """
    params, table = parted(training.table, globals_)
    begin, numbers = jax.tree.map(lambda leaf: leaf[chunk.cell], (params, hyper))
    clients = jax.vmap(_client, in_axes=(0, 0, None, 0))(begin, numbers, told, chunk.slot)
    lanes = jax.vmap(partial(_load, training))(lanes, chunk.first, clients)
    keys = jax.vmap(_job_key, in_axes=(0, None, 0))(chunk.seed, chunk.round, chunk.client)
    one_lane = partial(_one_step, training, frozen, data, table)
    each_lane = jax.vmap(one_lane)
    # Models with a table have loops that end where their data do, which under `vmap` they cannot. Others, one alone, do
    # better under it: a MiniLM step takes 6 % longer without.
    if training.table is not None and len(chunk.cell) == 1:
        each_lane = partial(_alone, one_lane)

    def step(number: jax.Array, lanes: Lanes) -> Lanes:
        return each_lane(lanes, clients, keys, chunk.cell, chunk.step + number, chunk.rows[:, number])

    lanes = jax.lax.fori_loop(jnp.zeros((), jnp.int32), chunk.live, step, lanes)
    return lanes, jnp.sum((chunk.rows >= 0).astype(jnp.int32))


def parted(name: str | None, leaves: Tree) -> tuple[Tree, Any]:
    """(the leaves without the sparse table, the table); None where there is none."""
    if name is None:
        return leaves, None
    return {key: leaf for key, leaf in leaves.items() if key != name}, leaves[name]


def _alone(function: Callable[..., Lanes], *lanes: Tree) -> Lanes:
    """`jax.vmap` over one lane, without it."""
    lane = function(*jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[1:]), lanes))
    return jax.tree.map(lambda leaf: leaf[None], lane)


def _client(start: Tree, hyper: Hyper, told: Told, slot: jax.Array) -> Client:
    """The job in a slot; an idle lane has one past the end, and what it is told then has no meaning."""
    people = told.participants

    def own(leaf: jax.Array) -> jax.Array:
        # A slot past the end is clamped.
        return leaf.reshape(-1, *leaf.shape[2:])[slot]

    messages = jax.tree.map(own, told.messages)
    return Client(own(people.rows), own(people.steps), own(people.class_counts), start, messages, hyper)


def _one_step(
    training: Training,
    frozen: Tree,
    data: Data,
    table: jax.Array | None,
    lane: Lanes,
    client: Client,
    key: jax.Array,
    cell: jax.Array,
    done: jax.Array,
    rows: jax.Array,
) -> Lanes:
    """One lane, one step; done: i32[], the job's steps before this one; rows: i32[B]."""
    batch = (data.tokens[rows], data.labels[rows], rows >= 0)
    local, numbers = half(training, client.hyper), client.hyper
    # A model without dropout rates may have an `apply` that takes none.
    rates = {"rates": numbers.rates} if numbers.rates else {}

    def step(state: tuple[Tree, Tree], batch: tuple[jax.Array, jax.Array, jax.Array], begin: Tree) -> tuple:
        return local_step(
            lambda leaves, tokens, key: training.apply(leaves, frozen, tokens, key, **rates),
            local,
            OPTIMIZERS[training.optimizer],
            state,
            batch,
            jax.random.fold_in(key, done),
            client._replace(start=begin),
        )

    state, sparse = (lane.params, lane.optimizer), lane.table
    if training.table is None or table is None or sparse is None:
        state, loss = step(state, batch, client.start)
    else:
        start_rows = lambda ids: table[cell, ids]  # noqa: E731
        state, sparse, loss = sparse_step(
            step, training.table, state, sparse, batch, client.start, start_rows, done, pulled(training, numbers)
        )
    return Lanes(*state, sparse, lane.loss + loss, lane.visited + jnp.sum((rows >= 0).astype(jnp.float32)))


def _load(training: Training, lane: Lanes, first: jax.Array, client: Client) -> Lanes:
    """The lane as it was, or at the start of a job where `first` is True."""
    zero, table = jnp.zeros((), jnp.float32), lane.table
    if table is not None:
        table = table._replace(updated=jnp.zeros_like(table.updated))
    fresh = Lanes(client.start, _optimizer(training, client).init(client.start), table, zero, zero)
    return jax.tree.map(lambda new, old: new if new is old else jnp.where(first, new, old), fresh, lane)


def _job_key(seed: jax.Array, round_: jax.Array, client: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), round_), client)
