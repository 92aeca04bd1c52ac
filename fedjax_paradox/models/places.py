"""The tokens of a batch side by side, so that what is computed for each of them is computed for no padding.

Axes: B rows, T token places of a row, N places that are computed, D width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Places(NamedTuple):
    """Where the tokens of a batch stand. `of` is None where all B T places are computed, in their order."""

    of: jax.Array | None  # i32[N], which of the B T places; B T past the last token
    at: jax.Array  # i32[B, T], which of the N; N where there is no token


def places_of(mask: jax.Array, number: int | None) -> Places:
    """The places where `mask`, bool[B, T], is True, row by row; number: N, at least as many as there are; None: all."""
    if number is None:
        return Places(None, jnp.arange(mask.size, dtype=jnp.int32).reshape(mask.shape))
    flat = mask.ravel()
    (of,) = jnp.nonzero(flat, size=number, fill_value=flat.size)
    at = jnp.where(flat, jnp.cumsum(flat.astype(jnp.int32)) - 1, number)
    return Places(of.astype(jnp.int32), at.reshape(mask.shape))


def side_by_side(x: jax.Array, places: Places) -> jax.Array:
    """[B, T, D] -> [N, D], zeros past the last token."""
    flat = x.reshape(-1, x.shape[-1])
    return flat if places.of is None else _packed(flat, places.of, places.at.ravel())


def in_rows(x: jax.Array, places: Places) -> jax.Array:
    """[N, D] -> [B, T, D], zeros where there is no token."""
    flat = x if places.of is None else _packed(x, places.at.ravel(), places.of)
    return flat.reshape(*places.at.shape, x.shape[-1])


def first_of_rows(x: jax.Array, places: Places) -> jax.Array:
    """[N, D] -> [B, D], the first token of every row."""
    return x.at[places.at[:, 0]].get(mode="fill", fill_value=0)


@jax.custom_vjp
def _packed(x: jax.Array, which: jax.Array, back: jax.Array) -> jax.Array:  # noqa: ARG001  (the gradient's)
    """x[which], zeros where there is none; back: its inverse, with which the gradient is a look-up too. As JAX derives
    it, it would be a scatter, which is slow everywhere."""
    return x.at[which].get(mode="fill", fill_value=0)


def _forward(x: jax.Array, which: jax.Array, back: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _packed(x, which, back), (which, back)


def _backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, None, None]:
    which, back = saved
    return _packed(gradient, back, which), None, None


_packed.defvjp(_forward, _backward)
