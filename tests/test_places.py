"""Only real tokens: a batch's tokens side by side, in how many places, and how lanes choose among few numbers."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_models import CLASSES, perturbed, tiny_transformer

from fedjax_paradox.federated.lazy import trainer_of
from fedjax_paradox.federated.local import sgd
from fedjax_paradox.federated.objectives import OBJECTIVES
from fedjax_paradox.federated.packing import schedule
from fedjax_paradox.federated.packing.buffer import empty_results
from fedjax_paradox.federated.packing.engine import train
from fedjax_paradox.federated.packing.lanes import empty_lanes
from fedjax_paradox.federated.trainer import Data, Round, Told, Training
from fedjax_paradox.federated.types import Hyper, Participants, Size
from fedjax_paradox.models.places import first_of_rows, in_rows, places_of, side_by_side
from fedjax_paradox.models.textcnn import textcnn
from fedjax_paradox.sweep.sizes import batch_needs, few_sizes, places_of_lanes, row_needs, step_sizes

LENGTH = 12


def padded(lengths: list[int]) -> jax.Array:
    """i32[rows, LENGTH], rows of so many tokens."""
    tokens = np.random.default_rng(0).integers(1, 20, (len(lengths), LENGTH))
    return jnp.asarray(np.where(np.arange(LENGTH) < np.array(lengths)[:, None], tokens, 0), jnp.int32)


# A batch


@pytest.mark.parametrize("number", [7, 9, None])
def test_tokens_lie_side_by_side_and_come_back(number: int | None) -> None:
    mask = jnp.array([[True, True, False, False], [False, False, False, False], [True, False, True, True]])
    mask = mask.at[0, 2:].set(True)
    x = jnp.arange(24.0).reshape(3, 4, 2)
    places = places_of(mask, number)
    flat = side_by_side(x, places)
    assert flat.shape == (number or mask.size, 2)
    if number:
        np.testing.assert_array_equal(flat[:7], x.reshape(-1, 2)[mask.ravel()])
        assert not flat[7:].any()
    expected = jnp.where(mask[..., None], x, 0.0) if number else x
    np.testing.assert_array_equal(in_rows(flat, places), expected)
    np.testing.assert_array_equal(first_of_rows(flat, places), expected[:, 0])


def test_the_gradient_of_a_look_up_is_that_of_an_indexed_sum() -> None:
    mask = padded([7, 1, 0, 12, 6]) != 0
    x, factors = (jax.random.normal(jax.random.key(seed), (5, LENGTH, 3)) for seed in (0, 1))
    places = places_of(mask, 30)

    def there_and_back(x: jax.Array) -> jax.Array:
        return (in_rows(side_by_side(x, places) ** 2, places) * factors).sum()

    expected = jnp.where(mask[..., None], 2 * x * factors, 0.0)
    np.testing.assert_allclose(jax.grad(there_and_back)(x), expected, rtol=1e-6)


def test_a_packed_transformer_has_the_loss_and_gradients_of_a_padded_one() -> None:
    """The row of no token is left out: its logits have no meaning."""
    model = tiny_transformer()
    trainable, frozen = perturbed(model)
    tokens, key, real = padded([7, 1, 0, 12, 6]), jax.random.key(3), jnp.array([1.0, 1.0, 0.0, 1.0, 1.0])
    still = dict.fromkeys(model.rates, 0.0)

    def results(*arguments: Any, of: jax.Array = tokens, **more: Any) -> Any:
        def total(leaves: dict) -> jax.Array:
            return (real[:, None] * jnp.sin(model.apply(leaves, frozen, of, *arguments, **more))).sum()

        return jax.jit(jax.value_and_grad(total))(trainable)

    # Sums over tokens in another order, of products of other shapes.
    chex.assert_trees_all_close(results(key, still, places=26), results(), rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(results(None, None, places=26), results(), rtol=1e-4, atol=1e-6)
    # What dropout draws for a token is the same in any number of places, and however long the rows are.
    chex.assert_trees_all_close(results(key, places=26), results(key), rtol=1e-4, atol=1e-6)
    longer = jnp.pad(tokens, ((0, 0), (0, 4)))
    chex.assert_trees_all_close(results(key, places=26, of=longer), results(key), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("lengths", "places"), [([7, 1, 0, 12, 6], 26), ([2, 1], 3), ([1], 1), ([0, 0], 1)])
def test_a_packed_textcnn_has_the_loss_and_gradients_of_a_padded_one(lengths: list[int], places: int) -> None:
    """Also where a batch has fewer places than one row may have tokens."""
    model = textcnn(20, CLASSES, embedding_size=8, filters=6, dropout=0.5)
    trainable, frozen = perturbed(model)
    tokens, still = padded(lengths), {"dropout": 0.0}

    def results(*arguments: Any, **more: Any) -> Any:
        def total(leaves: dict) -> jax.Array:
            return jnp.sin(model.apply(leaves, frozen, tokens, *arguments, **more)).sum()

        return jax.jit(jax.value_and_grad(total))(trainable)

    # Sums over windows in another order.
    chex.assert_trees_all_close(results(None, None, places=places), results(), rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(results(jax.random.key(3), still, places=places), results(), rtol=1e-4, atol=1e-6)


# Lanes


@pytest.mark.parametrize("num_lanes", [1, 2])
def test_lanes_train_the_same_in_any_choice_of_places(num_lanes: int) -> None:
    """Batches of 4 rows with 7 to 40 tokens, the last of each client shorter; too small a size would lose tokens."""
    model = tiny_transformer()
    lengths = np.random.default_rng(1).integers(2, LENGTH + 1, 22)
    lengths[:4] = 10, 10, 10, 10  # more than the smaller number of places has room for
    clients = [np.arange(9), np.arange(9, 22)]
    jobs = [
        schedule.Job(0, client, client, 5, schedule.local_batches(rows, 1, 4, False, seed=5, round_=1, client=client))
        for client, rows in enumerate(clients)
    ]
    jobs[0].steps[0] = np.arange(4)
    ones = np.ones((1, 2), np.float32)
    people = Participants(np.arange(2)[None], ones, np.ones((1, 2, CLASSES), np.float32), ones > 0, ones, ones)
    start, frozen = perturbed(model)
    globals_ = jax.tree.map(lambda leaf: leaf[None], start)
    rates = {name: jnp.array([rate]) for name, rate in model.rates.items()}
    hyper = Hyper(*(jnp.array([value]) for value in (0.3, 0.9, 0.0, 0.0)), rates=rates)
    data = Data(padded(lengths.tolist()), jnp.asarray(lengths % CLASSES))
    round_ = Round(globals_, hyper, jax.tree.map(jnp.asarray, Told(people, None, (), None)), frozen, data)

    def trained(sizes: tuple[Size, ...]) -> Any:
        trainer = trainer_of(Training(model.apply, OBJECTIVES["cross_entropy"], sgd, sizes=sizes), None)
        state = empty_lanes(trainer, globals_, num_lanes), empty_results(trainer.keep, globals_, len(jobs), 1)
        for chunk in schedule.chunks(jobs, num_lanes, 1):
            state = jax.jit(partial(train, trainer, trainer.keep))(state, round_, chunk)
        return state[1]

    # Products of other shapes, over seven steps.
    for smaller in (Size(32, LENGTH), Size(32, 9), Size(4 * LENGTH, 8)):
        found = trained((smaller, Size(4 * LENGTH, LENGTH)))
        chex.assert_trees_all_close(found, trained(()), rtol=1e-3, atol=1e-5)


# Few numbers


def test_few_sizes_are_those_with_the_fewest_places_each_of_which_saves_enough() -> None:
    needed = np.repeat([8, 16, 40], [5, 5, 1])  # in one size 440 places
    assert few_sizes(needed, 8, 241) == (40,)
    assert few_sizes(needed, 8, 240) == (16, 40)  # 10 x 16 + 40 = 200; (8, 40) takes 5 x 8 + 6 x 40 = 280
    assert few_sizes(needed, 8, 41) == (16, 40)
    assert few_sizes(needed, 8, 40) == (8, 16, 40)  # 160
    assert few_sizes(np.array([5, 5]), 8, 0) == (5,)


def needs(tokens: np.ndarray, length: int = 64) -> np.ndarray:
    return np.stack([tokens, np.full(len(tokens), length)], axis=1)


def test_a_program_of_few_tokens_compiles_one_size() -> None:
    whole = Size(80, 64)
    assert step_sizes(needs(np.full(63, 10)), whole) == (whole,)  # 64 places a step less are 4,032
    assert step_sizes(needs(np.full(64, 10)), whole) == (Size(16, 64), whole)


@pytest.mark.parametrize(("steps", "count"), [(32, 2), (256, 3), (1024, 4)])
def test_more_steps_a_round_are_worth_more_sizes_and_the_last_is_enough_for_any(steps: int, count: int) -> None:
    tokens = np.random.default_rng(0).integers(100, 200, steps)
    places = [size.tokens for size in step_sizes(needs(tokens), Size(1024, 64))]
    assert len(places) == count
    assert places[-1] == 1024
    assert places == sorted(places)
    computed = np.array(places)[np.searchsorted(places, tokens)].sum()
    assert computed < 1.5 * tokens.sum()  # of 1,024 places each they would be six times as many


def test_many_lanes_take_one_size_that_is_enough_for_nearly_all() -> None:
    tokens = np.random.default_rng(0).integers(100, 200, 4000)
    tokens[:3] = 900
    whole = Size(1024, 64)
    assert step_sizes(needs(tokens), whole, on_cpu=False) == (Size(208, 64), whole)  # 199 in steps of 16
    assert step_sizes(needs(tokens[3:7]), whole, on_cpu=False) == (whole,)


def test_a_size_has_rows_as_long_as_nearly_all_of_its_batches_need() -> None:
    tokens = np.repeat([100, 300], 500)
    lengths = np.repeat([20, 37], 500)
    lengths[:4] = 60  # 0.8 % of the first half
    found = step_sizes(np.stack([tokens, lengths], axis=1), Size(400, 61))
    assert found == (Size(112, 24), Size(304, 40), Size(400, 61))
    lengths[:10] = 60  # 2 % of it, 1 % of all
    found = step_sizes(np.stack([tokens, lengths], axis=1), Size(400, 61))
    assert found[0] == Size(112, 61)


def test_rows_are_cut_after_their_last_token_where_the_model_says_that_nothing_follows() -> None:
    tokens = np.array([[5, 6, 0, 0], [5, 0, 6, 0], [0, 0, 0, 0], [1, 2, 3, 4]])
    assert row_needs(tokens, 0).tolist() == [[2, 2], [2, 3], [0, 0], [4, 4]]
    assert row_needs(tokens, 1).tolist() == row_needs(tokens, None).tolist() == [[2, 4], [2, 4], [0, 4], [4, 4]]


def test_the_needs_of_a_batch_are_those_of_its_rows() -> None:
    batches = np.array([[[0, 1], [2, -1]]])
    assert batch_needs(np.array([[3, 8], [4, 6], [5, 5]]), batches).tolist() == [[[7, 8], [5, 5]]]


def test_lanes_of_a_device_compute_what_the_fullest_of_their_batches_needs() -> None:
    lanes = [needs(np.array(tokens, int), 7) for tokens in ([5, 9, 3], [11, 2], [20, 1], [])]
    sizes = Size(10, 8), Size(20, 9)
    # One device: 20 | 9 | 3 need 20, 10, 10 places of three, three and one busy lanes.
    assert places_of_lanes(lanes, sizes, 1) == 3 * 20 + 3 * 10 + 10
    # Two: (11 | 9 | 3) of the first two lanes, (20 | 1) of the third.
    assert places_of_lanes(lanes, sizes, 2) == (2 * 20 + 2 * 10 + 10) + (20 + 10)
    lanes[2][1] = 1, 9  # one token, at a place that the smaller size does not have
    assert places_of_lanes(lanes, sizes, 2) == (2 * 20 + 2 * 10 + 10) + (20 + 20)
