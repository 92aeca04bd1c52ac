"""A client's local update, step by step, as pure functions of one lane.

A local objective is a `Local`; `local_step` is one step of it. Everything that is a number may be traced, so that it is
data: the optimizer is built from hyper-parameters, an objective from the numbers of its call in the config.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_paradox.federated.types import Client, Hyper, Local, Size, Tree

Number = float | jax.Array
Objective = Callable[..., Local]  # of the numbers of its call
Optimizer = Callable[[Hyper], optax.GradientTransformation]


class Learner(NamedTuple):
    """What a client trains, what it minimises, and how."""

    apply: Callable[..., jax.Array]  # (params, tokens, key[, places]) -> logits f32[B, C]
    local: Local
    optimizer: Optimizer
    sizes: tuple[Size, ...] = ()  # among which `apply` has the choice, if any
    enough: jax.Array | None = None  # i32[], which of them is enough for the batch


def masked_mean(losses: jax.Array, mask: jax.Array) -> jax.Array:
    """f32[], the mean of f32[B] over the rows where `mask` is True; 0 where there is none.

    A masked row gives neither value nor gradient, whatever stands in it.
    """
    return jnp.sum(jnp.where(mask, losses, 0.0)) / jnp.maximum(jnp.sum(mask.astype(jnp.float32)), 1.0)


def masked_cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean cross-entropy over the rows where `mask` is True; 0 where there is none.

    Args:
      logits: f32[B, C]; labels: i32[B]; mask: bool[B].

    Returns:
      f32[].
    """
    return masked_mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels), mask)


def sgd(hyper: Hyper) -> optax.GradientTransformation:
    """PyTorch's SGD: buffer = momentum * buffer + (gradient + weight_decay * w); w -= lr * buffer."""
    return optax.chain(
        optax.add_decayed_weights(hyper.weight_decay),
        optax.trace(decay=hyper.momentum),
        optax.scale_by_learning_rate(hyper.learning_rate),
    )


def adamw(hyper: Hyper, b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-8) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter, 2019, alg. 2), as in PyTorch."""
    return optax.adamw(hyper.learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=hyper.weight_decay)


# Name in the config -> function of the hyper-parameters and of the numbers of its call.
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"sgd": sgd, "adamw": adamw}


def merged(one: Local, other: Local) -> Local:
    """Two client halves as one: gradients go through both transforms, `one` decides where both have a say."""
    halves = [half.transform for half in (one, other) if half.transform is not None]

    def transform(client: Client) -> optax.GradientTransformation:
        return optax.chain(*(half(client) for half in halves))

    alone = other.pull if one.transform is None else one.pull if other.transform is None else None
    first = {name: mine if mine is not None else getattr(other, name) for name, mine in one._asdict().items()}
    return Local(**{**first, "transform": transform if halves else None, "pull": alone})


def local_step(
    learner: Learner,
    state: tuple[Tree, Tree],
    batch: tuple[jax.Array, jax.Array, jax.Array],
    key: jax.Array,
    client: Client,
) -> tuple[tuple[Tree, Tree], jax.Array]:
    """One optimizer step; a step whose rows are all masked leaves the state as it is, to the bit.

    Args:
      state: (trainable leaves, state of `optimizer_of(learner, client)`).
      batch: tokens i32[B, T], labels i32[B], mask bool[B].

    Returns:
      (state, loss of the batch before the step times its rows, f32[]).
    """
    (params, optimizer_state), (tokens, labels, mask), local = state, batch, learner.local

    def held(path: tuple, leaf: jax.Array) -> jax.Array:
        # Zero gradients that are never computed.
        return leaf if local.trains is None or local.trains(path) else jax.lax.stop_gradient(leaf)

    def total(leaves: Tree, size: Size | None = None) -> jax.Array:
        leaves = jax.tree_util.tree_map_with_path(held, leaves) if local.trains else leaves
        if size is None:
            logits = learner.apply(leaves, tokens, key)
        else:
            logits = learner.apply(leaves, tokens[:, : size.length], key, places=size.tokens)
        if local.loss is None:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        else:
            losses = local.loss(logits, labels, client)
        return masked_mean(losses, mask) if local.reduce is None else local.reduce(losses, mask, client)

    loss, gradients = _value_and_grad(total, learner, params)
    updates, next_state = optimizer_of(learner, client).update(gradients, optimizer_state, params)
    if local.trains is not None:
        keeps = local.trains
        updates = jax.tree_util.tree_map_with_path(lambda path, u: u if keeps(path) else jnp.zeros_like(u), updates)
    stepped = (optax.apply_updates(params, updates), next_state)
    live = jnp.any(mask)
    kept = jax.tree.map(lambda new, old: jnp.where(live, new, old), stepped, state)
    return kept, loss * jnp.sum(mask.astype(jnp.float32))


def _value_and_grad(total: Callable[..., jax.Array], learner: Learner, params: Tree) -> tuple[jax.Array, Tree]:
    if not learner.sizes:
        return jax.value_and_grad(total)(params)
    # No more than this is chosen: what a conditional hands on is copied, which for a whole state takes long.
    branches = [jax.value_and_grad(partial(total, size=size)) for size in learner.sizes]
    return jax.lax.switch(learner.enough, branches, params)


def optimizer_of(learner: Learner, client: Client) -> optax.GradientTransformation:
    """The client half's transform, then the optimizer."""
    optimizer = learner.optimizer(client.hyper)
    if learner.local.transform is None:
        return optimizer
    return optax.chain(learner.local.transform(client), optimizer)


def local_update(
    learner: Learner, batches: tuple[jax.Array, jax.Array, jax.Array], key: jax.Array, client: Client
) -> tuple[Tree, jax.Array]:
    """A client's whole local update, as a scan; what the packed lanes compute.

    Args:
      batches: tokens i32[S, B, T], labels i32[S, B], mask bool[S, B]; a step masked throughout changes nothing.
      key: of the job; step number s has fold_in(key, s).

    Returns:
      (trained leaves, mean training loss over the rows that were visited, f32[]).
    """

    def step(state: tuple[Tree, Tree], numbered: tuple) -> tuple[tuple[Tree, Tree], jax.Array]:
        number, batch = numbered
        return local_step(learner, state, batch, jax.random.fold_in(key, number), client)

    begin = (client.start, optimizer_of(learner, client).init(client.start))
    steps, rows = len(batches[2]), jnp.sum(batches[2].astype(jnp.float32))
    (trained, _), losses = jax.lax.scan(step, begin, (jnp.arange(steps), batches))
    return trained, jnp.sum(losses) / jnp.maximum(rows, 1.0)
