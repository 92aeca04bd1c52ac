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

    weights(participants, global_) -> a tree like `global_` of f32[K], is for a rule that reads the leaves through
    their weighted sum alone, with weights known before training: `aggregate` must make of one client that holds this
    sum what it makes of all clients. Then no client's leaves need be kept; without it they all are.
    """

    init: Callable[[Tree], Tree]
    aggregate: Callable[[Updates, Tree], tuple[Tree, Tree]]
    weights: Callable[[Participants, Tree], Tree] | None = None
