"""Federated methods that correct the drift of clients: SCAFFOLD and FedDyn. Axes: K client slots, N all clients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedjax_paradox.federated.local import Number
from fedjax_paradox.federated.rules import along, changes, for_each, normalise, of_clients, second_jobs
from fedjax_paradox.federated.types import Client, Diagnostics, Local, Participants, Rule, Tree, Updates


def scaffold(num_clients: int, lr: Number = 1.0) -> Rule:
    """SCAFFOLD (Karimireddy et al., 2020, alg. 1, option II): gradients get c - c_k; then c_k = c_k - c + (start - w_k)
    / (steps * local.learning_rate), c moves by the mean change over all N, start by lr times the plain mean change.

    The paper's clients run SGD without momentum. With momentum b a step's long-run effect is 1 / (1 - b) of its
    gradient, so that the change is divided by that as well.
    """

    def send(globals_: Tree, state: Tree, people: Participants) -> Tree:  # noqa: ARG001
        return _corrections(state, people)

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree, Diagnostics]:
        hyper = updates.hyper
        scale = (1.0 - hyper.momentum) / (hyper.learning_rate * jnp.maximum(updates.steps, 1.0))
        moved = jax.tree.map(lambda c, d: -c[None] - d * along(scale, d), state[0], changes(updates))
        return _moved_by(updates, state, lr, moved)

    return Rule(_controls(num_clients), aggregate, send=send, local=Local(transform=_adding))


def scaffold_i(num_clients: int, lr: Number = 1.0) -> Rule:
    """SCAFFOLD (Karimireddy et al., 2020, alg. 1, option I): as `scaffold`, but c_k is the gradient at start.

    The pass over the client's rows that this takes is a second job on the same batches, whose gradients are averaged
    batch by batch; local.weight_decay counts in them. Clients run SGD.
    """

    def send(globals_: Tree, state: Tree, people: Participants) -> Tree:  # noqa: ARG001
        return _corrections(state, people), second_jobs(people.client)

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree, Diagnostics]:
        second, every = second_jobs(updates.client), of_clients(state[1], updates.client)
        # A second job ends at start - gradient; what it moves c_k by is put into the slot of the first.
        moved = jax.tree.map(lambda d, own: jnp.roll(-d - own, -1, axis=0), changes(updates), every)
        return _moved_by(updates._replace(mask=updates.mask & ~second), state, lr, moved)

    return Rule(_controls(num_clients), aggregate, send=send, local=Local(transform=_adding_or_averaging), jobs=2)


def _controls(num_clients: int) -> Callable[[Tree], tuple[Tree, Tree]]:
    def init(globals_: Tree) -> tuple[Tree, Tree]:
        """(0, 0 for every client [N, ...])"""
        return jax.tree.map(jnp.zeros_like, globals_), for_each(jax.tree.map(jnp.zeros_like, globals_), num_clients)

    return init


def _corrections(state: Tree, people: Participants) -> Tree:
    """c - c_k, [K, ...]"""
    return jax.tree.map(lambda c, own: c[None] - own, state[0], of_clients(state[1], people.client))


def _moved_by(updates: Updates, state: Tree, lr: Number, moved: Tree) -> tuple[Tree, Tree, Diagnostics]:
    """SCAFFOLD's server, where c_k moves by `moved` [K, ...]."""
    shared, every = state
    moved = jax.tree.map(lambda m: jnp.where(along(updates.mask, m), m, 0.0), moved)
    number = len(jax.tree.leaves(every)[0])
    every = jax.tree.map(lambda all_, m: all_.at[updates.client].add(m, mode="drop"), every, moved)
    shared = jax.tree.map(lambda c, m: c + jnp.sum(m, axis=0) / number, shared, moved)
    weights = normalise(jnp.ones_like(updates.rows), updates.mask)
    new = jax.tree.map(lambda x, d: x + lr * jnp.tensordot(weights, d, 1), updates.start, changes(updates))
    return new, (shared, every), {"control_norm": optax.tree.norm(shared)}


def _adding(client: Client) -> optax.GradientTransformation:
    """Adds the message to every gradient."""
    return optax.stateless(lambda gradients, params: jax.tree.map(jnp.add, gradients, client.message))  # noqa: ARG005


def _adding_or_averaging(client: Client) -> optax.GradientTransformation:
    """A first job's gradients get what it was told; a second stays where it is, and ends at start - mean gradient."""
    rate, decay = client.hyper.learning_rate, client.hyper.weight_decay

    def init(params: Tree) -> tuple[Tree, jax.Array]:
        return jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.float32)

    def update(gradients: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        correction, second = client.message
        total, steps = jax.tree.map(jnp.add, state[0], gradients), state[1] + 1.0
        share = jnp.where(steps == client.steps, 1.0 / (rate * steps), 0.0)

        def averaging(gradient_sum: jax.Array, w: jax.Array) -> jax.Array:
            # The optimizer adds decay * w, which takes part in the gradient and moves nothing before the last step.
            return share * (gradient_sum + steps * decay * w) - decay * w

        held = jax.tree.map(averaging, total, params)
        told = jax.tree.map(jnp.add, gradients, correction)
        return jax.tree.map(lambda h, g: jnp.where(second, h, g), held, told), (total, steps)

    return optax.GradientTransformation(init, update)


def feddyn(num_clients: int, alpha: Number = 0.01) -> Rule:
    """FedDyn (Acar et al., 2021, alg. 1): gradients get -g_k + alpha (w - start); then g_k = g_k - alpha (w_k - start),
    h = h - alpha / N sum_k (w_k - start), next = plain mean of w_k - h / alpha."""

    def send(globals_: Tree, state: Tree, people: Participants) -> Tree:  # noqa: ARG001
        return of_clients(state[1], people.client), jnp.full(people.client.shape, alpha, jnp.float32)

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree, Diagnostics]:
        change = changes(updates)
        every = jax.tree.map(lambda g, d: g.at[updates.client].add(-alpha * d, mode="drop"), state[1], change)
        server_ = jax.tree.map(lambda h, d: h - alpha * jnp.sum(d, axis=0) / num_clients, state[0], change)
        weights = normalise(jnp.ones_like(updates.rows), updates.mask)

        def next_leaf(start: jax.Array, d: jax.Array, h: jax.Array) -> jax.Array:
            return start + jnp.tensordot(weights, d, 1) - h / alpha

        new = jax.tree.map(next_leaf, updates.start, change, server_)
        return new, (server_, every), {"control_norm": optax.tree.norm(server_)}

    return Rule(_controls(num_clients), aggregate, send=send, local=Local(transform=_dynamic))


def _dynamic(client: Client) -> optax.GradientTransformation:
    def update(gradients: Tree, params: Tree | None) -> Tree:
        own, alpha = client.message
        return jax.tree.map(lambda g, o, w, w0: g - o + alpha * (w - w0), gradients, own, params, client.start)

    return optax.stateless(update)
