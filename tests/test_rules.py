"""Rules against their formulas by hand, and one contract that every rule keeps."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_paradox.federated import fair, methods, rules
from fedjax_paradox.federated.types import Hyper, Participants, Updates

K, CLIENTS = 4, 6


def is_adapter(path):
    return path[0].key == "adapter"


def updates(seed=0, rows=(10.0, 40.0, 5.0, 1.0), mask=(True, True, True, True)):
    generator = np.random.default_rng(seed)
    leaves = {
        "adapter": {"a": jnp.asarray(generator.normal(size=(K, 3, 2)), jnp.float32)},
        "head": jnp.asarray(generator.normal(size=(K, 5)), jnp.float32),
        "layer": {
            "lora_a": jnp.asarray(generator.normal(size=(K, 4, 2)), jnp.float32),
            "lora_b": jnp.asarray(generator.normal(size=(K, 2, 3)), jnp.float32),
            "base_kernel": jnp.asarray(generator.normal(size=(K, 4, 3)), jnp.float32),
        },
    }
    return Updates(
        start=jax.tree.map(lambda leaf: leaf[0] * 0 + 7, leaves),
        leaves=leaves,
        weighted=None,
        client=jnp.asarray([4, 0, 3, 1], jnp.int32),
        rows=jnp.asarray(rows, jnp.float32),
        loss=jnp.asarray(generator.random(K), jnp.float32),
        start_loss=jnp.asarray(generator.random(K) + 0.5, jnp.float32),
        class_counts=jnp.asarray(generator.integers(0, 9, (K, 3)), jnp.float32),
        mask=jnp.asarray(mask),
        steps=jnp.asarray([3.0, 10.0, 2.0, 1.0], jnp.float32),
        hyper=Hyper(*jnp.asarray([0.1, 0.5, 0.01, 0.0], jnp.float32)),
    )


# Name -> (builder of traced numbers, the numbers); a new rule is added here and inherits every check.
RULES = {
    "fedavg": (rules.fedavg, {}),
    "uniform": (rules.uniform, {}),
    "fedavgw": (lambda beta: rules.fedavgw(beta, is_adapter), {"beta": 0.5}),
    "on_leaves": (lambda: rules.on_leaves(is_adapter, rules.uniform(), rules.fedavg()), {}),
    "fedavgm": (methods.fedavgm, {"lr": 1.0, "beta": 0.9}),
    "fedadagrad": (methods.fedadagrad, {"lr": 0.1, "b1": 0.0, "tau": 0.1}),
    "fedadam": (methods.fedadam, {"lr": 0.1, "b1": 0.9, "b2": 0.99, "tau": 0.1}),
    "fedyogi": (methods.fedyogi, {"lr": 0.1, "b1": 0.9, "b2": 0.99, "tau": 0.1}),
    "term": (methods.term, {"t": 1.0}),
    "afl": (partial(methods.afl, CLIENTS), {"gamma": 0.1}),
    "qfedavg": (methods.qfedavg, {"q": 1.0}),
    "fednova": (methods.fednova, {}),
    "fedmgda": (methods.fedmgda, {"lr": 1.0, "eps": 0.3}),
    "median": (methods.median, {}),
    "trimmed_mean": (methods.trimmed_mean, {"trim": 0.25}),
    "scaffold": (partial(methods.scaffold, CLIENTS), {"lr": 1.0}),
    "scaffold_i": (partial(methods.scaffold_i, CLIENTS), {"lr": 1.0}),
    "feddyn": (partial(methods.feddyn, CLIENTS), {"alpha": 0.1}),
    "ditto": (partial(methods.ditto, CLIENTS), {"lam": 0.1}),
    "ffa_lora": (methods.ffa_lora, {}),
    "fedsa_lora": (partial(methods.fedsa_lora, CLIENTS), {}),
    "flexlora": (methods.flexlora, {}),
    "fedex_lora": (partial(methods.fedex_lora, 2.0), {}),
    "flora": (partial(methods.flora, 2.0), {}),
    "local_only": (partial(methods.local_only, CLIENTS), {}),
    "centralised": (methods.centralised, {}),
}

# Their servers move on from the start by steps of their own, wherever the clients agree to be.
STEP_AWAY = {"fedadagrad", "fedadam", "fedyogi", "qfedavg", "fednova", "feddyn", "local_only", "fedmgda"}
# Leaves of LoRA that stay where they were, start anew, or have another factorisation of the same product.
ELSEWHERE = {"ffa_lora", "fedsa_lora", "flexlora", "fedex_lora", "flora"}
# Two slots of each client, side by side.
IN_PAIRS = {"ditto", "scaffold_i"}


@pytest.fixture(params=RULES)
def case(request):
    build, numbers = RULES[request.param]
    return build, {name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()}


def eager(build, numbers, given):
    rule = build(**numbers)
    return rules.combine(rule, given, rule.init(given.start))


both = jax.jit(eager, static_argnums=0)


def apply(build, numbers, given):
    return both(build, numbers, given)[0]


def slots(given, choose):
    """Of everything that is a client's own."""
    shared = {"start": given.start, "hyper": given.hyper}
    return jax.tree.map(lambda leaf: leaf[choose], given._replace(start=None, hyper=None))._replace(**shared)


def test_every_named_rule_is_under_contract():
    assert set(methods.RULES) <= set(RULES)


@pytest.fixture
def absent(request):
    """The slots of one client."""
    return np.array([2, 3] if request.node.callspec.params["case"] in IN_PAIRS else [2])


def test_masked_slot_is_inert_even_when_not_finite(case, absent):
    masked = updates(mask=~np.isin(np.arange(K), absent))
    empty = {name: getattr(masked, name).at[absent].set(jnp.nan) for name in ("rows", "loss", "start_loss", "steps")}
    past_the_end = masked.client.at[absent].set(jnp.iinfo(jnp.int32).max)
    leaves = jax.tree.map(lambda leaf: leaf.at[absent].set(jnp.nan), masked.leaves)
    poisoned = masked._replace(leaves=leaves, client=past_the_end, **empty)
    others = slots(masked, np.setdiff1d(np.arange(K), absent))
    # Sums in another order, of which a decomposition of the sum sees the rounding.
    chex.assert_trees_all_close(apply(*case, poisoned), apply(*case, others), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(apply(*case, poisoned), apply(*case, masked))


def test_nor_does_a_masked_slot_touch_the_state(case, absent):
    masked = updates(mask=~np.isin(np.arange(K), absent))
    one = masked._replace(client=masked.client.at[absent].set(jnp.iinfo(jnp.int32).max))
    poisoned = one._replace(leaves=jax.tree.map(lambda leaf: leaf.at[absent].set(jnp.nan), one.leaves))
    states = [both(*case, given)[1] for given in (poisoned, one)]
    chex.assert_trees_all_equal(*states)
    chex.assert_tree_all_finite(states[0])


def test_clients_can_be_permuted(case, request):
    order = np.array([2, 3, 0, 1] if request.node.callspec.params["case"] in IN_PAIRS else [2, 0, 3, 1])
    given = updates()
    chex.assert_trees_all_close(  # sum order
        apply(*case, given), apply(*case, slots(given, order)), rtol=1e-5, atol=1e-6
    )


def equal(given):
    return given._replace(leaves=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), given.leaves))


@pytest.mark.parametrize("name", sorted(set(RULES) - STEP_AWAY))
def test_equal_updates_are_kept(name):
    same = equal(updates())
    expected = jax.tree.map(lambda leaf: leaf[0], same.leaves)
    got = apply(*RULES[name], same)
    if name in ELSEWHERE:
        del got["layer"], expected["layer"]
    chex.assert_trees_all_close(got, expected, rtol=1e-5)  # weights sum to 1 within rounding


def test_who_steps_away_from_equal_updates_says_so(case, request):
    same = equal(updates())
    moved = np.abs(apply(*case, same)["head"] - same.leaves["head"][0]).max()
    assert (moved > 1e-3) == (request.node.callspec.params["case"] in STEP_AWAY)


def known(given):
    people = {name: getattr(given, name) for name in Participants._fields if name != "device"}
    return Participants(device=jnp.zeros(K, jnp.int32), **people)


@pytest.mark.parametrize("mask", [(True,) * K, (True, False, True, True)])
def test_a_rule_with_weights_known_ahead_needs_no_more_than_the_sum_by_them(case, mask):
    """Weights from `Participants` where they are known before training, and then without any client's leaves."""
    build, numbers = case
    rule, given = build(**numbers), updates(mask=mask)
    if not rule.ahead:
        return  # it reads the clients' leaves
    state = rule.init(given.start)
    weights = rule.weights(known(given), given.start, state)
    total = jax.tree.map(lambda w, leaf: jnp.tensordot(jnp.where(given.mask, w, 0.0), leaf, 1), weights, given.leaves)
    summed = rule.aggregate(given._replace(leaves=None, weighted=total), state)
    chex.assert_trees_all_close(summed, rules.combine(rule, given, state), rtol=1e-5, atol=1e-6)  # sum order


def test_a_weighting_that_reads_losses_is_not_known_before_training():
    rule = rules.weighted_mean(lambda updates: updates.loss, ahead=True)
    with pytest.raises(AttributeError, match="'Participants' object has no attribute 'loss'"):
        rule.weights(known(updates()), updates().start, ())
    own = rules.on_leaves(is_adapter, rules.weighted_mean(lambda updates: updates.loss), rules.fedavg())
    assert not own.ahead


def test_jit_equals_eager_and_vmap_equals_loop_and_dtypes_stay(case):
    build, numbers = case
    batch = [updates(seed) for seed in range(2)]
    loop = [eager(build, numbers, given) for given in batch]
    chex.assert_trees_all_equal_shapes_and_dtypes(loop[0][0], batch[0].start)
    chex.assert_trees_all_equal_shapes_and_dtypes(loop[0][1], build(**numbers).init(batch[0].start))
    mapped = jax.jit(jax.vmap(partial(eager, build, numbers)))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *batch))
    for index, expected in enumerate(loop):
        # Compiled code may fuse multiply and add, which differs in the last bits.
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=index: leaf[i], mapped), expected, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(both(build, numbers, batch[index]), expected, rtol=1e-5, atol=1e-6)


def test_numbers_are_data(case):
    build, numbers = case
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def once(numbers, given):
        rule = build(**numbers)
        told = () if rule.send is None else rule.send(given.start, rule.init(given.start), known(given))
        return eager(build, numbers, given), told

    results = [once({name: value * scale for name, value in numbers.items()}, updates()) for scale in (0.5, 0.7, 1.0)]
    changed = not all(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, results[::2]), strict=True))
    assert changed == bool(numbers)  # the state of the next round among them


def effective(leaves, scale=2.0):
    pair = leaves["layer"]
    return np.asarray(pair["base_kernel"], np.float64) + scale * np.matmul(pair["lora_a"], pair["lora_b"])


@pytest.mark.parametrize("name", ["fedex_lora", "flora", "flexlora"])
def test_the_effective_weight_is_the_exact_mean_of_the_clients(name):
    """FlexLoRA at full rank, which a pair of rank 3 has on a kernel of 4 by 3."""
    given, generator = updates(), np.random.default_rng(3)
    pair = {"lora_a": generator.normal(size=(K, 4, 3)), "lora_b": generator.normal(size=(K, 3, 3))}
    kernel = jnp.broadcast_to(given.leaves["layer"]["base_kernel"][:1], (K, 4, 3))  # all have the frozen one
    layer = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in pair.items()} | {"base_kernel": kernel}
    start = {**given.start, "layer": jax.tree.map(lambda leaf: leaf[0], layer)}
    given = given._replace(leaves={**given.leaves, "layer": layer}, start=start)
    got, mean = apply(*RULES[name], given), weighted(effective(given.leaves), [10, 40, 5, 1])
    np.testing.assert_allclose(effective(got), mean, rtol=1e-4, atol=1e-5)  # float32 against float64
    plain = apply(rules.fedavg, {}, given)
    assert np.abs(effective(plain) - mean).max() > 0.1


def test_median_of_one_client_is_that_client():
    given = updates(mask=(False, False, True, False))
    for build, numbers in (RULES["median"], RULES["trimmed_mean"], RULES["fedavg"]):
        chex.assert_trees_all_equal(apply(build, numbers, given), jax.tree.map(lambda leaf: leaf[2], given.leaves))


@pytest.mark.parametrize(
    ("trim", "clients", "cut"), [(0.0, 4, 0), (0.1, 10, 1), (0.3, 10, 3), (0.25, 4, 1), (0.49, 3, 1)]
)
def test_trimmed_mean_cuts_whole_clients(trim, clients, cut):
    """floor(trim K) on both sides, although 0.1 of 10 in float32 is not quite 1."""
    values = jnp.asarray(np.random.default_rng(1).permutation(clients) ** 2, jnp.float32)
    given = updates()._replace(start={"x": jnp.zeros(())}, leaves={"x": values}, mask=jnp.ones(clients, bool))
    got = apply(methods.trimmed_mean, {"trim": jnp.float32(trim)}, given)["x"]
    np.testing.assert_allclose(got, np.mean(np.arange(clients)[cut : clients - cut] ** 2.0), rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_projection_is_the_nearest_point_of_the_simplex(seed):
    generator = np.random.default_rng(seed)
    point, others = generator.normal(size=8), generator.dirichlet(np.ones(8), 5000)
    got = np.asarray(fair.project(jnp.asarray(point, jnp.float32)), np.float64)
    assert abs(got.sum() - 1) < 1e-6
    assert (got >= 0).all()
    # No point of the simplex lies on the far side: (x - p)(y - x) >= 0 for all y, its corners above all.
    assert ((np.concatenate([others, np.eye(8)]) - got) @ (got - point)).min() >= -1e-5


def weighted(leaf, weights):
    weights = np.asarray(weights, np.float64) / np.sum(weights)
    return np.tensordot(weights, np.asarray(leaf, np.float64), axes=1)


class WeightedMeans(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True)
    def test_by_hand(self):
        given = updates()
        for rule, weights in ((rules.fedavg, [10, 40, 5, 1]), (rules.uniform, [1, 1, 1, 1])):
            got, _, _ = self.variant(partial(eager, rule, {}))(given)
            expected = jax.tree.map(lambda leaf, w=weights: weighted(leaf, w), given.leaves)
            chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)  # float32 vs float64


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
