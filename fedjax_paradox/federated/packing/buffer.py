"""What the finished jobs of a round leave behind: every job's leaves, or one weighted sum of them for each cell.

A sum takes the memory of P cells in place of P * K jobs, and of an embedding table only the rows that a job named
are visited. It is there where every rule of the program gives its weights `ahead`. Axes: D devices, P cells, K client
slots of a cell, J = P * K jobs, L lanes of this device.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_paradox.federated.packing.lanes import Lanes, Training, parted, pulled
from fedjax_paradox.federated.packing.schedule import Chunk
from fedjax_paradox.federated.sparse import Sum, add, finish, total
from fedjax_paradox.federated.types import Hyper, Tree


class Results(NamedTuple):
    """The finished jobs of a round, on the device that trained them."""

    leaves: Tree  # [D, J, ...], or [D, P, ...] where they are summed, a sparse table then as a `Sum`
    loss: jax.Array  # f32[D, J], mean training loss; NaN where what was summed is not finite


def empty_results(training: Training, globals_: Tree, num_jobs: int, num_devices: int, summed: bool) -> Results:
    """Room for a round; globals_: [P, ...], only shapes and types are read."""
    (num_cells,) = {leaf.shape[0] for leaf in jax.tree.leaves(globals_)}
    rows = num_cells if summed else num_jobs
    leaves = jax.tree.map(lambda leaf: jnp.zeros((num_devices, rows, *leaf.shape[1:]), leaf.dtype), globals_)
    if summed and training.table is not None:
        table = leaves[training.table]
        leaves = {**leaves, training.table: Sum(jnp.zeros(table.shape[:2], table.dtype), table)}
    return Results(leaves, jnp.zeros((num_devices, num_jobs), jnp.float32))


def store(
    training: Training,
    results: Results,
    lanes: Lanes,
    globals_: Tree,
    hyper: Hyper,
    weights: Tree | None,
    chunk: Chunk,
) -> Results:
    """Takes over the leaves of the lanes whose job ended with `chunk`, one after the other.

    Args:
      results: this device's, [1, ...].
      weights: like a cell's leaves, f32[P, K] each, where the results are sums; else None.
    """
    ended = jnp.argsort(~chunk.last)

    def one(number: jax.Array, results: Results) -> Results:
        lane = ended[number]
        cell, slot, steps = chunk.cell[lane], chunk.slot[lane], chunk.step[lane] + chunk.live
        job = _Job(lane, cell, slot, steps, pulled(training, jax.tree.map(lambda leaf: leaf[cell], hyper)))
        loss = lanes.loss[lane] / jnp.maximum(lanes.visited[lane], 1.0)
        if weights is None:
            leaves = _kept(training, results.leaves, lanes, globals_, job)
        else:
            shares = jax.tree.map(lambda each: each.ravel()[slot], weights)
            leaves, finite = _added(training, results.leaves, lanes, globals_, job, shares)
            loss = jnp.where(finite, loss, jnp.nan)
        return Results(leaves, results.loss.at[0, slot].set(loss))

    return jax.lax.fori_loop(0, jnp.sum(chunk.last.astype(jnp.int32)), one, results)


class _Job(NamedTuple):
    """One that has ended; i32[] each."""

    lane: jax.Array
    cell: jax.Array
    slot: jax.Array
    steps: jax.Array
    hyper: Hyper  # f32[] each


def _kept(training: Training, leaves: Tree, lanes: Lanes, globals_: Tree, job: _Job) -> Tree:
    """The kept leaves, the job's among them."""
    own, table = jax.tree.map(lambda leaf: leaf[job.lane], (lanes.params, lanes.table))
    if training.table is not None:
        start = globals_[training.table][job.cell]
        own = {**own, training.table: finish(table, start, job.steps, job.hyper)}
    return jax.tree.map(lambda all_, leaf: all_.at[0, job.slot].set(leaf), leaves, own)


def _added(
    training: Training, leaves: Tree, lanes: Lanes, globals_: Tree, job: _Job, shares: Tree
) -> tuple[Tree, jax.Array]:
    """(the sums, the job's leaves among them; bool[] what was added is finite).

    A share of zero adds nothing, whatever the lane holds.
    """
    sums, table = parted(training.table, leaves)
    shares, table_share = parted(training.table, shares)
    own = jax.tree.map(lambda w, leaf: jnp.where(w == 0, 0.0, w * leaf[job.lane]), shares, lanes.params)
    finite = jnp.ones((), bool)
    for leaf in jax.tree.leaves(own):
        finite &= jnp.all(jnp.isfinite(leaf))
    sums = jax.tree.map(lambda sum_, leaf: sum_.at[0, job.cell].add(leaf.astype(sum_.dtype)), sums, own)
    if training.table is None or lanes.table is None:
        return sums, finite
    here, start = jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[1:]), table), globals_[training.table]
    here, rows_finite = add(here, job.cell, table_share, lanes.table, job.lane, start, job.steps, job.hyper)
    return {**sums, training.table: jax.tree.map(lambda leaf: leaf[None], here)}, finite & rows_finite


def summed_leaves(training: Training, globals_: Tree, results: Results) -> Tree:
    """The sums of the cells' clients, [P, ...], of results that are sums; over all devices."""
    sums, table = parted(training.table, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), results.leaves))
    if training.table is None:
        return sums
    return {**sums, training.table: jax.vmap(total)(table, globals_[training.table])}


def by_slot(leaf: jax.Array, device: jax.Array) -> jax.Array:
    """[P, K, ...], every slot from the device that filled it; leaf: [D, P * K, ...]."""
    if len(leaf) == 1:
        return leaf.reshape(*device.shape, *leaf.shape[2:])
    each = leaf.reshape(len(leaf), *device.shape, *leaf.shape[2:])
    cell, slot = (jnp.arange(length) for length in device.shape)
    return each[device, cell[:, None], slot[None]]
