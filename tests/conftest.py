"""Strict numerics for every test: mixed dtypes and silent rank promotion are errors."""

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
