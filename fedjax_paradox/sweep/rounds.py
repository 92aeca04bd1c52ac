"""What one round of a program asks of the engine, and what its predictions mean: pure functions of both."""

from collections.abc import Collection, Sequence

import numpy as np

from fedjax_paradox.config import Cell
from fedjax_paradox.evaluation.protocols import PROTOCOLS, Counts, Protocol, View
from fedjax_paradox.federated.packing import schedule
from fedjax_paradox.federated.types import Participants, Tree
from fedjax_paradox.sweep.batches import Batches, by_length, of_rows
from fedjax_paradox.sweep.clients import Attending, attending
from fedjax_paradox.sweep.program import Program
from fedjax_paradox.sweep.sizes import batch_needs, places_of_lanes, row_needs


def job_lengths(program: Program) -> list[int]:
    """Steps of each job of round 1."""
    return [
        schedule.num_steps(len(each.rows), cell.local.epochs, cell.local.batch_size, cell.local.drop_ragged)
        for index, cell in enumerate(program.cells)
        for each in _attending(program, index, 1)
    ]


def _attending(program: Program, index: int, round_: int) -> list[Attending]:
    """Who takes part, once for each local update."""
    rule = program.rules[index].rule
    clients = attending(program.cells[index], program.clients[index], rule.pooled, round_)
    return [each for each in clients for _ in range(rule.jobs)]


def plan_round(
    program: Program, round_: int, num_lanes: int = 1, stopped: Collection[int] = ()
) -> tuple[list[schedule.Job], Participants]:
    """The round's jobs, and who fills which slot; a pure function of its arguments. Cells in `stopped` have no part."""
    shape = (len(program.cells), program.slots)
    devices = np.zeros(shape, np.int32)
    clients = np.full(shape, np.iinfo(np.int32).max, np.int32)
    rows, taken, mask = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, bool)
    counts = np.zeros((*shape, len(program.corpus.classes)), np.float32)
    jobs = []
    for index, cell in enumerate(program.cells):
        for slot, each in enumerate(_attending(program, index, round_) if index not in stopped else ()):
            settings = (cell.local.epochs, cell.local.batch_size, cell.local.drop_ragged)
            steps = schedule.local_batches(each.rows, *settings, seed=cell.seed, round_=round_, client=each.client)
            jobs.append(schedule.Job(index, index * program.slots + slot, each.client, cell.seed, steps))
            counts[index, slot], mask[index, slot] = each.class_counts, True
            rows[index, slot], taken[index, slot], clients[index, slot] = len(each.rows), len(steps), each.client
    lanes = schedule.lane_of([len(job.steps) for job in jobs], num_lanes)
    devices.flat[[job.slot for job in jobs]] = lanes * program.engine.devices // num_lanes
    return jobs, Participants(clients, rows, counts, mask, taken, devices)


def train_needs(program: Program) -> np.ndarray:
    """`row_needs` of every train row."""
    return row_needs(program.corpus.train_tokens, program.model.trailing)


def padding(program: Program, needs: np.ndarray, jobs: Sequence[schedule.Job], num_lanes: int) -> float:
    """Share of the token places computed in the jobs' steps in which there is no token; needs: of every train row."""
    if not jobs:
        return 0.0
    sizes = program.trainer.sizes
    if not sizes:
        rows = np.concatenate([job.steps[job.steps >= 0] for job in jobs])
        return 1.0 - float(needs[rows, 0].mean()) / program.corpus.train_tokens.shape[1]
    lengths = [len(job.steps) for job in jobs]
    lanes = schedule.assign(lengths, num_lanes)
    held = batch_needs(needs, np.concatenate([jobs[job].steps for lane in lanes for job in lane]))
    ends = np.cumsum([sum(lengths[job] for job in lane) for lane in lanes])
    return 1.0 - int(held[:, 0].sum()) / places_of_lanes(np.split(held, ends[:-1]), sizes, program.engine.devices)


def scored_rounds(cell: Cell, done: int, ended: bool = False) -> set[int]:
    """The rounds up to `done` after which a cell's clients are scored; ended: it diverged, and has no more."""
    every = set(range(cell.evaluate_every, done + 1, cell.evaluate_every))
    return every | ({done} if done and (ended or done >= cell.rounds) else set())


def train_batches(program: Program) -> list[Batches]:
    """All train rows, in order."""
    every = np.arange(len(program.corpus.train_labels), dtype=np.int32)
    return by_length(program, every, [every] * len(program.cells))


def asked_of_models(program: Program) -> list[np.ndarray]:
    """Of each model, which of `predicted` it predicts: a client's own model the test rows and what is the client's."""
    rows, train = program.predicted, len(program.corpus.train_labels)
    every = np.arange(len(rows))
    if program.engine.serve is None:
        return [every] * len(program.cells)
    if set(program.protocols) - set(PROTOCOLS):  # a person's own may look at other clients' rows too
        return [every for one in program.clients for _ in one.scored]
    own = [np.concatenate(held) for one in program.clients for held in zip(*one.rows_of_scored(), strict=True)]
    return [np.flatnonzero((rows >= train) | np.isin(rows, held)) for held in own]


def with_start_loss(
    program: Program, round_: int, participants: Participants, models: tuple[Tree, Tree], batches: Sequence[Batches]
) -> Participants:
    """The participants with the incoming models' mean loss on their train rows (dropout off), f32[P, K].

    One pass over all train rows for each cell; 0 in slots without a client.

    Args:
      models: (globals [P, ...], frozen leaves); batches: `train_batches`.
    """
    losses = of_rows(program.engine.losses, *models, program.data, batches).astype(np.float64)
    found = np.zeros(participants.rows.shape, np.float32)
    for index in range(len(program.cells)):
        own = losses[index]
        for slot, each in enumerate(_attending(program, index, round_)):
            found[index, slot] = own[each.rows].mean()
    return participants._replace(start_loss=found)


def predict(program: Program, models: Tree, frozen: Tree, batches: Sequence[Batches]) -> np.ndarray:
    """i32[models, rows]: every model's class of each row of `predicted`, whose `by_length` the batches are; -1 where it
    is not asked."""
    return of_rows(program.engine.predict, models, frozen, program.data.tokens, batches)


def measure(program: Program, index: int, classes: np.ndarray) -> dict[str, Counts]:
    """Every protocol's (correct f64[S], total i64[S]) of one cell's clients that are scored.

    Args:
      classes: i32[rows], the model's class for each row of `predicted`; i32[S, rows] where every client has its own.
    """
    if classes.ndim == 1:
        view = _view(program, index, classes)
        return {name: protocol.counts(view) for name, protocol in program.protocols.items()}
    views = [_view(program, index, own) for own in classes]
    return {name: _of_own_models(protocol, views) for name, protocol in program.protocols.items()}


def _of_own_models(protocol: Protocol, views: Sequence[View]) -> Counts:
    """Every client's counts under its own model."""
    counts = [protocol.counts(view) for view in views]
    own = [(correct[client], total[client]) for client, (correct, total) in enumerate(counts)]
    correct, total = zip(*own, strict=True)
    return np.array(correct, np.float64), np.array(total, np.int64)


def _view(program: Program, index: int, classes: np.ndarray) -> View:
    corpus, one = program.corpus, program.clients[index]
    labels, train = np.concatenate([corpus.train_labels, corpus.test_labels]), len(corpus.train_labels)
    correct = np.zeros(len(labels), bool)
    correct[program.predicted] = labels[program.predicted] == classes
    rows = (correct[:train], correct[train:], corpus.train_labels, corpus.test_labels)
    return View(*rows, *one.rows_of_scored(), len(corpus.classes))
