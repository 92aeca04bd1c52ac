"""Aggregation of LoRA pairs, of which the mean of products is not the product of means.

A pair changes a kernel W [in, out] by scale A B, A [in, r] and B [r, out]. Plain averaging of A and of B is FedIT
(Zhang et al., 2023), here `fedavg`. Axes: K client slots.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_paradox.federated.rules import along, fedavg, normalise
from fedjax_paradox.federated.types import Diagnostics, Local, Rule, Tree, Updates

KERNEL = "base_kernel"  # of a cell, where a rule `owns_kernels`


def ffa_lora() -> Rule:
    """FFA-LoRA (Sun et al., 2024, sec. 4): A stays as it was drawn; the mean of B then gives the mean of products."""

    def trains(path: tuple) -> bool:
        return path[-1].key != "lora_a"

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree, Diagnostics]:
        # A mean of equal numbers would round them.
        pick = lambda path, mean, start: mean if trains(path) else start  # noqa: E731
        return jax.tree_util.tree_map_with_path(pick, updates.weighted, updates.start), state, {}

    return fedavg()._replace(aggregate=aggregate, local=Local(trains=trains))


def flexlora() -> Rule:
    """FlexLoRA (Bai et al., 2024, eq. 4 and 5): the mean of the products A_k B_k, by client rows, and of it the largest
    singular values up to the rank. Their roots go to A and B alike; the paper leaves open how they are split.
    """

    def change(clients: Tree, share: jax.Array, mean: Tree, start: Tree) -> Tree:  # noqa: ARG001
        rank = mean["lora_a"].shape[-1]
        left, right = _stacked(clients, share)
        outer, inner = jnp.linalg.qr(left)
        outer_, inner_ = jnp.linalg.qr(right.T)
        u, s, v = jnp.linalg.svd(inner @ inner_.T, full_matrices=False)
        a, b, root = outer @ u[:, :rank], v[:rank] @ outer_.T, jnp.sqrt(s[:rank])
        # Singular vectors are known up to their sign, which must not depend on the order of the clients.
        sign = jnp.sign(jnp.take_along_axis(a, jnp.argmax(jnp.abs(a), axis=0)[None], axis=0))
        return {"lora_a": a * sign * root[None], "lora_b": (sign * root[None]).T * b}

    return _pairwise(change)


def fedex_lora(lora_scale: float) -> Rule:
    """FedEx-LoRA (Singhal et al., 2024, eq. 5): A and B are averaged, and what the mean of the products has more than
    their product goes into the kernel, which is therefore the cell's own."""

    def change(clients: Tree, share: jax.Array, mean: Tree, start: Tree) -> Tree:
        left, right = _stacked(clients, share)
        return {KERNEL: start[KERNEL] + lora_scale * (left @ right - mean["lora_a"] @ mean["lora_b"])}

    return _pairwise(change)._replace(owns_kernels=True, local=Local(trains=_not_the_kernel))


def flora(lora_scale: float) -> Rule:
    """FLoRA (Wang et al., 2024, alg. 1): the pairs are stacked, which adds the mean of their products to the kernel.

    The next round starts from fresh ones, A ~ U(+-1/sqrt(in)) as at first and B = 0, the same in all cells."""

    def init(globals_: Tree) -> jax.Array:  # noqa: ARG001
        return jnp.zeros((), jnp.int32)

    def aggregate(updates: Updates, round_: jax.Array) -> tuple[Tree, Tree, Diagnostics]:
        drawn = iter(jax.random.split(jax.random.key(round_), len(jax.tree.leaves(updates.start))))

        def change(clients: Tree, share: jax.Array, mean: Tree, start: Tree) -> Tree:
            left, right = _stacked(clients, share)
            bound, like = mean["lora_a"].shape[0] ** -0.5, mean["lora_a"]
            fresh = jax.random.uniform(next(drawn), like.shape, like.dtype, -bound, bound)
            kernel = start[KERNEL] + lora_scale * (left @ right)
            return {KERNEL: kernel, "lora_a": fresh, "lora_b": jnp.zeros_like(mean["lora_b"])}

        return _changed(updates, change), round_ + 1, {}

    local = Local(trains=_not_the_kernel)
    return fedavg()._replace(init=init, aggregate=aggregate, ahead=False, owns_kernels=True, local=local)


def _not_the_kernel(path: tuple) -> bool:
    return path[-1].key != KERNEL


# (a module's leaves of all clients [K, ...], their shares f32[K], the mean, the module before the round) -> leaves
Change = Callable[[Tree, jax.Array, Tree, Tree], Tree]


def _pairwise(change: Change) -> Rule:
    """FedAvg, and then `change` of every module with a LoRA pair."""

    def aggregate(updates: Updates, state: Tree) -> tuple[Tree, Tree, Diagnostics]:
        return _changed(updates, change), state, {}

    return fedavg()._replace(aggregate=aggregate, ahead=False)


def _changed(updates: Updates, change: Change) -> Tree:
    """The mean of the clients' leaves, of each module with a pair the leaves that `change` gives in their place."""
    share = normalise(updates.rows, updates.mask)

    def visit(mean: Tree, clients: Tree, start: Tree) -> Tree:
        if not isinstance(mean, dict):
            return mean
        if "lora_a" not in mean:
            return {name: visit(mean[name], clients[name], start[name]) for name in mean}
        present = jax.tree.map(lambda leaf: jnp.where(along(updates.mask, leaf), leaf, 0.0), clients)
        return {**mean, **change(present, share, mean, start)}

    return visit(updates.weighted, updates.leaves, updates.start)


def _stacked(clients: Tree, share: jax.Array) -> tuple[jax.Array, jax.Array]:
    """([in, K r], [K r, out]) whose product is the mean of the clients' A_k B_k."""
    a, b = clients["lora_a"] * along(share, clients["lora_a"]), clients["lora_b"]
    return jnp.moveaxis(a, 0, 1).reshape(a.shape[1], -1), b.reshape(-1, b.shape[2])
