"""An embedding table trained at the cost of the rows that batches name: `sparse` as a trainer and its reducers.

Axes as in `trainer`; V words, E embedding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_paradox.federated import sparse
from fedjax_paradox.federated.local import local_step, sgd
from fedjax_paradox.federated.trainer import (
    Ended,
    Reducer,
    Round,
    Trainer,
    Training,
    Work,
    add_leaves,
    batch_of,
    dense,
    fresh,
    half,
    idle,
    keeping,
    learner_of,
    no_numbers,
    zeros_of_cells,
)
from fedjax_paradox.federated.types import Client, Hyper, Tree


def trainer_of(training: Training, table: str | None) -> Trainer:
    """`lazy` where the model has a table and rows that a batch does not name can be brought forward in closed form:
    under plain SGD, with no transform of gradients but a pull towards the start. Else `dense`."""
    local = half(training, no_numbers(training))
    known = local.transform is None or local.pull is not None
    if table is None or training.optimizer is not sgd or not known or local.trains is not None:
        return dense(training)
    return lazy(training, table)


def lazy(training: Training, name: str) -> Trainer:
    """`dense` up to float rounding, at the cost of the rows of leaf `name` that batches name.

    A lane holds (leaves, optimizer state, `sparse.Table`); `Client.start` is without the table, of which steps read the
    rows that they need from the round's globals.
    """

    def init(client: Client, held: Tree) -> Tree:
        return (*fresh(training, client), held[2]._replace(updated=jnp.zeros_like(held[2].updated)))

    def empty(globals_: Tree) -> Tree:
        rest, table = split(name, globals_)
        return (*idle(training, rest), sparse.empty(table.shape[1:], table.dtype))

    def step(round_: Round, state: Tree, client: Client, work: Work) -> tuple[Tree, jax.Array]:
        origin = sparse.Origin(name, round_.globals_[name], work.cell, pulled(training, client.hyper))
        learner = learner_of(training, client.hyper, round_.frozen, work.enough)

        def named(state: Tree, batch: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
            return local_step(learner, state, batch, work.key, client._replace(start={**client.start, name: rows}))

        return sparse.sparse_step(named, state, batch_of(round_.data, work), origin, work.number)

    def origin_of(round_: Round, job: Ended) -> sparse.Origin:
        hyper = pulled(training, jax.tree.map(lambda leaf: leaf[job.cell], round_.hyper))
        return sparse.Origin(name, round_.globals_[name], job.cell, hyper)

    def leaves(states: Tree, round_: Round, job: Ended) -> Tree:
        own, table = jax.tree.map(lambda leaf: leaf[job.lane], (states[0], states[2]))
        start, hyper = round_.globals_[name][job.cell], origin_of(round_, job).hyper
        return {**own, name: sparse.finish(table, start, job.steps, hyper)}

    return Trainer(
        start=lambda globals_, cell: jax.tree.map(lambda leaf: leaf[cell], split(name, globals_)[0]),
        empty=empty,
        init=init,
        step=step,
        keep=keeping(leaves),
        sum=_summing(name, origin_of),
        loops=True,
        sizes=training.sizes,
    )


def _summing(name: str, origin_of: Callable[[Round, Ended], sparse.Origin]) -> Reducer:
    """The sum of cells' jobs, that of the table as a `sparse.Sum`."""

    def zero(globals_: Tree, jobs: int, devices: int) -> Tree:
        sums = zeros_of_cells(globals_, jobs, devices)
        return {**sums, name: sparse.Sum(jnp.zeros(sums[name].shape[:2], sums[name].dtype), sums[name])}

    def add_job(sums: Tree, states: Tree, round_: Round, job: Ended) -> tuple[Tree, jax.Array]:
        (rest, table), (weights, own) = split(name, sums), split(name, round_.told.weights)
        rest, finite = add_leaves(rest, states[0], weights, job)
        here = jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[1:]), table)
        share = own.ravel()[job.slot]
        here, rows_finite = sparse.add(here, share, states[2], origin_of(round_, job), job)
        return {**rest, name: jax.tree.map(lambda leaf: leaf[None], here)}, finite & rows_finite

    def total_leaves(sums: Tree, globals_: Tree) -> Tree:
        rest, table = split(name, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), sums))
        return {**rest, name: jax.vmap(sparse.total)(table, globals_[name])}

    return Reducer(zero, add_job, total_leaves)


def split(name: str, leaves: Tree) -> tuple[Tree, Any]:
    """(the leaves without one, that one)."""
    return {key: leaf for key, leaf in leaves.items() if key != name}, leaves[name]


def pulled(training: Training, hyper: Hyper) -> Hyper:
    """With the pull of the client half as mu."""
    pull = half(training, hyper).pull
    return hyper._replace(mu=jnp.zeros_like(hyper.mu) if pull is None else pull(hyper))
