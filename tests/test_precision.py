"""Computing in bfloat16: how far it is from float32, and which numbers stay in float32 throughout.

bfloat16 has 8 significant bits, so a rounding is off by up to U = 2^-8 of the value. Roundings are independent:
after n of them on the way from a leaf to a result the relative error is about sqrt(n) U at most, as a norm over
many elements. That holds for smooth functions. At a kink a rounding can switch a derivative to another one: the
tests keep ReLUs away from theirs, and compare gradients of TextCNN where a width has one window to choose from.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_paradox.federated.local import OPTIMIZERS, Learner, local_step
from fedjax_paradox.federated.objectives import cross_entropy
from fedjax_paradox.federated.types import Client, Hyper
from fedjax_paradox.models.base import Model
from fedjax_paradox.models.distilbert import EncoderSizes, frozen_shapes, transformer
from fedjax_paradox.models.textcnn import textcnn

U = 2.0**-8
TINY = EncoderSizes(vocabulary_size=60, positions=16, dim=32, layers=2, heads=4, hidden=64)
CLASSES, ROWS, WIDTH = 3, 16, 4
TOKENS = jax.random.randint(jax.random.key(0), (ROWS, 12), 1, 60, jnp.int32)
LABELS = jnp.arange(ROWS, dtype=jnp.int32) % CLASSES
FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")


def frozen_weights() -> dict:
    """Products and sums of order one throughout, as in a trained encoder: nothing saturates."""
    rng = np.random.default_rng(0)

    def leaf(path: tuple, spec: jax.ShapeDtypeStruct) -> jax.Array:
        table, scale = path[0].key == "embeddings", spec.shape[0] ** -0.5
        spread = 0.2 if len(spec.shape) == 1 else 1.0 if table else scale
        return jnp.asarray((path[-1].key == "scale") + spread * rng.standard_normal(spec.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, frozen_shapes(TINY))


def build(kind: str, compute_dtype: str) -> Model:
    if kind == "textcnn":
        return textcnn(60, CLASSES, embedding_size=8, filters=6, widths=(WIDTH,), compute_dtype=compute_dtype)
    return transformer(TINY, frozen_weights(), CLASSES, lora_rank=2, compute_dtype=compute_dtype)


def leaves(model: Model) -> tuple[dict, dict]:
    """Initial leaves with B moved off zero, and no ReLU near its kink."""
    trainable, frozen = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    trainable = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), trainable)
    for name in trainable.keys() & {"pre_classifier", f"conv_{WIDTH}"}:
        trainable[name]["bias"] += 4.0
    return trainable, frozen


@functools.cache
def trained(kind: str, compute_dtype: str, length: int = TOKENS.shape[1]) -> tuple[jax.Array, dict]:
    """(logits, gradients of the mean cross-entropy), dropout on, on texts of so many tokens."""
    model = build(kind, compute_dtype)
    trainable, frozen = leaves(model)

    def loss(trainable: dict) -> tuple[jax.Array, jax.Array]:
        logits = model.apply(trainable, frozen, TOKENS[:, :length], jax.random.key(1))
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean(), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(trainable)
    return logits, gradients


def relative(ours: Any, theirs: Any) -> float:
    a, b = (np.asarray(x, np.float64) for x in (ours, theirs))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def errors(kind: str, *length: int) -> tuple[float, dict[str, float]]:
    """Relative errors of the logits and of each leaf's gradient."""
    (logits, gradients), (expected, gradients32) = (trained(kind, dtype, *length) for dtype in ("bfloat16", "float32"))
    each = jax.tree_util.tree_leaves_with_path(jax.tree.map(relative, gradients, gradients32))
    return relative(logits, expected), {jax.tree_util.keystr(path): error for path, error in each}


@pytest.mark.conformance
def test_transformer() -> None:
    logits, gradients = errors("transformer")
    # Some 25 roundings in each of two layers, half of them on a residual branch; and as many on the way back.
    assert U / 16 < logits < 50**0.5 * U  # below: it would not be bfloat16
    assert len(gradients) == 12
    assert max(gradients.values()) < 100**0.5 * U, gradients


@pytest.mark.conformance
def test_textcnn() -> None:
    # Row, kernel, product, bias and dropout; a maximum is off by no more than what it is taken of.
    assert U / 16 < errors("textcnn")[0] < 5**0.5 * U
    logits, gradients = errors("textcnn", WIDTH)
    assert U / 16 < logits < 5**0.5 * U
    assert len(gradients) == 5
    assert max(gradients.values()) < 10**0.5 * U, gradients


@pytest.mark.parametrize("kind", ["textcnn", "transformer"])
def test_logits_and_gradients_are_float32(kind: str) -> None:
    model = build(kind, "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(trained(kind, "bfloat16"))} == {FLOAT32}
    assert jax.eval_shape(model.apply, *leaves(model), TOKENS).dtype == FLOAT32


def test_large_products_and_activations_are_bfloat16_and_the_delicate_parts_float32() -> None:
    model = build("transformer", "bfloat16")
    trees = jax.eval_shape(model.init, jax.random.key(0))
    jaxpr = jax.make_jaxpr(model.apply)(*trees, TOKENS, jax.random.key(0)).jaxpr
    everything = {(eqn.primitive.name, eqn.outvars[0].aval.dtype) for eqn in equations(jaxpr)}
    found = {(name, dtype) for name, dtype in everything if jnp.issubdtype(dtype, jnp.floating)}
    assert {dtype for name, dtype in found if name in ("exp", "rsqrt", "reduce_sum", "reduce_max")} == {FLOAT32}
    assert {dtype for name, dtype in found if name in ("erf", "gather")} == {BFLOAT16}
    # float32: those of _scaled in layer norms and softmax, and the last layer.
    products = [eqn for eqn in equations(jaxpr) if eqn.primitive.name == "dot_general"]
    wide = [eqn for eqn in products if eqn.outvars[0].aval.dtype == FLOAT32]
    assert len(wide) == TINY.layers + (2 * TINY.layers + 1) + 1
    assert len(products) - len(wide) == TINY.layers * (4 + 2 * 2 + 2 + 2) + 1


def equations(jaxpr: Any) -> list:
    inner = [getattr(value, "jaxpr", value) for eqn in jaxpr.eqns for value in eqn.params.values()]
    return [*jaxpr.eqns, *(eqn for one in inner if hasattr(one, "eqns") for eqn in equations(one))]


def test_frozen_matrices_are_kept_in_bfloat16_and_vectors_in_float32() -> None:
    given = frozen_weights()
    _, frozen = transformer(TINY, given, CLASSES, compute_dtype="bfloat16").init(jax.random.key(0))
    for before, after in zip(jax.tree.leaves(given), jax.tree.leaves(frozen), strict=True):
        assert after.dtype == (BFLOAT16 if before.ndim == 2 else FLOAT32)
        np.testing.assert_array_equal(after, before.astype(after.dtype))


def test_no_frozen_matrix_is_converted_in_a_step() -> None:
    model = build("transformer", "bfloat16")
    trees = jax.eval_shape(model.init, jax.random.key(0))
    jaxpr = jax.make_jaxpr(jax.grad(lambda *args: model.apply(*args).sum()))(*trees, TOKENS, jax.random.key(0)).jaxpr
    converted = {e.outvars[0].aval.shape for e in equations(jaxpr) if e.primitive.name == "convert_element_type"}
    assert (32, 2) in converted  # a LoRA factor
    assert not {(60, 32), (32, 64), (64, 32)} & converted  # word table, lin1 and lin2


@pytest.mark.parametrize(("kind", "optimizer"), [("textcnn", "sgd"), ("transformer", "adamw")])
def test_a_step_keeps_float32_leaves_and_what_bfloat16_could_not_add(kind: str, optimizer: str) -> None:
    model = build(kind, "bfloat16")
    trainable, frozen = leaves(model)
    # Far below the spacing of bfloat16 at leaves of order 0.1 to 4, and above that of float32.
    hyper = Hyper(*jnp.asarray([1e-5, 0.0, 0.0, 0.0], jnp.float32))
    state = (trainable, OPTIMIZERS[optimizer](hyper).init(trainable))
    with jax.numpy_dtype_promotion("standard"):  # optax's AdamW raises a float to an integer power
        step = jax.jit(
            lambda state: local_step(
                Learner(
                    lambda params, tokens, key: model.apply(params, frozen, tokens, key),
                    cross_entropy(),
                    OPTIMIZERS[optimizer],
                ),
                state,
                (TOKENS, LABELS, jnp.ones(ROWS, bool)),
                jax.random.key(1),
                Client(jnp.zeros(()), jnp.zeros(()), jnp.zeros(CLASSES), trainable, (), hyper),
            )
        )
        (stepped, after), loss = step(state)
    assert jax.tree.map(jnp.result_type, (stepped, after)) == jax.tree.map(jnp.result_type, state)
    assert {leaf.dtype for leaf in jax.tree.leaves((stepped, loss))} == {FLOAT32}
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), stepped, trainable)
    assert all(jax.tree.leaves(moved)), moved
    lost = jax.tree.map(lambda new, old: (new.astype(BFLOAT16) == old.astype(BFLOAT16)).ravel(), stepped, trainable)
    assert np.concatenate(jax.tree.leaves(lost)).mean() > 0.9  # the others lay next to a boundary
