import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_paradox.federated.packing import schedule

lengths = st.lists(st.integers(1, 90), min_size=1, max_size=12)


def made_jobs(steps, batch=2):
    rows = itertools.count()
    return [
        schedule.Job(0, slot, 7 * slot, 3, np.array([[next(rows) for _ in range(batch)] for _ in range(n)], np.int32))
        for slot, n in enumerate(steps)
    ]


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(1, 15))
def test_every_step_once_in_order_on_one_lane(steps, num_lanes):
    jobs = made_jobs(steps)
    seen = {job.slot: [] for job in jobs}
    lane_of = {}
    computed, full = 0, []
    for chunk in schedule.chunks(jobs, num_lanes, round_=5):
        every = chunk.segments
        assert 1 <= chunk.count <= schedule.CHUNK_STEPS
        assert (np.cumsum(every.live) - every.live)[: chunk.count].tolist() == every.begin[: chunk.count].tolist()
        total = int(every.live.sum())
        full.append(total == schedule.CHUNK_STEPS)
        assert (chunk.rows[:, total:] == -1).all()
        computed += total
        for number, lane in itertools.product(range(chunk.count), range(num_lanes)):
            of = type(every)(*(each[number, lane] if each.ndim == 2 else each[number] for each in every))
            rows = chunk.rows[lane, of.begin : of.begin + of.live].tolist()
            assert of.live >= 1
            if of.slot >= len(jobs):
                assert np.all(np.array(rows) == -1)
                continue
            slot = int(of.slot)
            assert lane_of.setdefault(slot, lane) == lane
            assert of.client == 7 * slot
            assert of.step == len(seen[slot])
            assert bool(of.first) == (len(seen[slot]) == 0)
            seen[slot].extend(rows)
            assert bool(of.last) == (len(seen[slot]) == steps[slot])
    assert all(full[:-1])
    for job in jobs:
        assert seen[job.slot] == job.steps.tolist()
    # What is computed is what `waste` says: lanes * loop steps, of which the jobs' steps are useful.
    assert np.isclose(schedule.waste(steps, num_lanes), 1 - sum(steps) / (num_lanes * computed))


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(1, 6))
def test_packing_is_within_four_thirds_of_the_best(steps, num_lanes):
    lanes = schedule.assign(steps, num_lanes)
    longest = max(sum(steps[job] for job in lane) for lane in lanes)
    lower_bound = max(max(steps), -(-sum(steps) // num_lanes))
    # Graham's bound holds against the optimum, which is at least `lower_bound` plus less than one job.
    assert longest <= lower_bound + max(steps) * (1 - 1 / num_lanes)
    assert sorted(itertools.chain(*lanes)) == list(range(len(steps)))


def test_choose_lanes_takes_the_most_that_waste_little():
    assert schedule.choose_lanes([10] * 8, at_most=8) == 8
    assert schedule.choose_lanes([10] * 8, at_most=7) == 4  # 5, 6 and 7 lanes leave some idle
    assert schedule.choose_lanes([100, 1, 1], at_most=3) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 3), st.integers(1, 33), st.booleans(), st.integers(0, 99))
def test_local_batches_visit_every_row_once_an_epoch(count, epochs, batch, drop, seed):
    rows = np.arange(1000, 1000 + count)
    batches = schedule.local_batches(rows, epochs, batch, drop, seed=seed, round_=2, client=4)
    assert len(batches) == schedule.num_steps(count, epochs, batch, drop)
    kept = count // batch * batch if drop and count >= batch else count
    for epoch in np.split(batches, epochs):
        visited = epoch[epoch >= 0]
        assert len(visited) == kept
        assert len(set(visited)) == kept
        assert set(visited) <= set(rows)
        assert (epoch[:-1] >= 0).all()  # padding stands in the last batch alone


def test_shuffles_depend_on_seed_round_client_and_epoch_alone():
    rows = np.arange(50)
    base = schedule.local_batches(rows, 2, 50, False, seed=1, round_=1, client=1)
    assert np.array_equal(base, schedule.local_batches(rows, 2, 50, False, seed=1, round_=1, client=1))
    assert not np.array_equal(base[0], base[1])
    for change in ({"seed": 2}, {"round_": 2}, {"client": 2}):
        other = schedule.local_batches(rows, 2, 50, False, **{"seed": 1, "round_": 1, "client": 1, **change})
        assert not np.array_equal(base, other)


def test_client_sampling_depends_on_seed_and_round():
    available = np.array([0, 2, 3, 5, 7, 8, 9, 11])
    draws = [tuple(schedule.sample_clients(available, 0.5, seed, r)) for seed in (1, 2) for r in range(1, 20)]
    assert len(set(draws)) > 20
    for draw in draws:
        assert len(set(draw)) == 4
        assert set(draw) <= set(available)
        assert list(draw) == sorted(draw)
    assert np.array_equal(schedule.sample_clients(available, 1.0, 1, 1), available)
    assert len(schedule.sample_clients(available, 0.01, 1, 1)) == 1
