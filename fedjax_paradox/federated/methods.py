"""Federated methods, one recipe a paper: here server optimizers and robust means.

Each is a function of its numbers that returns a `Rule`; `RULES` names them in the config. Where papers and known codes
disagree, the recipe says what was taken. Axes: K client slots of a round, N all clients.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedjax_paradox.federated.adapters import fedex_lora, ffa_lora, flexlora, flora
from fedjax_paradox.federated.drift import feddyn, scaffold, scaffold_i
from fedjax_paradox.federated.fair import afl, fedmgda, qfedavg, term
from fedjax_paradox.federated.local import Number
from fedjax_paradox.federated.personal import ditto, fedsa_lora, local_only
from fedjax_paradox.federated.rules import (
    along,
    changes,
    fedavg,
    fedavgw,
    normalise,
    stateless,
    uniform,
)
from fedjax_paradox.federated.types import Diagnostics, Rule, Tree, Updates

# ---- server optimizers


def server(optimizer: optax.GradientTransformation, base: Rule) -> Rule:
    """Takes start - (what `base` makes of the clients) for a gradient (Reddi et al., 2021, alg. 1)."""

    def init(globals_: Tree) -> Tree:
        return base.init(globals_), optimizer.init(globals_)

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree, Diagnostics]:
        mean, inner, told = base.aggregate(updates, state[0])
        step, outer = optimizer.update(jax.tree.map(jnp.subtract, updates.start, mean), state[1], updates.start)
        return (
            optax.apply_updates(updates.start, step),
            (inner, outer),
            {**told, "server_step_norm": optax.tree.norm(step)},
        )

    weights = base.weights
    if weights is None:
        return base._replace(init=init, aggregate=aggregate)
    return base._replace(
        init=init,
        aggregate=aggregate,
        weights=lambda updates, globals_, state: weights(updates, globals_, state[0]),
    )


def fedavgm(lr: Number = 1.0, beta: Number = 0.9) -> Rule:
    """FedAvg with server momentum (Hsu et al., 2019, sec. 4.2): v = beta v + (start - mean), start - lr v.

    lr = 1 and beta = 0 are FedAvg.
    """
    return server(optax.chain(optax.trace(decay=beta), optax.scale_by_learning_rate(lr)), fedavg())


def _adaptive(second: Callable[[jax.Array, jax.Array], jax.Array], lr: Number, b1: Number, tau: Number) -> Rule:
    """Reddi et al., 2021, alg. 2: m = b1 m + (1 - b1) d, x + lr m / (sqrt(v) + tau), v from tau^2 by `second`(v, d^2).

    d is the mean change, weighted by client rows as in FedAvg and in the authors' code; alg. 2 itself writes the plain
    mean. There is no bias correction.
    """

    def init(globals_: Tree) -> Tree:
        return jax.tree.map(jnp.zeros_like, globals_), jax.tree.map(lambda x: jnp.full_like(x, tau**2), globals_)

    def update(gradients: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:  # noqa: ARG001
        first = jax.tree.map(lambda m, g: b1 * m + (1.0 - b1) * g, state[0], gradients)
        squares = jax.tree.map(lambda v, g: second(v, jnp.square(g)), state[1], gradients)
        return jax.tree.map(lambda m, v: -lr * m / (jnp.sqrt(v) + tau), first, squares), (first, squares)

    return server(optax.GradientTransformation(init, update), fedavg())


def fedadagrad(lr: Number = 0.01, b1: Number = 0.0, tau: Number = 1e-3) -> Rule:
    """FedAdagrad (Reddi et al., 2021, alg. 2): v + d^2. b1 = 0 and tau = 1e-3 are the paper's; lr was tuned there."""
    return _adaptive(jnp.add, lr, b1, tau)


def fedadam(lr: Number = 0.01, b1: Number = 0.9, b2: Number = 0.99, tau: Number = 1e-3) -> Rule:
    """FedAdam (Reddi et al., 2021, alg. 2): b2 v + (1 - b2) d^2. b1, b2 and tau are the paper's; lr was tuned there."""
    return _adaptive(lambda v, square: b2 * v + (1.0 - b2) * square, lr, b1, tau)


def fedyogi(lr: Number = 0.01, b1: Number = 0.9, b2: Number = 0.99, tau: Number = 1e-3) -> Rule:
    """FedYogi (Reddi et al., 2021, alg. 2): v - (1 - b2) d^2 sign(v - d^2). Numbers as in `fedadam`."""
    return _adaptive(lambda v, square: v - (1.0 - b2) * square * jnp.sign(v - square), lr, b1, tau)


# ---- other means


def fednova() -> Rule:
    """FedNova (Wang et al., 2020, eq. 8): start + (sum_k p_k |a_k|) sum_k p_k (w_k - start) / |a_k|, p_k by rows.

    |a_k| (sec. 4) of t steps of SGD with momentum b: (t - b (1 - b^t) / (1 - b)) / (1 - b). AdamW, of which
    the paper says nothing, counts its steps; a proximal pull, for which it has another |a_k|, is not seen. With equal
    steps it is FedAvg.
    """

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree, Diagnostics]:
        momentum, steps = updates.hyper.momentum, jnp.where(updates.mask, updates.steps, 1.0)
        lengths = (steps - momentum * (1.0 - momentum**steps) / (1.0 - momentum)) / (1.0 - momentum)
        rows = normalise(updates.rows, updates.mask)
        effective = jnp.sum(rows * lengths)
        share, change = rows / lengths * effective, changes(updates)
        new = jax.tree.map(lambda x, d: x + jnp.tensordot(share, d, 1), updates.start, change)
        return new, state, {"effective_steps": effective}

    return Rule(stateless, aggregate)


def _ordered(updates: Updates, share: Callable[[jax.Array, jax.Array], jax.Array]) -> Tree:
    """Coordinate by coordinate, the participants' values in rising order, weighted by `share`(rank, participants)."""
    ranks = jnp.arange(len(updates.mask), dtype=jnp.float32)
    weights = share(ranks, jnp.sum(updates.mask.astype(jnp.float32)))

    def leaf_mean(leaf: jax.Array) -> jax.Array:
        rising = jnp.sort(jnp.where(along(updates.mask, leaf), leaf, jnp.inf), axis=0)
        return jnp.sum(jnp.where(along(weights > 0, leaf), along(weights, leaf) * rising, 0.0), axis=0)

    return jax.tree.map(leaf_mean, updates.leaves)


def median() -> Rule:
    """Coordinate-wise median of the participants, each counting once (Yin et al., 2018, def. 1)."""

    def share(rank: jax.Array, count: jax.Array) -> jax.Array:
        low, high = jnp.floor((count - 1.0) / 2.0), jnp.floor(count / 2.0)
        return 0.5 * ((rank == low).astype(jnp.float32) + (rank == high).astype(jnp.float32))

    return Rule(stateless, lambda updates, state: (_ordered(updates, share), state, {}))


def trimmed_mean(trim: Number = 0.1) -> Rule:
    """Coordinate-wise mean without the floor(trim K) lowest and highest, trim < 1/2 (Yin et al., 2018, def. 2)."""

    def share(rank: jax.Array, count: jax.Array) -> jax.Array:
        # A number such as 0.1 is a little more or less in float32: 0.1 of 10 clients is one.
        cut = jnp.minimum(jnp.floor(trim * count + 1e-4), jnp.floor((count - 1.0) / 2.0))
        kept = (rank >= cut) & (rank < count - cut)
        return kept.astype(jnp.float32) / jnp.maximum(count - 2.0 * cut, 1.0)

    return Rule(stateless, lambda updates, state: (_ordered(updates, share), state, {}))


# ---- reference lines


def centralised() -> Rule:
    """No federation: one model trains on the rows of all clients, as many epochs a round as a client would."""
    return fedavg()._replace(pooled=True)


# Name in the config -> function of its numbers, and of `is_adapter`, `num_clients` or `lora_scale` where it asks for
# them.
RULES: dict[str, Callable[..., Rule]] = {
    "fedavg": fedavg,
    "uniform": uniform,
    "fedavgw": fedavgw,
    "fedavgm": fedavgm,
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
    "term": term,
    "afl": afl,
    "qfedavg": qfedavg,
    "fednova": fednova,
    "fedmgda": fedmgda,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "scaffold": scaffold,
    "scaffold_i": scaffold_i,
    "feddyn": feddyn,
    "ditto": ditto,
    "ffa_lora": ffa_lora,
    "fedsa_lora": fedsa_lora,
    "flexlora": flexlora,
    "fedex_lora": fedex_lora,
    "flora": flora,
    "local_only": local_only,
    "centralised": centralised,
}
OF_ADAPTERS = ("ffa_lora", "fedsa_lora", "flexlora", "fedex_lora", "flora")  # without any, they would be FedAvg
