"""Aggregation rules: small pieces, and recipes that carry the papers' names.

A *weighting* maps one cell's `Updates` to non-negative weights f32[K]; `weighted_mean` turns one into a
rule, `on_leaves` chooses between two rules leaf by leaf. Everything is pure and takes traced numbers, so
that rules of many cells run vmapped and their hyper-parameters are data.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_paradox.federated.types import Participants, Rule, Tree, Updates

Weighting = Callable[[Any], jax.Array]  # of Updates, or of Participants where it reads nothing else
IsAdapter = Callable[[tuple], bool]


def by_rows(updates: Updates | Participants) -> jax.Array:
    """w_k = n_k."""
    return updates.rows


def by_inverse_rows(beta: float | jax.Array) -> Weighting:
    """w_k = (1 / n_k)^beta (FedAvgW, arXiv:2605.08992), relative to the largest, so that none of any beta overflows and
    not all of them underflow."""

    def weights(updates: Updates | Participants) -> jax.Array:
        logs = -jnp.asarray(beta, jnp.float32) * jnp.log(jnp.maximum(updates.rows, 1.0))
        return jnp.exp(logs - jnp.max(jnp.where(updates.mask, logs, -jnp.inf)))

    return weights


def equally(updates: Updates | Participants) -> jax.Array:
    """w_k = 1."""
    return jnp.ones_like(updates.rows)


def normalise(weights: jax.Array, mask: jax.Array) -> jax.Array:
    """Weights that sum to 1 over the slots where `mask` is True and are 0 elsewhere; f32[K].

    NaN at a slot whose weight is negative or not finite, and at all participants where all weights are zero.
    """
    kept = jnp.where(mask, weights, 0.0)
    sound = jnp.isfinite(kept) & (kept >= 0)
    return jnp.where(sound, kept / jnp.sum(jnp.where(sound, kept, 0.0)), jnp.nan)


def weighted_mean(weighting: Weighting, ahead: bool = False) -> Rule:
    """The stateless rule w_global = sum_k w_k w_k' / sum_k w_k over participating clients.

    A slot of zero weight is inert, whatever stands in it; with no participant the global stays.

    Args:
      ahead: the weighting reads what `Participants` has and no more, so that clients may be added up as they finish.
    """

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree]:
        weights = normalise(weighting(updates), updates.mask)

        def mean(leaf: jax.Array, start: jax.Array) -> jax.Array:
            # One client after the other: all at once, the products would take as much memory as the updates.
            def add(k: jax.Array, total: jax.Array) -> jax.Array:
                inert = (weights[k] == 0) | ~updates.mask[k]
                return total + jnp.where(inert, 0.0, weights[k] * leaf[k]).astype(leaf.dtype)

            total = jax.lax.fori_loop(0, len(leaf), add, jnp.zeros_like(start))
            return jnp.where(jnp.any(updates.mask), total, start)

        return jax.tree.map(mean, updates.leaves, updates.start), state

    def weights(updates: Updates | Participants, global_: Tree) -> Tree:
        each = normalise(weighting(updates), updates.mask)
        return jax.tree.map(lambda _: each, global_)

    return Rule(lambda global_: (), aggregate, weights, ahead)  # noqa: ARG005


def on_leaves(choose: IsAdapter, chosen: Rule, other: Rule) -> Rule:
    """`chosen` for the leaves whose key path `choose` accepts, `other` for the rest.

    Both rules see all leaves, so that a weight may depend on the whole update.
    """

    def by_leaf(one: Tree, two: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(lambda path, a, b: a if choose(path) else b, one, two)

    def init(global_: Tree) -> Tree:
        return chosen.init(global_), other.init(global_)

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree]:
        (one, one_state), (two, two_state) = (
            chosen.aggregate(updates, state[0]),
            other.aggregate(updates, state[1]),
        )
        return by_leaf(one, two), (one_state, two_state)

    one_weights, two_weights = chosen.weights, other.weights
    if one_weights is None or two_weights is None:
        return Rule(init, aggregate)

    def weights(updates: Any, global_: Tree) -> Tree:
        return by_leaf(one_weights(updates, global_), two_weights(updates, global_))

    return Rule(init, aggregate, weights, chosen.ahead and other.ahead)


def fedavg() -> Rule:
    """Mean weighted by client rows (McMahan et al., 2017, alg. 1)."""
    return weighted_mean(by_rows, ahead=True)


def uniform() -> Rule:
    """Plain mean over the participating clients."""
    return weighted_mean(equally, ahead=True)


def fedavgw(beta: float | jax.Array, is_adapter: IsAdapter) -> Rule:
    """FedAvgW (arXiv:2605.08992): adapter leaves weighted by (1 / n_k)^beta, the heads by n_k.

    beta = 0 weights adapters equally. On a model without adapters it equals `fedavg`.
    """
    return on_leaves(is_adapter, weighted_mean(by_inverse_rows(beta), ahead=True), fedavg())


# Name in the config -> function of (is_adapter, **hyper-parameters) -> Rule.
RULES: dict[str, Callable[..., Rule]] = {
    "fedavg": lambda is_adapter: fedavg(),  # noqa: ARG005
    "uniform": lambda is_adapter: uniform(),  # noqa: ARG005
    "fedavgw": lambda is_adapter, beta: fedavgw(beta, is_adapter),
}
