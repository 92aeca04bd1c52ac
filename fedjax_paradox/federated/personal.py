"""Methods that give clients models of their own, with which they are then scored.

Axes: K client slots, N all clients.
"""

import jax
import jax.numpy as jnp
import optax

from fedjax_paradox.federated.local import Number
from fedjax_paradox.federated.rules import along, for_each, normalise, of_clients, second_jobs, weighted_sum
from fedjax_paradox.federated.types import Client, Diagnostics, Local, Participants, Rule, Tree, Updates


def stored(every: Tree, updates: Updates, chosen: jax.Array) -> Tree:
    """[N, ...] with the trained leaves of the clients in the slots where `chosen` is True."""
    # Past the end, where JAX drops what is written.
    client = jnp.where(chosen & updates.mask, updates.client, jnp.iinfo(jnp.int32).max)
    return jax.tree.map(lambda old, new: old.at[client].set(new, mode="drop"), every, updates.leaves)


def local_only(num_clients: int) -> Rule:
    """No federation: every client goes on training the model that it has, and is served that. The global model, which
    nobody is served, stays as it was."""

    def start(globals_: Tree, state: Tree, people: Participants) -> Tree:  # noqa: ARG001
        return of_clients(state, people.client)

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree, Diagnostics]:
        return updates.start, stored(state, updates, updates.mask), {}

    return Rule(
        init=lambda globals_: for_each(globals_, num_clients),
        aggregate=aggregate,
        start=start,
        serve=lambda globals_, state: state,  # noqa: ARG005
    )


def ditto(num_clients: int, lam: Number = 0.1) -> Rule:
    """Ditto (Li et al., 2021, alg. 1): FedAvg, and beside it every participant trains a model of its own, pulled to the
    incoming global one: its gradients get lam (v_k - w).

    Both updates of a client have its local settings and batches. The paper tunes lam for each data set; with lam = 0
    clients are served what `local_only` serves them. One that never took part is served the first model.
    """

    def start(globals_: Tree, state: Tree, people: Participants) -> Tree:
        second, own = second_jobs(people.client), of_clients(state, people.client)
        return jax.tree.map(lambda w, v: jnp.where(along(second, v), v, w[None]), globals_, own)

    def send(globals_: Tree, state: Tree, people: Participants) -> Tree:  # noqa: ARG001
        return for_each(globals_, len(people.client)), lam * second_jobs(people.client).astype(jnp.float32)

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree, Diagnostics]:
        second = second_jobs(updates.client)
        share = normalise(updates.rows, updates.mask & ~second)
        mean = weighted_sum(jax.tree.map(lambda _: share, updates.start), updates)
        return mean, stored(state, updates, second), {}

    return Rule(
        init=lambda globals_: for_each(globals_, num_clients),
        aggregate=aggregate,
        send=send,
        start=start,
        local=Local(transform=_pulled),
        serve=lambda globals_, state: state,  # noqa: ARG005
        jobs=2,
    )


def _pulled(client: Client) -> optax.GradientTransformation:
    """Gradients + strength (w - anchor), both of which the client was told."""

    def update(gradients: Tree, params: Tree | None) -> Tree:
        anchor, strength = client.message
        return jax.tree.map(lambda g, w, w0: g + strength * (w - w0), gradients, params, anchor)

    return optax.stateless(update)


def fedsa_lora(num_clients: int) -> Rule:
    """FedSA-LoRA (Guo et al., 2024, sec. 4): the LoRA factors A are averaged, the factors B stay with their clients.

    The head, of which the paper's equations do not speak, is averaged like A, by client rows. The global model keeps
    its first B, which is 0.
    """

    def is_own(path: tuple) -> bool:
        return path[-1].key == "lora_b"

    def own(leaves: Tree) -> dict[str, jax.Array]:
        found = jax.tree_util.tree_leaves_with_path(leaves)
        return {jax.tree_util.keystr(path): leaf for path, leaf in found if is_own(path)}

    def with_own(leaves: Tree, own: dict[str, jax.Array]) -> Tree:
        return jax.tree_util.tree_map_with_path(lambda path, x: own.get(jax.tree_util.keystr(path), x), leaves)

    def start(globals_: Tree, state: Tree, people: Participants) -> Tree:
        return with_own(for_each(globals_, len(people.client)), of_clients(state, people.client))

    def weights(updates: Updates, globals_: Tree, state: Tree) -> Tree:  # noqa: ARG001
        share = normalise(updates.rows, updates.mask)
        return jax.tree.map(lambda _: share, globals_)

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree, Diagnostics]:
        kept = stored(state, updates._replace(leaves=own(updates.leaves)), updates.mask)
        return with_own(updates.weighted, own(updates.start)), kept, {}

    return Rule(
        init=lambda globals_: for_each(own(globals_), num_clients),
        aggregate=aggregate,
        weights=weights,
        start=start,
        serve=lambda globals_, state: with_own(for_each(globals_, num_clients), state),
    )
