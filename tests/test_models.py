"""The models as pure functions: shapes and counts, initial distributions, dropout, padding, lanes."""

import functools
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_paradox.errors import InputError
from fedjax_paradox.models import textcnn as cnn
from fedjax_paradox.models.base import Dropout, Model, merge, sizes, split
from fedjax_paradox.models.distilbert import EncoderSizes, frozen_shapes, transformer
from fedjax_paradox.models.textcnn import textcnn

TINY = EncoderSizes(vocabulary_size=60, positions=16, dim=32, layers=1, heads=4, hidden=64)
CLASSES = 3


def count(tree: object) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def tiny_frozen(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)

    def leaf(path: tuple, spec: jax.ShapeDtypeStruct) -> jax.Array:
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(centre + 0.3 * rng.standard_normal(spec.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, frozen_shapes(TINY))


@functools.cache
def tiny_transformer(**rates: float) -> Model:
    return compiled(transformer(TINY, tiny_frozen(), CLASSES, lora_rank=2, **rates))


@functools.cache
def tiny_textcnn() -> Model:
    return compiled(textcnn(60, CLASSES, embedding_size=8, filters=6))


def compiled(model: Model) -> Model:
    """Run eagerly, Linen compiles operation by operation: most of the time that these tests take."""
    return model._replace(apply=jax.jit(model.apply, static_argnames="places" if model.packs else ()))


MODELS = {"textcnn": tiny_textcnn, "transformer": tiny_transformer}


def perturbed(model: Model, seed: int = 0) -> tuple[dict, dict]:
    """Initial leaves with B moved off zero, so that the adapters matter."""
    trainable, frozen = model.init(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    moved = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), trainable)
    return moved, frozen


def some_tokens(batch: int = 4, length: int = 12, seed: int = 0) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), (batch, length), 1, 60, jnp.int32)


@pytest.fixture(params=MODELS, scope="module")
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]()


# Counts


def test_textcnn_has_the_published_number_of_parameters() -> None:
    assert sizes(textcnn(20_000, 4)) == (2_715_104, 2_715_104)


def test_sizes_are_those_of_the_trees(model: Model) -> None:
    trainable, frozen = model.init(jax.random.key(0))
    assert sizes(model) == (count(trainable), count(trainable) + count(frozen))


@pytest.mark.parametrize("widths", [(2, 2), (3, 4, 3), (0, 1), (-1,), ()])
def test_textcnn_widths_name_one_convolution_each(widths: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="must be positive and differ"):
        textcnn(60, 2, widths=widths)


def test_distilbert_has_the_numbers_of_parameters_that_peft_prints() -> None:
    frozen = frozen_shapes(EncoderSizes())
    model = transformer(EncoderSizes(), frozen, num_classes=4)
    trainable = jax.eval_shape(lambda key: model.init(key)[0], jax.random.key(0))
    head = {name: trainable[name] for name in ("pre_classifier", "classifier")}
    assert count(trainable) == 741_124
    # PEFT also keeps the untrained original of every module that it trains in full.
    assert count(frozen) + count(head) + count(trainable) == 67_697_672


def test_every_leaf_is_float32_and_trees_are_plain_dicts(model: Model) -> None:
    trees = model.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(trees)} == {jnp.dtype(jnp.float32)}
    assert all(type(tree) is dict for tree in trees)


# Initial distributions


def test_textcnn_starts_from_pytorchs_default_distributions() -> None:
    trainable, _ = textcnn(5000, 4, embedding_size=64, filters=100).init(jax.random.key(1))
    words = np.asarray(trainable["embedding"])
    assert not words[0].any()
    # 320,000 draws: the standard error of mean and deviation is 0.002; five of them are allowed.
    assert abs(words[1:].mean()) < 0.01
    assert abs(words[1:].std() - 1) < 0.01
    for width in (3, 4, 5):
        bound = (width * 64) ** -0.5
        for leaf in trainable[f"conv_{width}"].values():
            assert_uniform(leaf, bound)
    for leaf in trainable["classifier"].values():
        assert_uniform(leaf, 300**-0.5)


def assert_uniform(leaf: jax.Array, bound: float) -> None:
    values = np.asarray(leaf).ravel()
    assert np.abs(values).max() <= bound
    if values.size > 1000:
        # A uniform's deviation is bound / sqrt(3), estimated here to 2 % or better.
        assert values.std() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert np.abs(values).max() > 0.98 * bound


def test_transformer_starts_as_peft_and_hugging_face_do() -> None:
    sizes = EncoderSizes(vocabulary_size=20, positions=8, dim=256, layers=1, heads=4, hidden=8)
    trainable, _ = transformer(sizes, {}, 4).init(jax.random.key(0))
    for name in ("q_lin", "v_lin"):
        factors = trainable["layer_0"]["attention"][name]
        assert not np.asarray(factors["lora_b"]).any()
        assert_uniform(factors["lora_a"], 256**-0.5)
    assert set(trainable["layer_0"]["attention"]) == {"q_lin", "v_lin"}
    for name in ("pre_classifier", "classifier"):
        assert not np.asarray(trainable[name]["bias"]).any()
        # 1,024 draws or more: the deviation is known to 2.2 %.
        assert np.asarray(trainable[name]["kernel"]).std() == pytest.approx(0.02, rel=0.1)


def test_init_can_be_vmapped_over_keys_and_is_a_function_of_the_key(model: Model) -> None:
    keys = jax.random.split(jax.random.key(3), 2)
    lanes = jax.vmap(lambda key: model.init(key)[0])(keys)
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *(model.init(key)[0] for key in keys))
    jax.tree.map(np.testing.assert_array_equal, lanes, alone)
    different = jax.tree.map(lambda x: bool((x[0] != x[1]).any()), lanes)
    assert any(jax.tree.leaves(different))


def test_the_frozen_tree_is_handed_through_and_not_copied() -> None:
    frozen = tiny_frozen()
    given = transformer(TINY, frozen, CLASSES).init(jax.random.key(0))[1]
    assert all(a is b for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(frozen), strict=True))


# Trees


def test_trainable_and_frozen_are_disjoint_and_complete() -> None:
    trainable, frozen = tiny_transformer().init(jax.random.key(0))
    ours, theirs = (set(traverse_util.flatten_dict(tree)) for tree in (trainable, frozen))
    assert not ours & theirs
    assert len(ours) == 2 * 2 * TINY.layers + 4
    assert len(theirs) == 16 * TINY.layers + 4


def test_only_lora_factors_are_adapters() -> None:
    model = tiny_transformer()
    trainable, _ = model.init(jax.random.key(0))
    marks = jax.tree_util.tree_map_with_path(lambda path, _: model.is_adapter(path), trainable)
    flat = traverse_util.flatten_dict(marks)
    assert {names[-1] for names, mark in flat.items() if mark} == {"lora_a", "lora_b"}
    assert {names[0] for names, mark in flat.items() if not mark} == {"pre_classifier", "classifier"}


def test_what_a_transformer_trains_is_a_choice() -> None:
    kinds = {kind: transformer(TINY, tiny_frozen(), CLASSES, trains=kind) for kind in ("adapters", "head", "all")}
    parts = {kind: model.init(jax.random.key(3)) for kind, model in kinds.items()}
    numbers = {kind: tuple(map(count, each)) for kind, each in parts.items()}
    encoder = count(tiny_frozen())
    head = TINY.dim * (TINY.dim + 1) + CLASSES * (TINY.dim + 1)
    assert (numbers["head"], numbers["all"]) == ((head, encoder), (head + encoder, 0))
    # B starts at 0, and the heads are of one key: untrained, the three are one model.
    logits = [kinds[kind].apply(*each, some_tokens()) for kind, each in parts.items()]
    chex.assert_trees_all_close(logits[0], logits[1], logits[2], rtol=1e-6, atol=1e-6)


def test_random_weights_are_those_of_an_encoder_before_pretraining() -> None:
    frozen, other = (transformer(TINY, None, CLASSES).init(jax.random.key(seed))[1] for seed in (1, 2))
    chex.assert_trees_all_equal(frozen, other)  # shared by all cells
    chex.assert_trees_all_equal_shapes_and_dtypes(frozen, tiny_frozen())
    matrices = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(frozen) if leaf.ndim > 1])
    # Means of some thousand draws, by five standard errors.
    error = 5 * 0.02 / matrices.size**0.5
    assert abs(float(matrices.mean())) < error
    assert abs(float(matrices.std()) - 0.02) < error
    flat = jax.tree_util.tree_leaves_with_path(frozen)
    assert all((leaf == float(path[-1].key == "scale")).all() for path, leaf in flat if leaf.ndim == 1)
    of_seeds = [transformer(TINY, None, CLASSES, trains="all").init(jax.random.key(seed))[0] for seed in (1, 2)]
    words = [each["embeddings"]["word"]["embedding"] for each in of_seeds]
    assert not np.array_equal(*words)  # trained weights are of the cell's seed


def test_textcnn_has_no_adapters() -> None:
    model = tiny_textcnn()
    trainable, _ = model.init(jax.random.key(0))
    marks = jax.tree_util.tree_map_with_path(lambda path, _: model.is_adapter(path), trainable)
    assert not any(jax.tree.leaves(marks))


nested = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, min_size=1), max_leaves=12
).filter(lambda tree: isinstance(tree, dict))


@given(tree=nested, salt=st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_split_parts_every_leaf_once_and_merge_restores_them(tree: dict, salt: int) -> None:
    def chosen(path: tuple) -> bool:
        return sum(ord(entry.key) for entry in path) * 5 % 8 <= salt

    parts = split(tree, chosen)
    paths = [{path for path, _ in jax.tree_util.tree_leaves_with_path(part)} for part in parts]
    assert all(map(chosen, paths[0]))
    assert not any(map(chosen, paths[1]))
    assert merge(*parts) == tree


def test_merge_refuses_a_leaf_that_both_trees_hold() -> None:
    with pytest.raises(ValueError, match="'w'"):
        merge({"a": {"w": 1}}, {"a": {"w": 2}})


# Dropout


def test_no_key_is_evaluation_and_a_key_is_training(model: Model) -> None:
    trainable, frozen = perturbed(model)
    tokens = some_tokens()
    evaluated = model.apply(trainable, frozen, tokens)
    assert evaluated.shape == (4, CLASSES)
    assert evaluated.dtype == jnp.float32
    np.testing.assert_array_equal(evaluated, model.apply(trainable, frozen, tokens))
    keys = jax.random.split(jax.random.key(0), 2)
    first, second = (model.apply(trainable, frozen, tokens, key) for key in keys)
    np.testing.assert_array_equal(first, model.apply(trainable, frozen, tokens, keys[0]))
    assert not np.allclose(first, second, atol=1e-3)
    assert not np.allclose(first, evaluated, atol=1e-3)


NO_DROPOUT = dict.fromkeys(("lora_dropout", "dropout", "attention_dropout", "head_dropout"), 0.0)
# Tensors that each rate drops from: inputs of q and v, embeddings and block, attention weights, hidden of the head.
PLACES = {"lora_dropout": 2, "dropout": 2, "attention_dropout": 1, "head_dropout": 1}


@pytest.mark.parametrize("only", PLACES)
def test_each_rate_drops_by_itself_and_zero_rates_drop_nothing(only: str) -> None:
    quiet, noisy = tiny_transformer(**NO_DROPOUT), tiny_transformer(**NO_DROPOUT | {only: 0.5})
    trainable, frozen = perturbed(quiet)
    tokens, key = some_tokens(), jax.random.key(5)
    evaluated = quiet.apply(trainable, frozen, tokens)
    np.testing.assert_array_equal(quiet.apply(trainable, frozen, tokens, key), evaluated)
    assert not np.allclose(noisy.apply(trainable, frozen, tokens, key), evaluated, atol=1e-3)


@pytest.mark.parametrize("only", [*PLACES, None])
def test_a_rate_of_zero_draws_no_random_bits_and_is_no_data(only: str | None) -> None:
    model = tiny_transformer(**NO_DROPOUT | ({only: 0.5} if only else {}))
    assert model.rates == ({only: 0.5} if only else {})
    assert draws(model) == (PLACES[only] if only else 0)


@pytest.mark.parametrize(("rate", "rates", "drawn"), [(0.5, {"dropout": 0.5}, 1), (0.0, {}, 0)])
def test_the_rate_of_textcnn_is_data_unless_it_is_zero(rate: float, rates: dict[str, float], drawn: int) -> None:
    model = textcnn(60, CLASSES, embedding_size=8, filters=6, dropout=rate)
    assert model.rates == rates
    assert draws(model) == drawn


def draws(model: Model) -> int:
    """How many tensors of random bits a training step draws."""
    trees = jax.eval_shape(model.init, jax.random.key(0))
    return str(jax.make_jaxpr(model.apply)(*trees, some_tokens(), jax.random.key(0))).count("threefry2x32 ")


def test_rates_as_data_give_what_the_models_own_give(model: Model) -> None:
    """To the bit: the cells of a sweep over rates share one program with rates that are traced."""
    trainable, frozen = perturbed(model)
    tokens, key = some_tokens(), jax.random.key(5)
    rates = {name: jnp.asarray(rate) for name, rate in model.rates.items()}
    own = model.apply(trainable, frozen, tokens, key)
    np.testing.assert_array_equal(model.apply(trainable, frozen, tokens, key, rates), own)
    for name in rates:
        other = model.apply(trainable, frozen, tokens, key, rates | {name: jnp.asarray(0.7)})
        assert not np.allclose(other, own, atol=1e-3), name
    np.testing.assert_array_equal(
        model.apply(trainable, frozen, tokens, None, rates), model.apply(trainable, frozen, tokens)
    )


def dropped(x: jax.Array, rate: float | jax.Array) -> jax.Array:
    return Dropout().apply({}, x, rate, rngs={"dropout": jax.random.key(0)})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rate", [1e-9, 0.1, 1 / 3, 0.5, 0.9999999])
def test_a_traced_rate_is_the_same_rate(rate: float, dtype: str) -> None:
    x = jax.random.normal(jax.random.key(1), (999,), dtype)
    traced = jax.jit(dropped)(x, jnp.asarray(rate, jnp.float32))
    np.testing.assert_array_equal(traced, dropped(x, rate))
    np.testing.assert_array_equal(traced, jax.jit(lambda x: dropped(x, rate))(x))
    assert traced.dtype == dtype
    assert np.isfinite(jax.jit(jax.grad(lambda x: dropped(x, rate).astype(jnp.float32).sum()))(x)).all()


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_dropout_in_bfloat16_keeps_the_mean(rate: float) -> None:
    x = jax.random.uniform(jax.random.key(1), (100_000,), jnp.bfloat16, 1.0, 2.0)
    after, before = (np.asarray(each, np.float64) for each in (dropped(x, rate), x))
    ratios = (after / before)[after != 0] * (1 - rate)
    # A ratio is off by up to 2^-8 to either side, so that the mean of 70,000 is off by some 1e-5; a scale that
    # is itself rounded is off by 1e-3 at these rates.
    assert ratios.mean() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(ratios, 1, rtol=2**-8)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(100_001,), (200, 500)])
def test_dropout_zeroes_at_its_rate_and_keeps_the_mean(rate: float, shape: tuple[int, ...]) -> None:
    after = np.asarray(dropped(jnp.ones(shape), rate))
    kept = after != 0
    # 100,000 draws: the standard error of a share is at most 0.0016; four of them are allowed.
    assert kept.mean() == pytest.approx(1 - rate, abs=0.0064)
    np.testing.assert_allclose(after[kept], 1 / (1 - rate), rtol=2e-5)  # the rate is rounded to 1/65536
    # The four parts of an axis share hashes, two of them words; of any two elements the joint frequency must be that of
    # independent draws.
    quarter = -(-shape[-1] // 4)
    for apart in (1, quarter, 2 * quarter, 3 * quarter):
        both = kept[..., apart:] & kept[..., :-apart]
        # 25,000 pairs at least, of whose share 4.6 standard errors (0.0027) are allowed; pairs of neighbours overlap.
        assert both.mean() == pytest.approx((1 - rate) ** 2, abs=0.0126), apart


def test_what_dropout_draws_does_not_depend_on_how_many_places_follow() -> None:
    """Along the last two axes, or all but the one whose parts share hashes."""

    def kept(quartered: int, *shape: int) -> np.ndarray:
        drop = Dropout(quartered=quartered)
        return np.asarray(drop.apply({}, jnp.ones(shape), 0.5, rngs={"dropout": jax.random.key(0)})) != 0

    whole = kept(0, 5, 3, 12, 16)
    np.testing.assert_array_equal(kept(0, 5, 3, 9, 11), whole[:, :, :9, :11])
    np.testing.assert_array_equal(kept(-1, 7, 10), kept(-1, 20, 10)[:7])
    # Rows, heads and places draw each their own.
    for axis in range(4):
        first, second = np.take(whole, 0, axis), np.take(whole, 1, axis)
        assert 0.3 < (first == second).mean() < 0.7  # at least 180 elements: five standard errors are 0.19


# Padding


def test_transformer_ignores_padding() -> None:
    model = tiny_transformer()
    trainable, frozen = perturbed(model)
    tokens = some_tokens(length=7)
    padded = jnp.pad(tokens, ((0, 0), (0, 5)))
    # Sums run over other lengths, so float32 rounding differs; a leak would be of order one.
    expected = model.apply(trainable, frozen, tokens)
    np.testing.assert_allclose(model.apply(trainable, frozen, padded), expected, rtol=1e-5, atol=1e-5)


def test_a_row_of_padding_alone_stays_finite(model: Model) -> None:
    trainable, frozen = perturbed(model)
    grads = jax.jit(jax.grad(lambda t: model.apply(t, frozen, jnp.zeros((2, 12), jnp.int32)).sum()))(trainable)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_textcnn_padding_embeds_to_zero_and_is_not_trained() -> None:
    model = tiny_textcnn()
    trainable, _ = perturbed(model)
    tokens = jnp.pad(some_tokens(length=6), ((0, 0), (0, 4)))
    other = trainable | {"embedding": trainable["embedding"].at[0].add(7.0)}
    np.testing.assert_array_equal(model.apply(trainable, {}, tokens), model.apply(other, {}, tokens))
    grads = jax.jit(jax.grad(lambda t: (model.apply(t, {}, tokens) ** 2).sum()))(trainable)
    assert not np.asarray(grads["embedding"][0]).any()
    assert np.asarray(grads["embedding"][1:]).any()


# Lanes and gradients


def loss(model: Model, trainable: dict, frozen: dict, tokens: jax.Array, key: jax.Array) -> jax.Array:
    return (model.apply(trainable, frozen, tokens, key) ** 2).mean()


def side_by_side(x: np.ndarray, lengths: np.ndarray, gap: int) -> tuple[jax.Array, cnn.Rows]:
    """f32[N, E] and where its rows are; x: [B, T, E], of which each row has so many tokens."""
    flat = np.concatenate([np.pad(row[:length], ((0, gap), (0, 0))) for row, length in zip(x, lengths, strict=True)])
    begin = np.cumsum(lengths + gap) - lengths - gap
    rows = cnn.Rows(*(jnp.asarray(values, jnp.int32) for values in (begin, lengths, np.arange(x.shape[1]))))
    return jnp.asarray(np.pad(flat, ((0, 4), (0, 0))), jnp.float32), rows


@pytest.mark.parametrize("size", [1, 4, 512])
@pytest.mark.parametrize("dead", [0.0, 0.5, 1.0])
def test_the_gradient_that_visits_winners_alone_is_the_whole_one(
    size: int, dead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two lanes, against the plain convolution of a padded batch with the gradient that JAX derives."""
    monkeypatch.setattr(cnn, "BLOCK", size)
    rng, lengths = np.random.default_rng(0), np.array([9, 1, 0, 8, 4])
    there = np.arange(9)[:, None] < lengths[:, None, None]
    x = np.where(there, rng.normal(size=(5, 9, 4)), 0.0)
    kernel = jnp.asarray(rng.normal(size=(2, 3, 4, 6)), jnp.float32)
    cotangent = jnp.asarray(rng.normal(size=(2, 5, 6)) * (rng.random((2, 5, 6)) >= dead), jnp.float32)
    flat, rows = side_by_side(x, lengths, gap=2)

    def gradients(largest: Callable, x: jax.Array) -> tuple:
        def one(kernel: jax.Array, cotangent: jax.Array) -> tuple:
            value, back = jax.vjp(largest, x, kernel)
            return value, *back(cotangent)

        return jax.jit(jax.vmap(one))(kernel, cotangent)

    padded = gradients(lambda x, kernel: cnn._responses(x, kernel).max(axis=1), jnp.asarray(x, jnp.float32))
    expected = (
        padded[0],
        jnp.concatenate([padded[1][:, row, :length] for row, length in enumerate(lengths)], 1),
        padded[2],
    )
    taken = np.concatenate(
        [np.arange(begin, begin + length) for begin, length in zip(rows.begin, lengths, strict=True)]
    )
    for largest in (cnn._largest, cnn._largest_sparse):
        value, to_x, to_kernel = gradients(lambda x, kernel, largest=largest: largest(x, kernel, rows), flat)
        # Sums of up to thirty float32 products in another order.
        chex.assert_trees_all_close((value, to_x[:, taken], to_kernel), expected, rtol=1e-5, atol=1e-6)


def test_vmap_over_lanes_equals_a_loop(model: Model) -> None:
    lanes = 3
    starts = [perturbed(model, seed) for seed in range(lanes)]
    frozen = starts[0][1]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(trainable for trainable, _ in starts))
    tokens = jnp.stack([some_tokens(seed=seed) for seed in range(lanes)])
    keys = jax.random.split(jax.random.key(9), lanes)
    step = jax.value_and_grad(lambda *args: loss(model, *args))
    together = jax.jit(jax.vmap(step, in_axes=(0, None, 0, 0)))(stacked, frozen, tokens, keys)
    alone = jax.jit(step)
    for lane, (trainable, _) in enumerate(starts):
        expected = alone(trainable, frozen, tokens[lane], keys[lane])
        # The same draws and formulas; only the order of float32 sums may differ.
        jax.tree.map(
            lambda got, want, lane=lane: np.testing.assert_allclose(got[lane], want, rtol=1e-4, atol=1e-5),
            together,
            expected,
        )


def test_every_trainable_leaf_gets_a_gradient(model: Model) -> None:
    trainable, frozen = perturbed(model)
    key = jax.random.key(0)
    grads = jax.jit(jax.grad(lambda t: loss(model, t, frozen, some_tokens(batch=16), key)))(trainable)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.asarray(leaf).any(), jax.tree_util.keystr(path)


def test_merged_adapters_equal_unmerged_ones() -> None:
    alpha, rank = 16.0, 2
    model = tiny_transformer()
    trainable, frozen = perturbed(model)
    merged = jax.tree.map(lambda x: x, frozen)
    plain = jax.tree.map(lambda x: x, trainable)
    for layer in range(TINY.layers):
        for name in ("q_lin", "v_lin"):
            factors = plain[f"layer_{layer}"]["attention"][name]
            merged[f"layer_{layer}"]["attention"][name]["kernel"] += (
                alpha / rank * (factors["lora_a"] @ factors["lora_b"])
            )
            plain[f"layer_{layer}"]["attention"][name] = jax.tree.map(jnp.zeros_like, factors)
    tokens = some_tokens()
    expected = model.apply(trainable, frozen, tokens)
    # W x + s B A x against (W + s B A) x in float32, after a layer.
    np.testing.assert_allclose(model.apply(plain, merged, tokens), expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(model.apply(plain, frozen, tokens), expected, atol=1e-3)


# Padding that may be cut off


def test_padding_after_the_trailing_places_changes_no_logits(model):
    """The kernels are the same sums over fewer places: float32 rounding."""
    trainable, frozen = perturbed(model)
    tokens = np.array(some_tokens(length=16))
    tokens[:, 5:] = 0
    shorter = tokens[:, : 5 + model.trailing]
    whole = model.apply(trainable, frozen, tokens)
    np.testing.assert_allclose(model.apply(trainable, frozen, shorter), whole, rtol=1e-5, atol=1e-5)


def test_a_window_of_padding_alone_can_be_the_largest_response():
    """Which is why a textcnn needs trailing places: without them its logits are others."""
    model = tiny_textcnn()
    trainable, frozen = perturbed(model)
    tokens = np.array(some_tokens(length=16))
    tokens[:, 5:] = 0
    whole, cut = (model.apply(trainable, frozen, each) for each in (tokens, tokens[:, :5]))
    assert np.abs(whole - cut).max() > 1e-3
