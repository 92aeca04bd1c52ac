"""What the finished jobs of a round leave behind: every job's leaves, or one weighted sum of them for each cell.

A sum takes the memory of P cells in place of P * K jobs. It is there where every rule of the program gives its weights
`ahead`. Axes: D devices, P cells, K client slots of a cell, J = P * K jobs, L lanes of this device.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_paradox.federated.packing.lanes import Lanes
from fedjax_paradox.federated.packing.schedule import Segment
from fedjax_paradox.federated.trainer import Ended, Reducer, Round
from fedjax_paradox.federated.types import Tree


class JobResults(NamedTuple):
    """The finished jobs of a round, on the device that trained them."""

    leaves: Tree  # [D, ...], of the reducer
    loss: jax.Array  # f32[D, J], mean training loss; NaN where what was summed is not finite


def empty_results(reducer: Reducer, globals_: Tree, num_jobs: int, num_devices: int) -> JobResults:
    """Room for a round; globals_: [P, ...], only shapes and types are read."""
    return JobResults(reducer.zero(globals_, num_jobs, num_devices), jnp.zeros((num_devices, num_jobs), jnp.float32))


def store(reducer: Reducer, results: JobResults, lanes: Lanes, round_: Round, segment: Segment) -> JobResults:
    """Adds the lanes whose job ended with `segment`, one after the other.

    Args:
      results: this device's, [1, ...].
    """
    ended = jnp.argsort(~segment.last)

    def one(number: jax.Array, results: JobResults) -> JobResults:
        lane = ended[number]
        job = Ended(lane, segment.cell[lane], segment.slot[lane], segment.step[lane] + segment.live)
        loss = lanes.loss[lane] / jnp.maximum(lanes.visited[lane], 1.0)
        leaves, finite = reducer.add(results.leaves, lanes.state, round_, job)
        return JobResults(leaves, results.loss.at[0, job.slot].set(jnp.where(finite, loss, jnp.nan)))

    return jax.lax.fori_loop(0, jnp.sum(segment.last.astype(jnp.int32)), one, results)


def by_slot(leaf: jax.Array, device: jax.Array) -> jax.Array:
    """[P, K, ...], every slot from the device that filled it; leaf: [D, P * K, ...]."""
    if len(leaf) == 1:
        return leaf.reshape(*device.shape, *leaf.shape[2:])
    each = leaf.reshape(len(leaf), *device.shape, *leaf.shape[2:])
    cell, slot = (jnp.arange(length) for length in device.shape)
    return each[device, cell[:, None], slot[None]]
