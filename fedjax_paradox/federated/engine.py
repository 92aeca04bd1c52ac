"""Advance, aggregate, predict: the three device programs of a sweep.

All cells that share a model shape and a corpus go through one `Engine`. Its functions are compiled once;
hyper-parameters, partitions, seeds and schedules are their data. Axes: P cells, K client slots of a cell,
J = P * K rows of the result buffer, L lanes, B batch, T tokens, N rows, C classes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_paradox.federated.local import OPTIMIZERS, Objective, local_step
from fedjax_paradox.federated.schedule import Chunk
from fedjax_paradox.federated.types import Hyper, Rule, Tree, Updates

Apply = Callable[..., jax.Array]


class Data(NamedTuple):
    """The corpus on the device: train rows first, then test rows."""

    tokens: jax.Array  # i32[N, T]
    labels: jax.Array  # i32[N]


class Lanes(NamedTuple):
    """What each lane is in the middle of."""

    params: Tree  # [L, ...]
    optimizer: Tree  # [L, ...]
    loss: jax.Array  # f32[L], summed over the rows visited so far
    visited: jax.Array  # f32[L], rows visited so far


class Results(NamedTuple):
    """The finished jobs of a round; every job of the round overwrites its row."""

    leaves: Tree  # [J, ...]
    loss: jax.Array  # f32[J], mean training loss


class RuleGroup(NamedTuple):
    """The cells of a program that share a rule up to its hyper-parameters."""

    build: Callable[..., Rule]  # hyper-parameters as keywords -> Rule
    cells: np.ndarray  # i[G], which cells
    hyper: dict[str, np.ndarray]  # f32[G] each


class Participants(NamedTuple):
    """Who fills the slots of the result buffer in one round."""

    rows: Any  # f32[P, K], train rows
    class_counts: Any  # f32[P, K, C]
    mask: Any  # bool[P, K]


class Engine(NamedTuple):
    """Compiled functions of one program; see the functions of the same names below."""

    start: Callable[[Tree, int, int], tuple[Lanes, Results]]
    advance: Callable[..., tuple[Lanes, Results, jax.Array]]
    init_rules: Callable[[Tree], tuple[Tree, ...]]
    aggregate: Callable[..., tuple[Tree, tuple[Tree, ...]]]
    predict: Callable[..., jax.Array]


def build_engine(apply: Apply, objective: Objective, optimizer: str, groups: Sequence[RuleGroup]) -> Engine:
    """Binds what is structure and compiles on first use; everything else is an argument.

    Args:
      apply: (trainable, frozen, tokens, key) -> logits f32[B, C].
      optimizer: a key of `OPTIMIZERS`.
      groups: together they hold every cell of the program once.
    """
    return Engine(
        start=partial(start, optimizer),
        advance=jax.jit(partial(advance, apply, objective, optimizer), donate_argnums=(0, 1)),
        init_rules=jax.jit(partial(init_rules, groups)),
        aggregate=jax.jit(partial(aggregate, groups)),
        predict=jax.jit(partial(predict, apply)),
    )


def start(optimizer: str, globals_: Tree, num_lanes: int, num_slots: int) -> tuple[Lanes, Results]:
    """Empty lanes and an empty result buffer for `advance`.

    Args:
      globals_: [P, ...], only shapes and types are read.
      num_slots: J.
    """
    zero = jnp.zeros((), jnp.float32)
    one = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), globals_)
    state = OPTIMIZERS[optimizer](Hyper(zero, zero, zero, zero)).init(one)

    def repeated(tree: Tree, times: int) -> Tree:
        return jax.tree.map(lambda leaf: jnp.zeros((times, *leaf.shape), leaf.dtype), tree)

    lanes = Lanes(*(repeated(part, num_lanes) for part in (one, state, zero, zero)))
    return lanes, Results(repeated(one, num_slots), repeated(zero, num_slots))


def advance(
    apply: Apply,
    objective: Objective,
    optimizer: str,
    lanes: Lanes,
    results: Results,
    globals_: Tree,
    hyper: Hyper,
    frozen: Tree,
    data: Data,
    chunk: Chunk,
) -> tuple[Lanes, Results, jax.Array]:
    """Trains every lane for one chunk: a loop over the live steps, each vmapped over lanes.

    At a job's first chunk its lane loads the cell's global leaves and a fresh optimizer state; at its
    last one the trained leaves go to the job's row of `results`. `lanes` and `results` are donated.
    The number of live steps is data, so chunks of any length share one program.

    Args:
      globals_: [P, ...] trainable leaves of every cell; hyper: f32[P]; frozen: shared by all lanes.

    Returns:
      (lanes, results, i32[] rows trained). A job whose leaves are not finite gets the loss NaN.
    """
    begin, numbers = jax.tree.map(lambda leaf: leaf[chunk.cell], (globals_, hyper))
    lanes = jax.vmap(partial(_load, optimizer))(lanes, chunk.first, begin, numbers)
    keys = jax.vmap(_job_key, in_axes=(0, None, 0))(chunk.seed, chunk.round, chunk.client)

    def one_lane(lane: Lanes, begin: Tree, numbers: Hyper, key: jax.Array, rows: jax.Array) -> Lanes:
        (params, state), loss = local_step(
            lambda leaves, tokens, key: apply(leaves, frozen, tokens, key),
            objective,
            OPTIMIZERS[optimizer],
            (lane.params, lane.optimizer),
            (data.tokens[rows], data.labels[rows], rows >= 0),
            key,
            begin,
            numbers,
        )
        return Lanes(params, state, lane.loss + loss, lane.visited + jnp.sum((rows >= 0).astype(jnp.float32)))

    def step(number: jax.Array, lanes: Lanes) -> Lanes:
        step_keys = jax.vmap(jax.random.fold_in)(keys, chunk.step + number)
        return jax.vmap(one_lane)(lanes, begin, numbers, step_keys, chunk.rows[:, number])

    lanes = jax.lax.fori_loop(jnp.zeros((), jnp.int32), chunk.live, step, lanes)
    loss = lanes.loss / jnp.maximum(lanes.visited, 1.0)
    finished = Results(lanes.params, jnp.where(_finite(lanes.params), loss, jnp.nan))
    row = jnp.where(chunk.last, chunk.slot, results.loss.shape[0])
    results = jax.tree.map(lambda buffer, new: buffer.at[row].set(new, mode="drop"), results, finished)
    return lanes, results, jnp.sum((chunk.rows >= 0).astype(jnp.int32))


def _finite(leaves: Tree) -> jax.Array:
    """bool[L], every number of the lane's leaves is finite."""
    each = [jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(leaves)]
    return jnp.all(jnp.stack(each), axis=0)


def _load(optimizer: str, lane: Lanes, first: jax.Array, begin: Tree, hyper: Hyper) -> Lanes:
    """The lane as it was, or at the start of a job where `first` is True."""
    zero = jnp.zeros((), jnp.float32)
    fresh = Lanes(begin, OPTIMIZERS[optimizer](hyper).init(begin), zero, zero)
    return jax.tree.map(lambda new, old: jnp.where(first, new, old), fresh, lane)


def _job_key(seed: jax.Array, round_: jax.Array, client: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), round_), client)


def init_rules(groups: Sequence[RuleGroup], globals_: Tree) -> tuple[Tree, ...]:
    """Every rule's state before round 1, one entry a group, cells along the first axis."""

    def init(group: RuleGroup) -> Tree:
        members = jax.tree.map(lambda leaf: leaf[group.cells], globals_)
        return jax.vmap(lambda global_, hyper: group.build(**hyper).init(global_))(members, _traced(group))

    return tuple(map(init, groups))


def aggregate(
    groups: Sequence[RuleGroup],
    globals_: Tree,
    states: tuple[Tree, ...],
    results: Results,
    participants: Participants,
) -> tuple[Tree, tuple[Tree, ...]]:
    """Every cell's rule on its clients' results; cells of one rule are vmapped.

    Returns:
      (next globals [P, ...], next rule states).
    """
    slots = participants.mask.shape
    leaves, loss = jax.tree.map(lambda leaf: leaf.reshape(*slots, *leaf.shape[1:]), results)
    updates = Updates(globals_, leaves, participants.rows, loss, participants.class_counts, participants.mask)
    next_states = []
    for group, state in zip(groups, states, strict=True):
        members = jax.tree.map(lambda leaf, cells=group.cells: leaf[cells], updates)

        def one(updates: Updates, state: Tree, hyper: dict, build: Callable[..., Rule] = group.build) -> tuple:
            return build(**hyper).aggregate(updates, state)

        new, state = jax.vmap(one)(members, state, _traced(group))
        globals_ = jax.tree.map(lambda old, new, cells=group.cells: old.at[cells].set(new), globals_, new)
        next_states.append(state)
    return globals_, tuple(next_states)


def _traced(group: RuleGroup) -> dict[str, jax.Array]:
    return {name: jnp.asarray(values, jnp.float32) for name, values in group.hyper.items()}


def predict(apply: Apply, globals_: Tree, frozen: Tree, tokens: jax.Array, rows: jax.Array) -> jax.Array:
    """Every cell's predicted class of the given rows, dropout off.

    Args:
      tokens: i32[N, T]; rows: i32[batches, B], rows of `tokens`.

    Returns:
      i32[batches, P, B].
    """

    def batch(rows: jax.Array) -> jax.Array:
        logits = jax.vmap(lambda leaves: apply(leaves, frozen, tokens[rows], None))(globals_)
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    return jax.lax.map(batch, rows)
