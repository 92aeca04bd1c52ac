"""The records that the federated room shares.

Axes: P cells of one program, K client slots of a cell, C classes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Tree = Any
"""A nested dict of arrays."""


class Hyper(NamedTuple):
    """Local hyper-parameters as data: scalars inside a step, f32[P] for a program. `rates`: the dropout
    rates that the model's `apply` takes, by name; empty where it takes none."""

    learning_rate: jax.Array
    momentum: jax.Array
    weight_decay: jax.Array
    mu: jax.Array
    rates: Mapping[str, jax.Array] = {}


class Participants(NamedTuple):
    """Who takes part in one round, known before any of them trains: f32[P, K] and so on for a program, without P
    where one cell's rule is asked. Slots without a client have `mask` False."""

    client: Any  # i32[P, K]
    rows: Any  # f32[P, K], train rows n_k
    class_counts: Any  # f32[P, K, C], train rows of each class
    mask: Any  # bool[P, K]
    device: Any  # i32[P, K], which device trains the job


class Updates(NamedTuple):
    """What a rule may look at: one cell's local results of one round. Slots without a client have
    `mask` False, and what stands in their other entries has no meaning."""

    start: Tree  # [...], the global leaves that the clients started from
    leaves: Tree  # [K, ...], the clients' trained leaves
    # i32[K], which clients, for rules that keep a state of each: state.at[client].set(...). In a slot without a
    # client it lies past the end of any state, where JAX drops what is written.
    client: jax.Array
    rows: jax.Array  # f32[K], train rows n_k
    loss: jax.Array  # f32[K], mean training loss over the rows that the local update visited
    class_counts: jax.Array  # f32[K, C], train rows of each class
    mask: jax.Array  # bool[K], the slot holds a participating client


class Rule(NamedTuple):
    """An aggregation rule: pure functions, like `optax.GradientTransformation`.

    init(global_) -> state; aggregate(updates, state) -> (next global_, next state).

    weights(updates, global_) -> a tree like `global_` of f32[K], NaN at a client that cannot be weighed, is for a rule
    without state whose next leaves are the clients' leaves summed with these weights: a weight that is not finite or
    is negative then stops the run and names the client. With `ahead`, it reads what `Participants` has and no more:
    clients are then added up as they finish, and `aggregate` is not asked.
    """

    init: Callable[[Tree], Tree]
    aggregate: Callable[[Updates, Tree], tuple[Tree, Tree]]
    weights: Callable[[Any, Tree], Tree] | None = None
    ahead: bool = False


class Outcome(NamedTuple):
    """What the host must know of a round's aggregation: f32[P, K] and so on."""

    loss: jax.Array  # f32[P, K], mean training loss; NaN for a job whose leaves are not finite
    finite: jax.Array  # bool[P], the cell went on; where not, its leaves and its rule's state are as before the round
    unweighable: jax.Array  # bool[P, K], the rule's weight of the client is negative or not finite
