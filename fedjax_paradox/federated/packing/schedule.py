"""Who trains on what, when, and in which lane: NumPy arrays, pure functions of seeds and counters.

A round's jobs (one participating client of one cell each) are lists of batches. Jobs of all cells are packed into lanes
longest first. A segment ends where any lane's job ends, so busy lanes never wait for each other and only the end of the
round wastes steps; a chunk, one call of the device, holds as many segments as have its number of steps. Nothing here
depends on what happened before: a schedule is recomputed after a resume and never stored, and what a client sees
depends neither on the lanes nor on the other jobs.
"""

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np


class Job(NamedTuple):
    """One client's local update in one round of one cell."""

    cell: int  # index of the cell in its program
    slot: int  # its number among the client slots of all cells
    client: int
    seed: int  # training seed of the cell
    steps: np.ndarray  # i32[steps, B], train rows, padded with -1


class Segment(NamedTuple):
    """What every lane does between two ends of jobs, L lanes; those of a chunk are stacked, [S, L] and [S].

    An idle lane has no rows and a `slot` past the end.
    """

    cell: Any  # i32[L], whose global model and hyper-parameters
    slot: Any  # i32[L]
    seed: Any  # i32[L], training seed of the cell
    client: Any  # i32[L]
    step: Any  # i32[L], the job's steps before this segment
    first: Any  # bool[L], the job starts with this segment
    last: Any  # bool[L], the job ends with this segment
    begin: Any  # i32[], the chunk's steps before this segment
    live: Any  # i32[], steps to run


class Chunk(NamedTuple):
    """What every lane does in one call of `advance`; NumPy here, traced there. L lanes, S = CHUNK_STEPS, B batch."""

    segments: Segment
    count: Any  # i32[], of segments; what stands behind them has no meaning
    rows: Any  # i32[L, S, B], train rows of each step, padded with -1
    round: Any  # i32[]


# Longest chunk: long enough to hide the host's work, short enough to show progress.
CHUNK_STEPS = 32

# Tags keep the random streams of one seed apart.
_SAMPLING, _SHUFFLE = 1, 2


def sample_clients(available: np.ndarray, participation: float, seed: int, round_: int) -> np.ndarray:
    """Clients that take part in a round, ascending: max(1, round(participation * K)) of the available K.

    Args:
      available: i[K], clients that have rows to train on.
      participation: fraction in (0, 1]; 1 takes all, whatever the seed.
      seed, round_: the draw depends on both and on nothing else.
    """
    count = max(1, round(participation * len(available)))
    if count >= len(available):
        return available
    generator = np.random.default_rng([seed, _SAMPLING, round_])
    return np.sort(generator.choice(available, size=count, replace=False))


def num_steps(rows: int, epochs: int, batch_size: int, drop_ragged: bool) -> int:
    """Steps of a local update; the ragged last batch goes only where a full one exists."""
    full, ragged = divmod(rows, batch_size)
    return epochs * (full + (ragged > 0 and not (drop_ragged and full > 0)))


def local_batches(
    rows: np.ndarray, epochs: int, batch_size: int, drop_ragged: bool, *, seed: int, round_: int, client: int
) -> np.ndarray:
    """Batches of one local update, shuffled anew each epoch.

    Args:
      rows: i[n], the client's train rows, n >= 1.
      drop_ragged: leave out each epoch's short last batch where the client has at least one full batch.

    Returns:
      i32[steps, batch_size], padded with -1. Every epoch visits every row once, but for dropped ones.
    """
    steps = num_steps(len(rows), 1, batch_size, drop_ragged)
    batches = np.full((epochs, steps * batch_size), -1, np.int32)
    for epoch in range(epochs):
        order = np.random.default_rng([seed, _SHUFFLE, round_, client, epoch]).permutation(len(rows))
        kept = rows[order[: steps * batch_size]]
        batches[epoch, : len(kept)] = kept
    return batches.reshape(epochs * steps, batch_size)


def assign(lengths: Sequence[int], num_lanes: int) -> list[list[int]]:
    """Jobs of each lane: longest first onto the least loaded lane (Graham, 1969: within 4/3 of the best).

    Args:
      lengths: steps of each job.
    """
    lanes: list[list[int]] = [[] for _ in range(num_lanes)]
    loads = [(0, lane) for lane in range(num_lanes)]
    for job in sorted(range(len(lengths)), key=lambda j: (-lengths[j], j)):
        load, lane = heapq.heappop(loads)
        lanes[lane].append(job)
        heapq.heappush(loads, (load + lengths[job], lane))
    return lanes


def lane_of(lengths: Sequence[int], num_lanes: int) -> np.ndarray:
    """i[jobs], the lane of each job."""
    found = np.zeros(len(lengths), np.int64)
    for lane, jobs in enumerate(assign(lengths, num_lanes)):
        found[jobs] = lane
    return found


def waste(lengths: Sequence[int], num_lanes: int) -> float:
    """Share of computed steps that train nothing: 1 - steps / (lanes * steps of the longest lane)."""
    longest = max(sum(lengths[job] for job in lane) for lane in assign(lengths, num_lanes))
    return 1 - sum(lengths) / (num_lanes * longest)


def choose_lanes(lengths: Sequence[int], at_most: int, devices: int = 1, tolerated: float = 0.02) -> int:
    """The largest number of lanes <= at_most whose waste is tolerated, else one on each device.

    Args:
      at_most: for all devices; the result is a multiple of `devices`.
    """
    most = min(at_most, len(lengths)) // devices * devices
    candidates = range(most, devices, -devices)
    return next((lanes for lanes in candidates if waste(lengths, lanes) <= tolerated), devices)


Served = list[tuple[Job, int] | None]  # what each lane is at: a job and its steps so far; None: the lane is idle


def chunks(jobs: Sequence[Job], num_lanes: int, round_: int) -> Iterator[Chunk]:
    """The round, chunk by chunk: every step of every job once, in the job's order, on one lane.

    Args:
      jobs: slots are distinct; any order.
    """
    batch_size, taken, used = jobs[0].steps.shape[1], [], 0
    for served, left in _segments(jobs, num_lanes):
        done = 0
        while done < left:
            live = min(CHUNK_STEPS - used, left - done)
            taken.append(([each and (each[0], each[1] + done) for each in served], live))
            used, done = used + live, done + live
            if used == CHUNK_STEPS:
                yield _chunk(taken, batch_size, round_)
                taken, used = [], 0
    if taken:
        yield _chunk(taken, batch_size, round_)


def _segments(jobs: Sequence[Job], num_lanes: int) -> Iterator[tuple[Served, int]]:
    """What the lanes are at, and for how many steps, until the next of their jobs ends."""
    queues = [deque(lane) for lane in assign([len(job.steps) for job in jobs], num_lanes)]
    done = [0] * num_lanes
    while any(queues):
        served = [(jobs[queue[0]], start) if queue else None for queue, start in zip(queues, done, strict=True)]
        live = min(len(each[0].steps) - each[1] for each in served if each)
        yield served, live
        for lane, queue in enumerate(queues):
            done[lane] += live
            if queue and done[lane] == len(jobs[queue[0]].steps):
                queue.popleft()
                done[lane] = 0


def _chunk(taken: Sequence[tuple[Served, int]], batch_size: int, round_: int) -> Chunk:
    """One chunk from what the lanes serve in each of its segments, and for how many steps."""
    lanes = len(taken[0][0])
    integers = np.zeros((5, CHUNK_STEPS, lanes), np.int32)
    cell, slot, seed, client, step = integers
    first, last = np.zeros((2, CHUNK_STEPS, lanes), bool)
    begin, live = np.zeros((2, CHUNK_STEPS), np.int32)
    rows = np.full((lanes, CHUNK_STEPS, batch_size), -1, np.int32)
    slot[:] = np.iinfo(np.int32).max
    used = 0
    for number, (served, steps) in enumerate(taken):
        begin[number], live[number] = used, steps
        for lane, work in enumerate(served):
            if work is None:
                continue
            job, start = work
            rows[lane, used : used + steps] = job.steps[start : start + steps]
            integers[:, number, lane] = job.cell, job.slot, job.seed, job.client, start
            first[number, lane], last[number, lane] = start == 0, start + steps == len(job.steps)
        used += steps
    segments = Segment(cell, slot, seed, client, step, first, last, begin, live)
    return Chunk(segments, np.int32(len(taken)), rows, np.int32(round_))
