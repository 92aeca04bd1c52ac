"""The packed engine against a plain sequential loop, for any lanes, chunks and cells."""

from collections import Counter
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fedjax_paradox.federated import methods, rules
from fedjax_paradox.federated.lazy import trainer_of
from fedjax_paradox.federated.local import OPTIMIZERS, masked_cross_entropy, sgd
from fedjax_paradox.federated.objectives import OBJECTIVES
from fedjax_paradox.federated.packing import schedule
from fedjax_paradox.federated.packing.engine import RuleGroup, build_engine
from fedjax_paradox.federated.packing.prediction import predict
from fedjax_paradox.federated.sparse import Sum
from fedjax_paradox.federated.trainer import Data, Round, Training, dense
from fedjax_paradox.federated.types import Hyper, Participants

WORDS, WIDTH, CLASSES, LENGTH, BATCH = 11, 3, 3, 4, 4
GENERATOR = np.random.default_rng(0)
TOKENS = GENERATOR.integers(1, WORDS, (80, LENGTH)).astype(np.int32)  # without padding, which `apply` would read
LABELS = GENERATOR.integers(0, CLASSES, 80).astype(np.int32)
FROZEN = {"scale": jnp.asarray(GENERATOR.normal(size=WIDTH), jnp.float32)}


def apply(params, frozen, tokens, key=None):
    """A bag of words with dropout: small, but it has a table, a matrix, a frozen leaf and randomness."""
    mean = params["table"][tokens].mean(axis=1) * frozen["scale"][None]
    if key is not None:
        mean = jnp.where(jax.random.bernoulli(key, 0.8, mean.shape), mean / 0.8, 0.0)
    return mean @ params["matrix"]


def leaves(seed):
    one, two = jax.random.split(jax.random.key(seed))
    return {"table": jax.random.normal(one, (WORDS, WIDTH)), "matrix": jax.random.normal(two, (WIDTH, CLASSES))}


class Cell:
    def __init__(self, clients, seed, optimizer, objective, epochs, drop, numbers):
        self.clients, self.seed, self.optimizer, self.objective = clients, seed, optimizer, objective
        self.epochs, self.drop, self.numbers, self.start = epochs, drop, numbers, leaves(seed)


def sequential(cell, start, round_):
    """One round as a researcher writes it: client by client, batch by batch, no masks, no padding."""
    rate, momentum, decay, mu = cell.numbers
    optimizer = {
        "sgd": optax.sgd(rate, momentum=momentum),
        "adamw": optax.adamw(rate, weight_decay=decay),
    }[cell.optimizer]
    results = []
    for client, rows in enumerate(cell.clients):
        params, state = start, optimizer.init(start)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(cell.seed), round_), client)
        batches = (
            schedule.local_batches(rows, cell.epochs, BATCH, cell.drop, seed=cell.seed, round_=round_, client=client)
            if len(rows)
            else []
        )
        for number, batch in enumerate(batches):
            batch, step_key = batch[batch >= 0], jax.random.fold_in(key, number)
            padded = np.concatenate([batch, np.zeros(BATCH - len(batch), int)])  # dropout draws a whole batch

            def loss(params, batch=batch, padded=padded, step_key=step_key):
                logits = apply(params, FROZEN, TOKENS[padded], step_key)[: len(batch)]
                value = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS[batch]).mean()
                if cell.objective == "fedprox":
                    distance = sum(jnp.sum((params[name] - start[name]) ** 2) for name in params)
                    value += mu / 2 * distance
                return value

            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
        results.append(params)
    sizes = np.array([len(rows) for rows in cell.clients], np.float64)
    weights = (sizes / sizes.sum()).tolist()
    return jax.tree.map(lambda *each: sum(w * leaf for w, leaf in zip(weights, each, strict=True)), *results)


def packed_round(engine, cells, globals_, lanes, buffer, slots, round_):
    jobs, shape = [], (len(cells), slots)
    rows, mask = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for index, cell in enumerate(cells):
        for client, held in enumerate(cell.clients):
            if len(held) == 0:
                continue
            key = {"seed": cell.seed, "round_": round_, "client": client}
            steps = schedule.local_batches(held, cell.epochs, BATCH, cell.drop, **key)
            jobs.append(schedule.Job(index, index * slots + client, client, cell.seed, steps))
            rows[index, client], mask[index, client] = len(held), True
    hyper = Hyper(*np.array([cell.numbers for cell in cells], np.float32).T)
    data = Data(jnp.asarray(TOKENS), jnp.asarray(LABELS))
    number, device = np.tile(np.arange(slots, dtype=np.int32), (shape[0], 1)), np.zeros(shape, np.int32)
    lane = schedule.lane_of([len(job.steps) for job in jobs], lanes.loss.shape[0])
    device.flat[[job.slot for job in jobs]] = lane * engine.devices // lanes.loss.shape[0]
    steps = np.ones(shape, np.float32)
    people = Participants(number, rows, np.zeros((*shape, CLASSES), np.float32), mask, steps, device)
    states = engine.init_rules(globals_)
    buffer, told, _ = engine.begin(globals_, states, buffer, people)
    trained = 0
    inputs = Round(globals_, hyper, told, FROZEN, data)
    for chunk in schedule.chunks(jobs, lanes.loss.shape[0], round_):
        lanes, buffer, count = engine.advance(lanes, buffer, inputs, chunk)
        trained += int(count)
    assert trained == sum(int((job.steps >= 0).sum()) for job in jobs)
    return engine.aggregate(states, buffer, inputs)[0], lanes, buffer


def stack(trees):
    return jax.tree.map(lambda *each: jnp.stack(each), *trees)


def kept(rule):
    """The same rule, asking for every client's leaves."""
    return lambda: rule()._replace(ahead=False)


def engine_for(cells, table=None, rule=rules.fedavg):
    training = Training(apply, OBJECTIVES[cells[0].objective], OPTIMIZERS[cells[0].optimizer])
    return build_engine(trainer_of(training, table), apply, [RuleGroup(rule, np.arange(len(cells)), {})])


def run(cells, num_lanes, rounds, table=None, rule=rules.fedavg):
    engine, slots = engine_for(cells, table, rule), max(len(cell.clients) for cell in cells)
    globals_ = stack([cell.start for cell in cells])
    lanes, buffer = engine.start(globals_, num_lanes, len(cells) * slots)
    for round_ in range(1, rounds + 1):
        globals_, lanes, buffer = packed_round(engine, cells, globals_, lanes, buffer, slots, round_)
    return globals_


# float32 sums in another order, over at most some 60 steps of size <= 0.1: relative 1e-4 is far above rounding
# and far below what one missed, doubled or swapped batch would change.
close = partial(chex.assert_trees_all_close, rtol=1e-4, atol=1e-5)

sizes = st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(lambda each: sum(each) > 0)


# No shrinking: every example compiles anew, so that shrinking a failure would take minutes.
@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.lists(st.tuples(sizes, st.integers(0, 9), st.integers(1, 2)), min_size=1, max_size=3),
    st.sampled_from(
        [
            ("sgd", "cross_entropy", None),
            ("sgd", "fedprox", "table"),
            ("sgd", "cross_entropy", "table"),
            ("adamw", "cross_entropy", None),
        ]
    ),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from([1, 3, 32]),
    st.sampled_from([rules.fedavg, kept(rules.fedavg)]),
)
def test_packed_equals_sequential(drawn, kind, num_lanes, drop, chunk_steps, rule):
    mu = 0.3 if kind[1] == "fedprox" else 0.0  # as the config demands
    numbers = {"sgd": (0.1, 0.9, 0.0, mu), "adamw": (0.01, 0.0, 0.1, mu)}[kind[0]]
    cells = [
        Cell([GENERATOR.permutation(80)[:size] for size in each], seed, *kind[:2], epochs, drop, numbers)
        for each, seed, epochs in drawn
    ]
    # Optax's Adam raises a Python float to an int32 power, which strict promotion forbids.
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(schedule, "CHUNK_STEPS", chunk_steps)
        got = run(cells, num_lanes, rounds=2, table=kind[2], rule=rule)
        for index, cell in enumerate(cells):
            expected = cell.start
            for round_ in (1, 2):
                expected = sequential(cell, expected, round_)
            close(jax.tree.map(lambda leaf, i=index: leaf[i], got), expected)


def one_cell(clients, seed=1):
    return Cell(clients, seed, "sgd", "cross_entropy", 2, False, (0.1, 0.9, 0.0, 0.0))


def test_an_empty_client_changes_nothing():
    clients = [np.arange(10), np.arange(10, 35)]
    without = run([one_cell(clients)], 2, 2)
    close(run([one_cell([*clients, np.array([], int)])], 2, 2), without)


def test_clients_in_another_order_with_their_own_shuffles():
    # A client's number seeds its shuffle and dropout, so the order is changed in the slots, not in the numbers.
    cell, engine = one_cell([np.arange(10), np.arange(10, 35), np.arange(40, 47)]), None
    globals_ = stack([cell.start])
    results = []
    for order in ([0, 1, 2], [2, 0, 1]):
        engine = engine or engine_for([cell])
        lanes, buffer = engine.start(globals_, 2, 3)
        steps = [
            schedule.local_batches(cell.clients[client], 2, BATCH, False, seed=1, round_=1, client=client)
            for client in order
        ]
        jobs = [schedule.Job(0, slot, client, 1, steps[slot]) for slot, client in enumerate(order)]
        data, hyper = (
            Data(jnp.asarray(TOKENS), jnp.asarray(LABELS)),
            Hyper(*np.array([cell.numbers], np.float32).T),
        )
        rows = np.array([[len(cell.clients[client]) for client in order]], np.float32)
        counts, nobody = np.zeros((1, 3, CLASSES), np.float32), np.zeros((1, 3), np.int32)
        people = Participants(np.array([order], np.int32), rows, counts, np.ones((1, 3), bool), rows, nobody)
        states = engine.init_rules(globals_)
        buffer, told, _ = engine.begin(globals_, states, buffer, people)
        inputs = Round(globals_, hyper, told, FROZEN, data)
        for chunk in schedule.chunks(jobs, 2, 1):
            lanes, buffer, _ = engine.advance(lanes, buffer, inputs, chunk)
        results.append(engine.aggregate(states, buffer, inputs)[0])
    close(*results)


def test_one_compilation_over_rounds_sizes_and_numbers():
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(apply, n=2)  # once in advance, once in predict
    asked = Counter()

    def counting():
        rule = rules.fedavg()

        def count(name, function, *arguments):
            asked[name] += 1
            return function(*arguments)

        return rule._replace(**{name: partial(count, name, getattr(rule, name)) for name in ("weights", "aggregate")})

    cells = [one_cell([np.arange(10), np.arange(10, 35)]), one_cell([np.arange(3), np.arange(40, 80)], seed=2)]
    group = RuleGroup(counting, np.arange(2), {})
    engine = build_engine(dense(Training(traced, OBJECTIVES["cross_entropy"], sgd)), traced, [group])
    globals_ = engine.replicate(stack([cell.start for cell in cells]))
    lanes, buffer = engine.start(globals_, 3, 4)
    for round_ in (1, 2, 3):
        cells[0].numbers = (0.1 / round_, 0.5, 0.0, 0.0)
        globals_, lanes, buffer = packed_round(engine, cells, globals_, lanes, buffer, 2, round_)
        rows = np.arange(20, dtype=np.int32).reshape(2, 10) * round_
        engine.predict(globals_, FROZEN, jnp.asarray(TOKENS), (np.arange(2, dtype=np.int32), rows))
    assert asked == {"weights": 1, "aggregate": 1}  # once in begin, once in aggregate


def test_numbers_of_a_rule_are_arguments_of_what_is_compiled():
    """The same text for every beta, so that what XLA made of one run serves the next."""
    cells, texts = [one_cell([np.arange(10), np.arange(10, 35)])], []
    globals_ = stack([cells[0].start])
    nobody, ones = np.zeros((1, 2), np.int32), np.ones((1, 2), np.float32)
    people = Participants(nobody, ones, np.ones((1, 2, CLASSES), np.float32), ones > 0, ones, nobody)
    for beta in (0.3, 0.7):
        numbers = {"lr": np.ones(1, np.float32), "beta": np.full(1, beta, np.float32)}
        group = RuleGroup(methods.fedavgm, np.arange(1), numbers)
        engine = build_engine(dense(Training(apply, OBJECTIVES["cross_entropy"], sgd)), apply, [group])
        states, (lanes, buffer) = engine.init_rules(globals_), engine.start(globals_, 1, 2)
        hyper = Hyper(*np.array([cells[0].numbers], np.float32).T)
        buffer, told, _ = engine.begin(globals_, states, buffer, people)
        inputs = Round(globals_, hyper, told, FROZEN, Data(jnp.asarray(TOKENS), jnp.asarray(LABELS)))
        chunk = next(schedule.chunks([schedule.Job(0, 0, 0, 1, np.zeros((1, BATCH), np.int32))], 1, 1))
        lowered = engine.aggregate.func.lower(*engine.aggregate.args, states, buffer, inputs)
        texts.append((lowered.as_text(), engine.advance.lower(lanes, buffer, inputs, chunk).as_text()))
    assert texts[0] == texts[1]


def test_predict_is_argmax_of_the_model_that_is_asked():
    globals_ = stack([leaves(1), leaves(2)])
    models, rows = np.array([1, 0, 0, 1], np.int32), np.arange(20, dtype=np.int32).reshape(4, 5)
    got = predict(apply, globals_, FROZEN, jnp.asarray(TOKENS), (models, rows))
    for classes, model, batch in zip(np.asarray(got), models, rows, strict=True):
        expected = np.argmax(apply(leaves(model + 1), FROZEN, TOKENS[batch]), axis=-1)
        assert np.array_equal(classes, expected)


@pytest.mark.parametrize("rule", [rules.uniform, kept(rules.uniform)])
def test_cells_keep_their_rules(rule):
    """Summed or kept: one rule that needs every client's leaves has those of all cells kept."""
    cells = [one_cell([np.arange(2), np.arange(10, 40)]) for _ in range(2)]
    groups = [RuleGroup(rule, np.array([1]), {}), RuleGroup(rules.fedavg, np.array([0]), {})]
    engine = build_engine(dense(Training(apply, OBJECTIVES["cross_entropy"], sgd)), apply, groups)
    assert engine.summed == (rule is rules.uniform)
    globals_ = stack([cell.start for cell in cells])
    got, _, _ = packed_round(engine, cells, globals_, *engine.start(globals_, 1, 4), 2, 1)
    each = engine_for(cells, rule=kept(rules.fedavg))
    buffer = packed_round(each, cells, globals_, *each.start(globals_, 1, 4), 2, 1)[2]
    for index, weights in enumerate(([2 / 32, 30 / 32], [0.5, 0.5])):
        expected = jax.tree.map(
            lambda leaf, i=index, w=weights: w[0] * leaf[0, 2 * i] + w[1] * leaf[0, 2 * i + 1], buffer.leaves
        )
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=index: leaf[i], got), expected, rtol=1e-5, atol=1e-6)


def test_sums_take_no_more_room_for_more_clients():
    cells = [one_cell([np.arange(2)] * 7)] * 2
    globals_ = stack([cell.start for cell in cells])
    shapes = {
        rule: jax.tree.map(jnp.shape, engine_for(cells, "table", rule).start(globals_, 1, 14)[1].leaves)
        for rule in (rules.fedavg, kept(rules.fedavg))
    }
    summed, every = shapes.values()
    assert summed == {"table": Sum((1, 2), (1, 2, WORDS, WIDTH)), "matrix": (1, 2, WIDTH, CLASSES)}
    assert every == {"table": (1, 14, WORDS, WIDTH), "matrix": (1, 14, WIDTH, CLASSES)}


def poisoned_lane(engine, globals_, table):
    """A lane whose job, slot 2 of the second of two cells, has ended with a leaf that is not finite."""
    lanes, _ = engine.start(globals_, 1, 4)
    params, *rest = lanes.state
    if table:
        optimizer, held = rest
        held = held._replace(weights=held.weights.at[0, 3].set(jnp.nan), updated=held.updated.at[0, 3].set(1))
        return lanes._replace(state=(params, optimizer, held))
    return lanes._replace(state=({**params, "matrix": params["matrix"] + jnp.inf}, *rest))


@pytest.mark.parametrize("table", [None, "table"])
@pytest.mark.parametrize("rule", [rules.fedavg, kept(rules.fedavg)])
def test_the_job_whose_leaves_are_not_finite_gets_the_loss_nan(rule, table):
    cells = [one_cell([np.arange(8), np.arange(8, 12)])] * 2
    engine, nobody = engine_for(cells, table, rule), np.zeros((2, 2), np.int32)
    globals_ = stack([cell.start for cell in cells])
    ones = np.ones((2, 2), np.float32)
    people = Participants(nobody, ones, np.ones((2, 2, CLASSES), np.float32), ones > 0, ones, nobody)
    states = engine.init_rules(globals_)
    hyper = Hyper(*np.array([cell.numbers for cell in cells], np.float32).T)
    job = schedule.Job(1, 2, 0, 1, np.zeros((1, BATCH), np.int32))
    (chunk,) = schedule.chunks([job], 1, 1)
    segments = chunk.segments._replace(first=chunk.segments.first & False, live=0 * chunk.segments.live)
    ended = chunk._replace(segments=segments, rows=0 * chunk.rows - 1)  # the lane's job ends as it stands
    for lanes, first in ((engine.start(globals_, 1, 4)[0], 0.0), (poisoned_lane(engine, globals_, table), np.nan)):
        buffer, told, _ = engine.begin(globals_, states, engine.start(globals_, 1, 4)[1], people)
        inputs = Round(globals_, hyper, told, FROZEN, Data(jnp.asarray(TOKENS), jnp.asarray(LABELS)))
        _, buffer, _ = engine.advance(lanes, buffer, inputs, ended)
        new, _, outcome = engine.aggregate(states, buffer, inputs)
        np.testing.assert_array_equal(outcome.loss, [[0, 0], [first, 0]])
        assert outcome.finite.tolist() == [True, bool(first == 0)]
        if first != 0:  # the cell stays as it was before the round, and the other goes on
            chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[1], new), cells[1].start)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))


def test_masked_rows_leak_neither_value_nor_gradient():
    logits = jnp.asarray(GENERATOR.normal(size=(4, CLASSES)), jnp.float32)
    labels, mask = jnp.array([0, 1, 2, 0]), jnp.array([True, True, False, False])
    poisoned = logits.at[2:].set(jnp.array([jnp.inf, -jnp.inf, jnp.nan]))
    expected = optax.softmax_cross_entropy_with_integer_labels(logits[:2], labels[:2]).mean()
    value, gradient = jax.value_and_grad(masked_cross_entropy)(logits, labels, mask)
    assert jnp.isclose(value, expected, rtol=1e-6)
    assert (gradient[2:] == 0).all()
    assert jnp.isfinite(masked_cross_entropy(poisoned, labels, mask))
    assert masked_cross_entropy(logits, labels, jnp.zeros(4, bool)) == 0
