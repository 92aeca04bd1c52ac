"""A client's local update, step by step, as pure functions of one lane.

The objective is a function of (per-row losses, trainable leaves, the leaves at the round's start,
hyper-parameters); the optimizer is built from hyper-parameters that may be traced, so that they are data.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedjax_paradox.federated.types import Hyper, Tree

Objective = Callable[[jax.Array, Tree, Tree, Hyper], jax.Array]


def masked_cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean cross-entropy over the rows where `mask` is True; 0 where there is none.

    Args:
      logits: f32[B, C]; labels: i32[B]; mask: bool[B]. A masked row gives neither value nor gradient,
        whatever stands in it.

    Returns:
      f32[].
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(jnp.where(mask, losses, 0.0)) / jnp.maximum(jnp.sum(mask.astype(jnp.float32)), 1.0)


def squared_distance(tree: Tree, other: Tree) -> jax.Array:
    """f32[], the squared l2 distance between two trees of the same structure."""
    return sum(
        (jnp.sum(jnp.square(a - b)) for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)),
        start=jnp.zeros(()),
    )


def cross_entropy(loss: jax.Array, params: Tree, start: Tree, hyper: Hyper) -> jax.Array:  # noqa: ARG001
    """The plain local objective of FedAvg (McMahan et al., 2017)."""
    return loss


def fedprox(loss: jax.Array, params: Tree, start: Tree, hyper: Hyper) -> jax.Array:
    """loss + mu / 2 * ||w - w_global||^2 over the trainable leaves (Li et al., 2020, eq. 2)."""
    return loss + 0.5 * hyper.mu * squared_distance(params, start)


OBJECTIVES: dict[str, Objective] = {"cross_entropy": cross_entropy, "fedprox": fedprox}
# Those whose gradient of a row without data is mu (w - w_start) and no more: what `sparse` takes for granted.
PULL_ONLY: frozenset[Objective] = frozenset({cross_entropy, fedprox})


def sgd(hyper: Hyper) -> optax.GradientTransformation:
    """PyTorch's SGD: buffer = momentum * buffer + (gradient + weight_decay * w); w -= lr * buffer."""
    return optax.chain(
        optax.add_decayed_weights(hyper.weight_decay),
        optax.trace(decay=hyper.momentum),
        optax.scale_by_learning_rate(hyper.learning_rate),
    )


def adamw(hyper: Hyper) -> optax.GradientTransformation:
    """AdamW with b1 0.9, b2 0.999, eps 1e-8 (Loshchilov & Hutter, 2019), as in PyTorch."""
    return optax.adamw(hyper.learning_rate, weight_decay=hyper.weight_decay)


OPTIMIZERS: dict[str, Callable[[Hyper], optax.GradientTransformation]] = {"sgd": sgd, "adamw": adamw}


def local_step(
    apply: Callable[..., jax.Array],
    objective: Objective,
    optimizer: Callable[[Hyper], optax.GradientTransformation],
    state: tuple[Tree, Tree],
    batch: tuple[jax.Array, jax.Array, jax.Array],
    key: jax.Array,
    start: Tree,
    hyper: Hyper,
) -> tuple[tuple[Tree, Tree], jax.Array]:
    """One optimizer step; a step whose rows are all masked leaves the state as it is, to the bit.

    Args:
      apply: (params, tokens, key) -> logits f32[B, C].
      state: (trainable leaves, optimizer state).
      batch: tokens i32[B, T], labels i32[B], mask bool[B].
      start: trainable leaves at the round's start.

    Returns:
      (state, sum of the batch's cross-entropies before the step, f32[]).
    """
    params, optimizer_state = state
    tokens, labels, mask = batch

    def total(leaves: Tree) -> tuple[jax.Array, jax.Array]:
        loss = masked_cross_entropy(apply(leaves, tokens, key), labels, mask)
        return objective(loss, leaves, start, hyper), loss

    gradients, loss = jax.grad(total, has_aux=True)(params)
    updates, next_state = optimizer(hyper).update(gradients, optimizer_state, params)
    stepped = (optax.apply_updates(params, updates), next_state)
    live = jnp.any(mask)
    kept = jax.tree.map(lambda new, old: jnp.where(live, new, old), stepped, state)
    return kept, loss * jnp.sum(mask.astype(jnp.float32))
