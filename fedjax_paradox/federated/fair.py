"""Methods that favour the clients that a model serves worst. Axes: K client slots of a round, N all clients."""

import jax
import jax.numpy as jnp

from fedjax_paradox.federated.local import Number
from fedjax_paradox.federated.rules import along, changes, normalise, stateless, weighted_mean
from fedjax_paradox.federated.types import Diagnostics, Participants, Rule, Tree, Updates


def term(t: Number = 1.0) -> Rule:
    """TERM over clients (Li et al., 2021, eq. 4 on the level of clients): w_k = n_k exp(t F_k), F_k the loss of the
    incoming model on the client's rows; t = 0 is FedAvg, large t minimises the worst client's loss."""

    def weights(updates: Updates | Participants) -> jax.Array:
        logs = t * updates.start_loss
        return updates.rows * jnp.exp(logs - jnp.max(jnp.where(updates.mask, logs, -jnp.inf)))

    return weighted_mean(weights, ahead=True)._replace(needs_start_loss=True)


def afl(num_clients: int, gamma: Number = 0.1) -> Rule:
    """Agnostic federated learning (Mohri et al., 2019, alg. 1): clients are weighted by a mixture on the simplex that
    climbs their losses, lambda = project(lambda + gamma F), from 1 / N.

    The round trains with the mixture before that step, as in the paper, over whole local updates in place of its single
    steps; the model is the last one, not the mean of all rounds. A projection may leave all participants without
    weight; each has 1e-6 at least.
    """

    def weights(updates: Updates | Participants, globals_: Tree, mixture: jax.Array) -> Tree:
        own = jnp.maximum(jnp.take(mixture, updates.client, mode="fill", fill_value=0.0), 1e-6)
        return jax.tree.map(lambda _: normalise(own, updates.mask), globals_)

    def aggregate(updates: Updates, mixture: jax.Array) -> tuple[Tree, jax.Array, Diagnostics]:
        climbed = mixture.at[updates.client].add(jnp.where(updates.mask, gamma * updates.start_loss, 0.0), mode="drop")
        own = jnp.take(mixture, updates.client, mode="fill", fill_value=jnp.nan)
        return updates.weighted, project(climbed), {"mixture": own}

    start = jnp.full(num_clients, 1.0 / num_clients)
    return Rule(lambda globals_: start, aggregate, weights, ahead=True, needs_start_loss=True)  # noqa: ARG005


def project(point: jax.Array) -> jax.Array:
    """f32[N], the nearest point of the probability simplex (Duchi et al., 2008, fig. 1)."""
    falling = jnp.sort(point)[::-1]
    excess = (jnp.cumsum(falling) - 1.0) / jnp.arange(1, len(point) + 1, dtype=point.dtype)
    last = jnp.sum((falling > excess).astype(jnp.int32)) - 1
    return jnp.maximum(point - excess[last], 0.0)


def qfedavg(q: Number = 1.0) -> Rule:
    """q-FedAvg (Li et al., 2020, alg. 2): d_k = F_k^q L (start - w_k), h_k = q F_k^(q-1) L^2 |start - w_k|^2 + L F_k^q,
    start - sum_k d_k / sum_k h_k, with L = 1 / local.learning_rate.

    F_k is the loss of the incoming model on the client's rows, as the paper has it, not the training loss. The sums are
    plain: the paper samples clients by size instead of weighting them, so that q = 0 is `uniform`.
    """

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree, Diagnostics]:
        steep = 1.0 / updates.hyper.learning_rate
        change = changes(updates)
        squares = sum(jnp.sum(jnp.square(leaf).reshape(len(leaf), -1), axis=1) for leaf in jax.tree.leaves(change))
        loss = jnp.where(updates.mask, jnp.maximum(updates.start_loss, 1e-10), 1.0)
        power = jnp.where(updates.mask, loss**q, 0.0)
        bounds = power * (q / loss * steep**2 * squares + steep)
        scale = power * steep / jnp.sum(bounds)
        return jax.tree.map(lambda x, d: x + jnp.tensordot(scale, d, 1), updates.start, change), state, {"h": bounds}

    return Rule(stateless, aggregate, needs_start_loss=True)


# Steps of projected gradient with momentum; of five clients they leave 1e-6 of the largest weight.
MIN_NORM_STEPS = 500


def fedmgda(lr: Number = 1.0, eps: Number = 1.0) -> Rule:
    """FedMGDA+ (Hu et al., 2020, alg. 1): start + lr sum_k w_k d_k / |d_k|, with the weights on the simplex that make
    this sum shortest, none further than eps from the client's share of the rows; eps = 1 leaves them free, eps = 0 is
    the mean of normalised changes by rows.

    Normalised, a change has length 1: lr is the largest step, in units of the leaves.
    """

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree, Diagnostics]:
        change = changes(updates)
        squares = sum(jnp.sum(jnp.square(leaf).reshape(len(leaf), -1), axis=1) for leaf in jax.tree.leaves(change))
        lengths = jnp.sqrt(jnp.maximum(squares, 1e-20))
        unit = jax.tree.map(lambda d: d / along(lengths, d), change)
        flat = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(unit)]
        shares = normalise(updates.rows, updates.mask)
        weights = min_norm(sum(leaf @ leaf.T for leaf in flat), shares, eps, updates.mask)
        new = jax.tree.map(lambda x, d: x + lr * jnp.tensordot(weights, d, 1), updates.start, unit)
        return new, state, {"mgda_weight": weights}

    return Rule(stateless, aggregate)


def min_norm(gram: jax.Array, centre: jax.Array, eps: Number, mask: jax.Array) -> jax.Array:
    """f32[K], the w on the simplex within eps of `centre` that minimises w gram w; 0 where `mask` is False."""
    low = jnp.where(mask, jnp.maximum(centre - eps, 0.0), 0.0)
    high = jnp.where(mask, jnp.minimum(centre + eps, 1.0), 0.0)
    rate = 1.0 / jnp.maximum(jnp.trace(gram), 1e-20)  # at least the largest eigenvalue

    def step(number: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        ahead, old = carry
        new = _onto_box(ahead - rate * gram @ ahead, low, high)
        return new + number / (number + 3.0) * (new - old), new

    return jax.lax.fori_loop(0, MIN_NORM_STEPS, lambda i, c: step(i.astype(jnp.float32), c), (centre, centre))[1]


def _onto_box(point: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """The nearest point between `low` and `high` that sums to 1: clip(point - t), t found by bisection."""

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        middle = 0.5 * (bounds[0] + bounds[1])
        above = jnp.sum(jnp.clip(point - middle, low, high)) > 1.0
        return jnp.where(above, middle, bounds[0]), jnp.where(above, bounds[1], middle)

    t, _ = jax.lax.fori_loop(0, 40, halve, (jnp.min(point) - 1.0, jnp.max(point)))
    return jnp.clip(point - t, low, high)
