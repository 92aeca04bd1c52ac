"""Aggregation rules that are weighted means: small pieces, and recipes that carry the papers' names.

A *weighting* maps one cell's `Updates` to non-negative weights f32[K]; `weighted_mean` turns one into a
rule, `on_leaves` chooses between two of them leaf by leaf. Everything is pure and takes traced numbers, so
that rules of many cells run vmapped and their hyper-parameters are data.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_paradox.federated.types import Diagnostics, Participants, Rule, Tree, Updates

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

    def weights(updates: Any, globals_: Tree, state: Tree) -> Tree:  # noqa: ARG001
        each = normalise(weighting(updates), updates.mask)
        return jax.tree.map(lambda _: each, globals_)

    return Rule(stateless, lambda updates, state: (updates.weighted, state, {}), weights, ahead)


def stateless(globals_: Tree) -> Tree:  # noqa: ARG001
    """The state of a rule that has none."""
    return ()


def combine(rule: Rule, updates: Updates, state: Tree) -> tuple[Tree, Tree, Diagnostics]:
    """What a rule makes of all clients' leaves: (next globals, next state, diagnostics)."""
    if rule.weights is None:
        return rule.aggregate(updates, state)
    weights = rule.weights(updates, updates.start, state)
    return rule.aggregate(updates._replace(weighted=weighted_sum(weights, updates)), state)


def weighted_sum(weights: Tree, updates: Updates) -> Tree:
    """sum_k w_k leaves_k, f32[K] weights for each leaf; a client of weight 0 is inert, whatever its leaves are."""

    def leaf_sum(weight: jax.Array, leaf: jax.Array, start: jax.Array) -> jax.Array:
        # One client after the other: all at once, the products would take as much memory as the updates.
        def add(k: jax.Array, total: jax.Array) -> jax.Array:
            inert = (weight[k] == 0) | ~updates.mask[k]
            return total + jnp.where(inert, 0.0, weight[k] * leaf[k]).astype(leaf.dtype)

        return jax.lax.fori_loop(0, len(leaf), add, jnp.zeros_like(start))

    return jax.tree.map(leaf_sum, weights, updates.leaves, updates.start)


def changes(updates: Updates) -> Tree:
    """[K, ...], trained leaves - start; 0 in slots without a client."""

    def change(start: jax.Array, leaf: jax.Array) -> jax.Array:
        return jnp.where(along(updates.mask, leaf), leaf - start[None], 0.0)

    return jax.tree.map(change, updates.start, updates.leaves)


def along(values: jax.Array, leaf: jax.Array) -> jax.Array:
    """[K] against a leaf [K, ...]."""
    return values.reshape(-1, *[1] * (leaf.ndim - 1))


def of_clients(every: Tree, clients: jax.Array) -> Tree:
    """[K, ...] of [N, ...]; zeros in slots without a client."""
    return jax.tree.map(lambda leaf: jnp.take(leaf, clients, axis=0, mode="fill", fill_value=0.0), every)


def for_each(leaves: Tree, number: int) -> Tree:
    """[number, ...], the same leaves for each."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (number, *leaf.shape)), leaves)


def second_jobs(slots: jax.Array) -> jax.Array:
    """bool[K], which slots hold the second of their client's two jobs, under a rule with `jobs` = 2."""
    return jnp.arange(len(slots)) % 2 == 1


def on_leaves(choose: IsAdapter, chosen: Rule, other: Rule) -> Rule:
    """`chosen` for the leaves whose key path `choose` accepts, `other` for the rest; both are weighted means.

    Both see all leaves, so that a weight may depend on the whole update.
    """
    one, two = chosen.weights, other.weights
    if one is None or two is None:
        raise TypeError("on_leaves takes two rules with weights")

    def weights(updates: Any, globals_: Tree, state: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(
            lambda path, a, b: a if choose(path) else b,
            one(updates, globals_, state),
            two(updates, globals_, state),
        )

    return Rule(stateless, lambda updates, state: (updates.weighted, state, {}), weights, chosen.ahead and other.ahead)


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
