"""The records that the federated room shares.

Axes: P cells of one program, K client slots of a cell, C classes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

Tree = Any
"""A nested dict of arrays."""
Diagnostics = Mapping[str, jax.Array]


class Size(NamedTuple):
    """What is computed of a batch."""

    tokens: int  # token places in all
    length: int  # of each row the first so many places


class Hyper(NamedTuple):
    """Local hyper-parameters as data: scalars inside a step, f32[P] for a program. `rates`: the dropout rates that the
    model's `apply` takes, by name; `own` and `optimizer`: the numbers that the calls of `local.objective` and
    `local.optimizer` name."""

    learning_rate: Any
    momentum: Any
    weight_decay: Any
    mu: Any
    rates: Mapping[str, Any] = {}
    own: Mapping[str, Any] = {}
    optimizer: Mapping[str, Any] = {}


class Client(NamedTuple):
    """One job as its own local code sees it; a scalar here is one of every lane."""

    rows: Any  # f32[], train rows n_k
    steps: Any  # f32[], steps of this local update
    class_counts: Any  # f32[C], train rows of each class
    start: Tree  # the leaves that it starts from; without the table where that is trained sparsely
    message: Tree  # what the rule sent it; () where it sends nothing
    hyper: Hyper


class Local(NamedTuple):
    """The client half of a method; what is None is as in FedAvg."""

    # (logits f32[B, C], labels i32[B], client) -> f32[B]; it sees no leaves, so that a table stays sparse.
    loss: Callable[[jax.Array, jax.Array, Client], jax.Array] | None = None
    # (losses f32[B], mask bool[B], client) -> f32[], the mean of the rows where `mask` is True by default.
    reduce: Callable[[jax.Array, jax.Array, Client], jax.Array] | None = None
    # What is done to gradients before the optimizer sees them: a proximal pull, a correction of drift.
    transform: Callable[[Client], optax.GradientTransformation] | None = None
    # hyper -> f32[], the pull of `transform` towards the start, where it is nothing but that: rows of a table that no
    # batch names are then brought forward in closed form. None with a `transform`: the table is trained densely.
    pull: Callable[[Hyper], jax.Array] | None = None
    # Key path of a leaf -> whether it is trained at all; all are by default.
    trains: Callable[[tuple], bool] | None = None


class Participants(NamedTuple):
    """Who takes part in one round, known before any of them trains: f32[P, K] and so on for a program, without P
    where one cell's rule is asked. Slots without a client have `mask` False."""

    # i32[P, K], which clients, for rules that keep a state of each: state.at[client].set(...). In a slot without a
    # client it lies past the end of any state, where JAX drops what is written.
    client: Any
    rows: Any  # f32[P, K], train rows n_k
    class_counts: Any  # f32[P, K, C], train rows of each class
    mask: Any  # bool[P, K], the slot holds a participating client
    steps: Any  # f32[P, K], steps of the local update
    device: Any  # i32[P, K], which device trains the job
    start_loss: Any = None  # f32[P, K], mean loss of the incoming model on a client's train rows, where a rule needs it


class Updates(NamedTuple):
    """What a rule may look at: one cell's local results of one round. What stands in slots without a client has no
    meaning. The first fields are those of `Participants`."""

    client: jax.Array
    rows: jax.Array
    class_counts: jax.Array
    mask: jax.Array
    steps: jax.Array
    start_loss: Any
    start: Tree  # [...], the global leaves before the round
    leaves: Tree  # [K, ...], the clients' trained leaves; None where all rules have weights that are known `ahead`
    weighted: Tree  # [...], sum_k w_k leaves_k by the rule's `weights`; None for a rule without
    loss: jax.Array  # f32[K], mean training loss over the rows that the local update visited
    hyper: Hyper  # f32[] each


class Rule(NamedTuple):
    """The server half of a method: pure functions, like `optax.GradientTransformation`.

    init(globals) -> state; aggregate(updates, state) -> (next globals, next state, diagnostics). The last are what a
    researcher would look at, f32[] or f32[K] by name, {} where there is nothing.

    weights(updates, globals, state) -> a tree like `globals` of f32[K], NaN at a client that cannot be weighed: the
    rule then finds the clients' leaves summed with these weights in `updates.weighted`. A weight that is negative or
    not finite stops the run and names the client. With `ahead`, `weights` reads what `Participants` has and no more:
    clients are then added up as they finish, and nothing of them is kept.

    send(globals, state, participants) -> Tree [K, ...], what each client is told; start, likewise, the leaves that it
    trains from, where those are not the globals; local: what it does with both, beside the objective of the config.
    serve(globals, state) -> leaves [num_clients, ...], the model that each client is scored with, where it is its own.
    jobs: local updates of each participant, on the same batches, in slots side by side; K counts them all.
    needs_start_loss: the incoming model's loss on every participant's train rows is asked.
    pooled: a round is one job on the rows of all clients, whatever they hold and whoever would be sampled.
    owns_kernels: the frozen kernels that adapters are added to are leaves of each cell, named `base_kernel`.
    """

    init: Callable[[Tree], Tree]
    aggregate: Callable[[Updates, Tree], tuple[Tree, Tree, Diagnostics]]
    weights: Callable[[Any, Tree, Tree], Tree] | None = None
    ahead: bool = False
    send: Callable[[Tree, Tree, Participants], Tree] | None = None
    start: Callable[[Tree, Tree, Participants], Tree] | None = None
    local: Local | None = None
    serve: Callable[[Tree, Tree], Tree] | None = None
    jobs: int = 1
    needs_start_loss: bool = False
    pooled: bool = False
    owns_kernels: bool = False


class Outcome(NamedTuple):
    """What the host must know of a round's aggregation: f32[P, K] and so on."""

    loss: jax.Array  # f32[P, K], mean training loss; NaN for a job whose leaves are not finite
    finite: jax.Array  # bool[P], the cell went on; where not, its leaves and its rule's state are as before the round
    unweighable: jax.Array  # bool[P, K], the rule's weight of the client is negative or not finite
    diagnostics: Diagnostics  # f32[P] or f32[P, K], of the rules; NaN for a cell whose rule has none so named
