"""What methods are to one another, and that packing changes nothing of what a method's halves define."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed import (
    APPLY,
    BATCH,
    CELLS,
    LABELS,
    LANES,
    SLOTS,
    TOKENS,
    Cell,
    Round,
    builder,
    engine,
    numbers_of,
    rounds,
    run,
    shared_programs,  # noqa: F401
)
from test_conformance import METHODS, OBJECTIVES, PAIRED, flat, hashable

from fedjax_paradox.federated import objectives, trainer
from fedjax_paradox.federated.local import Learner, Local, merged, sgd
from fedjax_paradox.federated.plain import plain_round
from fedjax_paradox.federated.trainer import Data, Told
from fedjax_paradox.federated.types import Hyper, Participants

pytestmark = pytest.mark.conformance

STEPS = 10  # at most, of any job


def close(got: list[dict], expected: list[dict], cell: int, tolerance: float = 1e-5) -> None:
    """Each round's model of a cell, relative to what training has changed; float32 sums in another order."""
    start = flat(CELLS[cell].start())
    for ours, theirs in zip(got, expected, strict=True):
        one, other = (flat(jax.tree.map(lambda leaf: leaf[cell], each)) for each in (ours, theirs))
        assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other - start)


# ---- identities: the third cell has their numbers, and clients of equally many steps on unequally many rows


def method(name: str) -> list[dict]:
    return run(name, hashable(METHODS[name][1]))


def objective(name: str, **changed: tuple[float, ...]) -> list[dict]:
    return run("fedavg", (), name, hashable(OBJECTIVES[name][1] | changed))


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("fedavgm", "fedavg"),  # beta 0, lr 1
        ("term", "fedavg"),  # t 0
        ("fednova", "fedavg"),  # equal steps
        ("qfedavg", "uniform"),  # q 0
        ("afl", "uniform"),  # gamma 0
        ("trimmed_mean", "uniform"),  # trim 0
    ],
)
def test_methods_that_are_others(name: str, same: str) -> None:
    close(method(name), method(same), cell=2)
    with pytest.raises(AssertionError):  # and not under other numbers or steps
        close(method(name), method(same), cell=0)


def test_fedavgw_of_beta_zero_is_uniform_on_adapters_and_fedavg_on_heads() -> None:
    for leaf, same in (("table", "uniform"), ("matrix", "fedavg")):
        np.testing.assert_allclose(method("fedavgw")[1][leaf][2], method(same)[1][leaf][2], rtol=1e-5, atol=1e-6)


def test_scaffolds_first_round_is_uniform() -> None:
    close(method("scaffold")[:2], method("uniform")[:2], cell=2)
    with pytest.raises(AssertionError):  # and its later ones are not
        close(method("scaffold"), method("uniform"), cell=2)


@pytest.mark.parametrize("name", ["fedprox", "logit_adjustment", "fedlc", "fedrs", "tilted"])
def test_objectives_that_are_cross_entropy(name: str) -> None:
    """mu 0, tau 0, alpha 1, t 0."""
    close(objective(name), method("fedavg"), cell=2)
    with pytest.raises(AssertionError):
        close(objective(name), method("fedavg"), cell=0)


def test_a_little_tilt_is_almost_the_mean() -> None:
    close(objective("tilted", t=(1e-3, 1e-3, -1e-3)), method("fedavg"), cell=2, tolerance=1e-2)


# ---- packed lanes against `vmap` of the plain scan


def batches_of(cell: Cell, people: Participants, round_: int) -> tuple[tuple, jax.Array]:
    """([K, S, B, ...] tokens, labels and mask; keys [K]); nothing but masked rows in a slot without a client."""
    rows = np.full((len(people.rows), STEPS, BATCH), -1, np.int32)
    for slot in np.flatnonzero(people.mask):
        own = cell.batches(round_, people.client[slot])
        rows[slot, : len(own)] = own
    key = jax.random.fold_in(jax.random.key(cell.seed), round_)
    return (TOKENS[rows], LABELS[rows], rows >= 0), jax.vmap(lambda c: jax.random.fold_in(key, c))(people.client)


@functools.cache
def defined(rule: str, objective: str):
    """`plain_round` under a rule and an objective, of their numbers."""
    model = "lora" if rule in PAIRED else "bag"

    def one(numbers, before, people, batches, hyper):
        method = builder(rule)(**numbers)
        half = merged(method.local or Local(), objectives.OBJECTIVES[objective](**hyper.own))
        learner = Learner(lambda leaves, tokens, key: APPLY[model](leaves, {}, tokens, key, hyper.rates), half, sgd)
        return plain_round(learner, method, before, people, batches, hyper=hyper)

    return jax.jit(one)


def expected_round(seen: Round, rule: str, objective: str, index: int, round_: int, hyper: Hyper) -> dict:
    start, state, people = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), seen[:3])
    hyper = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), hyper)
    numbers = {name: jnp.float32(values[index]) for name, values in METHODS[rule][1].items()}
    each, keys = batches_of(CELLS[index], people, round_)
    return defined(rule, objective)(numbers, (start, state), people, (*each, keys), hyper)[0]


PAIRS = [(name, "cross_entropy") for name in METHODS] + [("fedavg", name) for name in OBJECTIVES]


@pytest.mark.parametrize(("rule", "objective"), PAIRS)
def test_packing_computes_local_update_under_every_method(rule: str, objective: str) -> None:
    """Three lanes, three cells, an empty client and an empty slot, dropout on: the same bits are drawn."""
    own = hashable(OBJECTIVES[objective][1]) if rule == "fedavg" else ()
    hyper = numbers_of(own, dropout=0.3)
    model = "lora" if rule in PAIRED else "bag"
    for round_, seen in enumerate(rounds(rule, hashable(METHODS[rule][1]), objective, own, 0.3, model), 1):
        for index in range(len(CELLS)):
            expected = expected_round(seen, rule, objective, index, round_, hyper)
            got = jax.tree.map(lambda leaf, i=index: leaf[i], seen.after)
            # Sums in another order; rows of a table at rest, by a power of a matrix. As in tests/test_engine.py.
            chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["fedavg", "fedadam", "scaffold"])
def test_a_round_without_anybody_changes_nothing(name: str) -> None:
    seen, chosen = (
        rounds(name, hashable(METHODS[name][1]))[1],
        engine(name, hashable(METHODS[name][1]), "cross_entropy", ()),
    )
    nobody = seen.participants._replace(mask=np.zeros_like(seen.participants.mask))
    _, buffer = chosen.start(seen.before, LANES, len(CELLS) * SLOTS)
    told = Told(nobody, None, (), None)
    data = Data(TOKENS, LABELS)
    inputs = trainer.Round(seen.before, numbers_of((), 0.0), told, {}, data)
    after, (states,), _ = chosen.aggregate((seen.states,), buffer, inputs)
    chex.assert_trees_all_equal((after, states), (seen.before, seen.states))
