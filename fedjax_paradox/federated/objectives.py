"""Local objectives: what a client minimises. Each is a function of its numbers; papers and equations stand with it.

All take `smoothing`, that of label smoothing (Szegedy et al., 2016, sec. 7): the target is 1 - smoothing on the label
plus smoothing / C on every class.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_paradox.federated.local import Number, Objective, masked_mean
from fedjax_paradox.federated.types import Client, Hyper, Local, Tree


def smoothed(logits: jax.Array, labels: jax.Array, smoothing: Number) -> jax.Array:
    """f32[B], cross-entropy of smoothed labels; with the number 0 the plain one, to the bit."""
    plain = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if isinstance(smoothing, int | float) and smoothing == 0:
        return plain
    uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
    return (1.0 - smoothing) * plain + smoothing * uniform


def cross_entropy(smoothing: Number = 0.0) -> Local:
    """The plain local objective of FedAvg (McMahan et al., 2017)."""
    return Local(loss=lambda logits, labels, client: smoothed(logits, labels, smoothing))  # noqa: ARG005


def fedprox(mu: Number | None = None, smoothing: Number = 0.0) -> Local:
    """Cross-entropy + mu / 2 ||w - w_global||^2 (Li et al., 2020, eq. 2), as its gradient mu (w - w_global).

    mu: that of the call, else `local.mu`.
    """

    def strength(hyper: Hyper) -> jax.Array:
        return hyper.mu if mu is None else jnp.asarray(mu)

    def transform(client: Client) -> optax.GradientTransformation:
        def towards_start(gradients: Tree, params: Any) -> Tree:
            return jax.tree.map(lambda g, w, w0: g + strength(client.hyper) * (w - w0), gradients, params, client.start)

        return optax.stateless(towards_start)

    return cross_entropy(smoothing)._replace(transform=transform, pull=strength)


def _shifted(shift: Callable[[jax.Array, Client], jax.Array], smoothing: Number) -> Local:
    """Cross-entropy of logits that `shift` has changed in training, not in prediction."""
    return Local(loss=lambda logits, labels, client: smoothed(shift(logits, client), labels, smoothing))


def logit_adjustment(tau: Number = 1.0, smoothing: Number = 0.0) -> Local:
    """z_c + tau log p_k(c), p_k being the client's class shares (Menon et al., 2021, eq. 10; tau = 1: balanced softmax,
    Ren et al., 2020, eq. 3).

    A class that the client does not hold has p = 0 and would leave the softmax; as in balanced softmax it does, here by
    a count of 1e-8 in place of 0, which keeps gradients finite.
    """

    def shift(logits: jax.Array, client: Client) -> jax.Array:
        counts = jnp.maximum(client.class_counts, 1e-8)
        return logits + tau * jnp.log(counts / jnp.sum(counts))[None]

    return _shifted(shift, smoothing)


def fedlc(tau: Number = 1.0, smoothing: Number = 0.0) -> Local:
    """z_c - tau n_k(c)^(-1/4) (Zhang et al., 2022, eq. 8 and 9), n_k(c) being the client's rows of the class.

    The paper writes the exponent -1/4, which is taken here. As printed, its sum leaves out the row's own class, so that
    the loss has no lower bound; here it runs over all classes, as in known codes. Counts of 0 are taken as 1e-8, as
    there, so that the margin of a class that a client lacks is 100 tau.
    """
    return _shifted(
        lambda logits, client: logits - tau * jnp.maximum(client.class_counts, 1e-8)[None] ** -0.25, smoothing
    )


def fedrs(alpha: Number = 0.5, smoothing: Number = 0.0) -> Local:
    """Restricted softmax (Li & Zhan, 2021, eq. 6): logits of classes that the client lacks are scaled by alpha; 0.5 is
    the paper's recommendation, 1 is cross-entropy."""
    return _shifted(lambda logits, client: jnp.where(client.class_counts[None] > 0, logits, alpha * logits), smoothing)


def tilted(t: Number = 1.0, smoothing: Number = 0.0) -> Local:
    """TERM over the rows of a batch (Li et al., 2021, eq. 2): (1 / t) log mean exp(t loss); t > 0 favours hard rows,
    and t = 0 is the limit, their mean."""
    zero = jnp.asarray(t) == 0
    t = jnp.where(zero, 1.0, t)  # where the mean is taken, the other branch must be finite as well

    def reduce(losses: jax.Array, mask: jax.Array, client: Client) -> jax.Array:  # noqa: ARG001
        rows = jnp.maximum(jnp.sum(mask.astype(jnp.float32)), 1.0)
        highest = jax.lax.stop_gradient(jnp.max(jnp.where(mask, t * losses, -jnp.inf)))
        highest = jnp.where(jnp.isfinite(highest), highest, 0.0)  # where all rows are masked
        total = jnp.sum(jnp.where(mask, jnp.exp(jnp.where(mask, t * losses, 0.0) - highest), 0.0))
        tilt = jnp.where(jnp.any(mask), (jnp.log(jnp.maximum(total / rows, 1e-30)) + highest) / t, 0.0)
        return jnp.where(zero, masked_mean(losses, mask), tilt)

    return cross_entropy(smoothing)._replace(reduce=reduce)


# Name in the config -> function of the numbers of its call.
OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": cross_entropy,
    "fedprox": fedprox,
    "logit_adjustment": logit_adjustment,
    "fedlc": fedlc,
    "fedrs": fedrs,
    "tilted": tilted,
}
