"""The sparse embedding update against dense SGD, in float64, where both agree to rounding."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_paradox.federated import sparse
from fedjax_paradox.federated.local import Learner, local_step, optimizer_of, sgd
from fedjax_paradox.federated.objectives import fedprox
from fedjax_paradox.federated.sparse import Origin, Sum, Table, add, empty, finish, sparse_step, total
from fedjax_paradox.federated.trainer import Ended
from fedjax_paradox.federated.types import Client, Hyper

WORDS, WIDTH, CLASSES, BATCH, LENGTH = 30, 3, 4, 5, 6


@pytest.fixture(autouse=True)
def float64():
    # The masked mean counts its rows in float32, exactly.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def apply(params, tokens, key):  # noqa: ARG001
    """Reads the table at its tokens, row 0 never, and not linearly, so that gradients depend on the weights."""
    rows = jnp.where((tokens != 0)[..., None], params["table"][tokens], 0.0)
    return jnp.tanh(rows).sum(axis=1) @ params["matrix"]


def batches(generator, steps):
    """Few words a step, so that most rows rest for long; some steps are masked throughout, rows and words repeat."""
    for _ in range(steps):
        some = generator.choice(WORDS, 4)
        tokens = generator.choice(some, (BATCH, LENGTH)).astype(np.int32)
        tokens[:, generator.integers(1, LENGTH) :] = 0
        mask = np.zeros(BATCH, bool) if generator.random() < 0.1 else generator.random(BATCH) < 0.8
        yield jnp.asarray(tokens), jnp.asarray(generator.integers(0, CLASSES, BATCH)), jnp.asarray(mask)


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.9]),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from([0.0, 0.3]),
)
def test_equals_dense_sgd(seed, momentum, decay, mu):
    generator = np.random.default_rng(seed)
    start = {
        "table": jnp.asarray(generator.normal(size=(WORDS, WIDTH))).at[0].set(0.0),
        "matrix": jnp.asarray(generator.normal(size=(WIDTH, CLASSES))),
    }
    hyper = Hyper(*(jnp.asarray(value, jnp.float64) for value in (0.1, momentum, decay, mu)))
    learner, zero = Learner(apply, fedprox(), sgd), jnp.zeros(())
    step = jax.jit(partial(local_step, learner))
    matrix = {"matrix": start["matrix"]}
    whole_client, client = (Client(zero, zero, zero, leaves, (), hyper) for leaves in (start, matrix))
    dense, optimizer = start, optimizer_of(learner, whole_client).init(start)
    state = (matrix, optimizer_of(learner, client).init(matrix))
    table = empty((WORDS, WIDTH), jnp.dtype(jnp.float64))
    origin = Origin("table", start["table"][None], 0, hyper)

    def named(state, table, batch, number, key):
        def one(state, batch, rows):
            return step(state, batch, key, client._replace(start={**matrix, "table": rows}))

        (*state, table), loss = sparse_step(one, (*state, table), batch, origin, number)
        return tuple(state), table, loss

    named = jax.jit(named)
    number = 0
    for batch in batches(generator, 40):
        key = jax.random.key(0)
        (dense, optimizer), loss = step((dense, optimizer), batch, key, whole_client)
        state, table, ours = named(state, table, batch, number, key)
        number += bool(batch[2].any())  # a step without rows is none
        chex.assert_trees_all_close(ours, loss, rtol=1e-9)
    whole = {**state[0], "table": finish(table, start["table"], number, hyper)}
    # Forty steps of float64 rounding, each some 1e-16 of numbers near 1.
    chex.assert_trees_all_close(whole, dense, rtol=1e-10, atol=1e-12)
    if momentum + decay + mu > 0:
        assert not np.array_equal(table.weights, dense["table"])  # most rows were indeed left behind


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.05]), st.sampled_from([0.0, 0.3]), st.sampled_from([1, 4, 64]))
def test_the_sum_of_tables_without_visiting_rows_at_rest(seed, decay, mu, block):
    generator, cells, jobs = np.random.default_rng(seed), 2, 5
    starts = jnp.asarray(generator.normal(size=(cells, WORDS, WIDTH)))
    hyper = Hyper(*(jnp.asarray(value, jnp.float64) for value in (0.1, 0.9, decay, mu)))
    weights, steps = generator.random(jobs) * (np.arange(jobs) > 0), generator.integers(1, 50, jobs)
    named = generator.random((jobs, WORDS)) < generator.random((jobs, 1))
    updated = np.where(named, generator.integers(1, steps[:, None] + 1, (jobs, WORDS)), 0)
    # What stands in rows that a job did not name is left over from another; the first job has no weight.
    left = np.where(named | (generator.random((jobs, WORDS)) < 0.5), 1.0, np.nan)[..., None]
    left[0] = np.nan
    tables = Table(
        *(jnp.asarray(generator.normal(size=(jobs, WORDS, WIDTH)) * left) for _ in range(2)),
        jnp.asarray(updated, jnp.int32),
    )
    sums = Sum(jnp.zeros(cells), jnp.zeros((cells, WORDS, WIDTH)))
    expected = np.zeros((cells, WORDS, WIDTH))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "BLOCK", block)
        for job in range(jobs):
            cell, rest = job % cells, (int(steps[job]), hyper)
            origin, ended = Origin("table", starts, cell, hyper), Ended(job, cell, job, int(steps[job]))
            sums, finite = add(sums, jnp.asarray(weights[job]), tables, origin, ended)
            assert finite
            if job > 0:
                one = jax.tree.map(lambda leaf, j=job: jnp.asarray(leaf[j]), tables)
                expected[cell] += weights[job] * np.asarray(finish(one, starts[cell], *rest))
    # Five products and sums of float64.
    np.testing.assert_allclose(jax.vmap(total)(sums, starts), expected, rtol=1e-10, atol=1e-12)


def test_a_fresh_job_sees_nothing_of_the_one_before():
    generator = np.random.default_rng(1)
    hyper = Hyper(*(jnp.asarray(value, jnp.float64) for value in (0.1, 0.9, 0.0, 0.0)))
    start = jnp.asarray(generator.normal(size=(WORDS, WIDTH)))
    used = empty((WORDS, WIDTH), jnp.dtype(jnp.float64))._replace(
        weights=jnp.full((WORDS, WIDTH), jnp.nan), momentum=jnp.full((WORDS, WIDTH), jnp.nan)
    )
    assert np.array_equal(finish(used, start, 7, hyper), start)


def test_momentum_of_a_row_at_rest_in_closed_form():
    """w - lr m (mu + mu^2 + ... + mu^d) = w - lr m mu (1 - mu^d) / (1 - mu)."""
    lr, mu, steps = 0.1, 0.9, np.array([0, 1, 2, 50, 3000])
    hyper = Hyper(*(jnp.asarray(value, jnp.float64) for value in (lr, mu, 0.0, 0.0)))
    rows = jnp.ones((len(steps), 1))
    table = empty((len(steps), 1), jnp.dtype(jnp.float64))._replace(
        weights=2 * rows, momentum=3 * rows, updated=jnp.asarray(4000 - steps, jnp.int32)
    )
    expected = 2 - lr * 3 * mu * (1 - mu**steps) / (1 - mu)
    np.testing.assert_allclose(finish(table, rows, 4000, hyper)[:, 0], expected, rtol=1e-12)


def test_the_trace_is_where_the_sparse_step_looks_for_it():
    state = sgd(Hyper(*(jnp.ones(()) for _ in range(4)))).init({"matrix": jnp.zeros(2)})
    assert list(optax.tree_utils.tree_get(state, "trace")) == ["matrix"]
