"""How a lane trains jobs, and what becomes of those that end: what the packing machine asks of any method.

`dense` is `local.local_step` and a sum of leaves; `sparse.lazy` gives the same numbers for a table of which a batch
names few rows. The machine knows neither. Axes: P cells, K client slots of a cell, J = P * K jobs, L lanes of one
device, D devices, B batch, T tokens, N rows, C classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_paradox.federated.local import Learner, Objective, local_step, merged, optimizer_of
from fedjax_paradox.federated.types import Client, Hyper, Local, Participants, Size, Tree


class Data(NamedTuple):
    """The corpus on the device: train rows first, then test rows."""

    tokens: Any  # i32[N, T]
    labels: Any  # i32[N]


class Told(NamedTuple):
    """What the jobs of a round are told before they start."""

    participants: Participants  # [P, K]
    starts: Tree | None  # [P, K, ...], the leaves that they train from; None: their cell's globals
    messages: Tree  # [P, K, ...], of the rules; () where they send nothing
    weights: Tree | None  # like a cell's leaves, f32[P, K] each, where jobs are summed as they end


class Round(NamedTuple):
    """What all jobs of a round read."""

    globals_: Tree  # [P, ...]
    hyper: Hyper  # f32[P] each
    told: Told
    frozen: Tree
    data: Data


class Work(NamedTuple):
    """One step of one job."""

    cell: jax.Array  # i32[]
    number: jax.Array  # i32[], steps of the job before this one
    rows: jax.Array  # i32[B], rows of the data, padded with -1
    key: jax.Array
    enough: jax.Array | None = None  # i32[], which of the trainer's `sizes` is enough for the batch


class Ended(NamedTuple):
    """A job whose last step is done; i32[] each."""

    lane: jax.Array
    cell: jax.Array
    slot: jax.Array
    steps: jax.Array


class Reducer(NamedTuple):
    """What a round keeps of its jobs, on the device that trained them."""

    # (globals, J, D) -> nothing yet, [D, ...]; of the globals, [P, ...], only shapes and types are read.
    zero: Callable[[Tree, int, int], Tree]
    # (kept [1, ...], states of the lanes [L, ...], round, job) -> (kept with that job, bool[] what came is finite)
    add: Callable[[Tree, Tree, Round, Ended], tuple[Tree, jax.Array]]
    # (kept [D, ...], globals) -> [P, ...] where jobs are summed; [D, J, ...] else
    total: Callable[[Tree, Tree], Tree]


class Trainer(NamedTuple):
    """Functions of one lane; what a lane holds is theirs."""

    start: Callable[[Tree, jax.Array], Tree]  # (globals [P, ...], cell) -> `Client.start`
    empty: Callable[[Tree], Tree]  # globals, of which only shapes and types are read -> state of a lane without a job
    # (client, state that the lane held) -> state before the client's first step. What is handed on as it was held is
    # not written again.
    init: Callable[[Client, Tree], Tree]
    # (round, state, client, work) -> (state, loss of the batch before the step times its rows, f32[])
    step: Callable[[Round, Tree, Client, Work], tuple[Tree, jax.Array]]
    keep: Reducer  # every job's leaves
    sum: Reducer  # their weighted sum in each cell
    # One lane alone is faster without `vmap`: the model has loops that end where their data do, which under it they
    # cannot. Others do better under it: a MiniLM step takes 6 % longer without.
    loops: bool = False
    # What a step may compute, of which it takes the first that is enough; the last is for any batch. (): no choice.
    sizes: tuple[Size, ...] = ()


class Training(NamedTuple):
    """What is structure in a local update; everything else is data."""

    apply: Callable[..., jax.Array]  # (trainable, frozen, tokens, key[, rates]) -> logits f32[B, C]
    objective: Objective  # numbers of its call -> Local
    optimizer: Callable[..., optax.GradientTransformation]  # (hyper, the numbers of its call), as `local.sgd`
    own: tuple[str, ...] = ()  # the numbers that the objective is called with, in `Hyper.own`
    numbers: tuple[str, ...] = ()  # those of the optimizer, in `Hyper.optimizer`
    method: Local = Local()  # what the rule adds to the objective
    sizes: tuple[Size, ...] = ()  # as in `Trainer`


def half(training: Training, hyper: Hyper) -> Local:
    """The client half of a method: what the rule brings, and the objective of the config."""
    return merged(training.method, training.objective(**hyper.own))


def no_numbers(training: Training) -> Hyper:
    """Hyper-parameters that are all 0, for what depends on structure alone."""
    zero = jnp.zeros((), jnp.float32)
    own, numbers = (dict.fromkeys(names, zero) for names in (training.own, training.numbers))
    return Hyper(zero, zero, zero, zero, own=own, optimizer=numbers)


def learner_of(training: Training, hyper: Hyper, frozen: Tree, enough: jax.Array | None = None) -> Learner:
    """What `local_step` needs."""
    # A model without dropout rates may have an `apply` that takes none.
    rates = {"rates": hyper.rates} if hyper.rates else {}

    def apply(leaves: Tree, tokens: jax.Array, key: jax.Array, **places: int) -> jax.Array:
        return training.apply(leaves, frozen, tokens, key, **rates, **places)

    optimizer = partial(training.optimizer, **hyper.optimizer)
    return Learner(apply, half(training, hyper), optimizer, training.sizes if enough is not None else (), enough)


def batch_of(data: Data, work: Work) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(tokens i32[B, T], labels i32[B], mask bool[B]). Where a size is chosen, a masked row has no token."""
    mask, tokens = work.rows >= 0, data.tokens[work.rows]
    return tokens if work.enough is None else jnp.where(mask[:, None], tokens, 0), data.labels[work.rows], mask


def fresh(training: Training, client: Client) -> tuple[Tree, Tree]:
    """(leaves, optimizer state) before a client's first step."""
    return client.start, optimizer_of(learner_of(training, client.hyper, ()), client).init(client.start)


def idle(training: Training, globals_: Tree) -> tuple[Tree, Tree]:
    """(leaves, optimizer state) of a lane without a job, all 0; globals_: [P, ...]."""
    zero = jnp.zeros((), jnp.float32)
    leaves = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), globals_)
    client = Client(zero, zero, zero, leaves, (), no_numbers(training))
    return jax.tree.map(jnp.zeros_like, fresh(training, client))


def dense(training: Training) -> Trainer:
    """Every leaf is stepped and summed; a lane holds (leaves, optimizer state)."""

    def step(round_: Round, state: Tree, client: Client, work: Work) -> tuple[Tree, jax.Array]:
        learner = learner_of(training, client.hyper, round_.frozen, work.enough)
        return local_step(learner, state, batch_of(round_.data, work), work.key, client)

    def leaves(states: Tree, round_: Round, job: Ended) -> Tree:  # noqa: ARG001
        return jax.tree.map(lambda leaf: leaf[job.lane], states[0])

    def add(sums: Tree, states: Tree, round_: Round, job: Ended) -> tuple[Tree, jax.Array]:
        return add_leaves(sums, states[0], round_.told.weights, job)

    return Trainer(
        start=lambda globals_, cell: jax.tree.map(lambda leaf: leaf[cell], globals_),
        empty=partial(idle, training),
        init=lambda client, held: fresh(training, client),  # noqa: ARG005
        step=step,
        keep=keeping(leaves),
        sum=Reducer(zeros_of_cells, add, sum_devices),
        sizes=training.sizes,
    )


def keeping(leaves: Callable[[Tree, Round, Ended], Tree]) -> Reducer:
    """Keeps what `leaves` says of every job: (states of the lanes, round, job) -> leaves."""

    def zero(globals_: Tree, jobs: int, devices: int) -> Tree:
        return jax.tree.map(lambda leaf: jnp.zeros((devices, jobs, *leaf.shape[1:]), leaf.dtype), globals_)

    def add(kept: Tree, states: Tree, round_: Round, job: Ended) -> tuple[Tree, jax.Array]:
        own = leaves(states, round_, job)
        return jax.tree.map(lambda all_, leaf: all_.at[0, job.slot].set(leaf), kept, own), jnp.ones((), bool)

    return Reducer(zero, add, lambda kept, globals_: kept)  # noqa: ARG005


def zeros_of_cells(globals_: Tree, jobs: int, devices: int) -> Tree:  # noqa: ARG001
    """[D, P, ...]"""
    return jax.tree.map(lambda leaf: jnp.zeros((devices, *leaf.shape), leaf.dtype), globals_)


def add_leaves(sums: Tree, leaves: Tree, weights: Tree, job: Ended) -> tuple[Tree, jax.Array]:
    """(sums [1, P, ...] with the job's leaves of [L, ...] times its weights; bool[] what was added is finite).

    A weight of zero adds nothing, whatever the lane holds.
    """
    shares = jax.tree.map(lambda each: each.ravel()[job.slot], weights)
    own = jax.tree.map(lambda w, leaf: jnp.where(w == 0, 0.0, w * leaf[job.lane]), shares, leaves)
    finite = jnp.ones((), bool)
    for leaf in jax.tree.leaves(own):
        finite &= jnp.all(jnp.isfinite(leaf))
    return jax.tree.map(lambda sum_, leaf: sum_.at[0, job.cell].add(leaf.astype(sum_.dtype)), sums, own), finite


def sum_devices(sums: Tree, globals_: Tree) -> Tree:  # noqa: ARG001
    """[P, ...] of [D, P, ...]."""
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), sums)
