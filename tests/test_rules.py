"""Rules against their formulas by hand, and one contract that every rule keeps."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_paradox.federated import rules
from fedjax_paradox.federated.types import Participants, Updates

K = 4


def is_adapter(path):
    return path[0].key == "adapter"


def updates(seed=0, rows=(10.0, 40.0, 5.0, 1.0), mask=(True, True, True, True)):
    generator = np.random.default_rng(seed)
    leaves = {
        "adapter": {"a": jnp.asarray(generator.normal(size=(K, 3, 2)), jnp.float32)},
        "head": jnp.asarray(generator.normal(size=(K, 5)), jnp.float32),
    }
    return Updates(
        start=jax.tree.map(lambda leaf: leaf[0] * 0 + 7, leaves),
        leaves=leaves,
        client=jnp.arange(K, dtype=jnp.int32),
        rows=jnp.asarray(rows, jnp.float32),
        loss=jnp.asarray(generator.random(K), jnp.float32),
        class_counts=jnp.asarray(generator.integers(0, 9, (K, 3)), jnp.float32),
        mask=jnp.asarray(mask),
    )


# Name -> (builder of traced numbers, the numbers); a new rule is added here and inherits every check.
RULES = {
    "fedavg": (rules.fedavg, {}),
    "uniform": (rules.uniform, {}),
    "fedavgw": (lambda beta: rules.fedavgw(beta, is_adapter), {"beta": 0.5}),
    "on_leaves": (lambda: rules.on_leaves(is_adapter, rules.uniform(), rules.fedavg()), {}),
}


@pytest.fixture(params=RULES)
def case(request):
    build, numbers = RULES[request.param]
    return build, {name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()}


def apply(build, numbers, given):
    rule = build(**numbers)
    return rule.aggregate(given, rule.init(given.start))[0]


def test_every_named_rule_is_under_contract():
    assert set(rules.RULES) <= set(RULES)


def test_masked_slot_is_inert_even_when_not_finite(case):
    masked = updates(mask=(True, True, False, True))
    poisoned = masked._replace(leaves=jax.tree.map(lambda leaf: leaf.at[2].set(jnp.nan), masked.leaves))
    kept = jax.tree.map(lambda leaf: leaf[np.array([0, 1, 3])], masked._replace(start=None))
    without = kept._replace(start=masked.start)
    chex.assert_trees_all_close(apply(*case, poisoned), apply(*case, without), rtol=1e-6)  # one float32 sum
    chex.assert_trees_all_equal(apply(*case, poisoned), apply(*case, masked))


def test_clients_can_be_permuted(case):
    order = np.array([2, 0, 3, 1])
    given = updates()
    permuted = jax.tree.map(lambda leaf: leaf[order], given._replace(start=None))._replace(start=given.start)
    chex.assert_trees_all_close(apply(*case, given), apply(*case, permuted), rtol=1e-5, atol=1e-6)  # sum order


def test_equal_updates_are_kept(case):
    given = updates()
    same = given._replace(leaves=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), given.leaves))
    expected = jax.tree.map(lambda leaf: leaf[0], same.leaves)
    chex.assert_trees_all_close(apply(*case, same), expected, rtol=1e-6)  # weights sum to 1 within rounding


def known(given):
    return Participants(given.client, given.rows, given.class_counts, given.mask, jnp.zeros(K, jnp.int32))


@pytest.mark.parametrize("mask", [(True,) * K, (True, False, True, True)])
def test_one_client_with_the_sum_of_all_stands_for_all(case, mask):
    build, numbers = case
    rule, given = build(**numbers), updates(mask=mask)
    if rule.weights is None:
        pytest.skip("this rule sees every client's leaves")
    weights = rule.weights(known(given), given.start)
    total = jax.tree.map(lambda w, leaf: jnp.tensordot(w, leaf, 1)[None], weights, given.leaves)
    one = jax.tree.map(lambda leaf: leaf[:1], given._replace(start=None))._replace(start=given.start, leaves=total)
    chex.assert_trees_all_close(apply(*case, one), apply(*case, given), rtol=1e-5, atol=1e-6)  # sum order


def test_a_weighting_that_reads_losses_is_not_known_before_training():
    rule = rules.weighted_mean(lambda updates: updates.loss, ahead=True)
    with pytest.raises(AttributeError, match="'Participants' object has no attribute 'loss'"):
        rule.weights(known(updates()), updates().start)
    own = rules.on_leaves(is_adapter, rules.weighted_mean(lambda updates: updates.loss), rules.fedavg())
    assert not own.ahead


def test_nobody_took_part_keeps_the_global(case):
    given = updates(mask=(False,) * K)
    chex.assert_trees_all_equal(apply(*case, given), given.start)


def test_jit_equals_eager_and_vmap_equals_loop_and_dtypes_stay(case):
    build, numbers = case
    batch = [updates(seed) for seed in range(3)]
    loop = [apply(build, numbers, given) for given in batch]
    chex.assert_trees_all_equal_shapes_and_dtypes(loop[0], batch[0].start)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batch)
    mapped = jax.vmap(lambda given: apply(build, numbers, given))(stacked)
    for index, expected in enumerate(loop):
        # Compiled code may fuse multiply and add, which differs in the last bits.
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=index: leaf[i], mapped), expected, rtol=1e-5, atol=1e-6)
        jitted = jax.jit(lambda given: apply(build, numbers, given))(batch[index])
        chex.assert_trees_all_close(jitted, expected, rtol=1e-5, atol=1e-6)


def test_numbers_are_data(case):
    build, numbers = case
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def once(numbers, given):
        return apply(build, numbers, given)

    for scale in (0.5, 1.0, 2.0):
        once({name: value * scale for name, value in numbers.items()}, updates())


def weighted(leaf, weights):
    weights = np.asarray(weights, np.float64) / np.sum(weights)
    return np.tensordot(weights, np.asarray(leaf, np.float64), axes=1)


def test_fedavg_by_hand():
    given = updates()
    expected = jax.tree.map(lambda leaf: weighted(leaf, [10, 40, 5, 1]), given.leaves)
    chex.assert_trees_all_close(apply(rules.fedavg, {}, given), expected, rtol=1e-5, atol=1e-6)  # float32 vs float64


def test_uniform_by_hand():
    given = updates()
    expected = jax.tree.map(lambda leaf: weighted(leaf, [1, 1, 1, 1]), given.leaves)
    chex.assert_trees_all_close(apply(rules.uniform, {}, given), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_fedavgw_weights_adapters_by_inverse_size_and_heads_by_size(beta):
    given = updates()
    got = apply(lambda: rules.fedavgw(beta, is_adapter), {}, given)
    inverse = [(1 / rows) ** beta for rows in (10, 40, 5, 1)]
    np.testing.assert_allclose(
        got["adapter"]["a"], weighted(given.leaves["adapter"]["a"], inverse), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(got["head"], weighted(given.leaves["head"], [10, 40, 5, 1]), rtol=1e-5, atol=1e-6)


def test_fedavgw_of_beta_zero_weights_adapters_equally():
    given = updates()
    got = apply(lambda: rules.fedavgw(0.0, is_adapter), {}, given)
    np.testing.assert_allclose(
        got["adapter"]["a"], weighted(given.leaves["adapter"]["a"], [1] * K), rtol=1e-5, atol=1e-6
    )
