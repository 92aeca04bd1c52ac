"""The one impure loop: prepare, then for every program and round schedule, train, aggregate, predict, store."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fedjax_paradox.config import Experiment, content_hash, to_yaml
from fedjax_paradox.errors import InputError
from fedjax_paradox.federated.packing import schedule
from fedjax_paradox.federated.trainer import Round
from fedjax_paradox.federated.types import Outcome
from fedjax_paradox.storage import cells, checkpoint, folder, history, results
from fedjax_paradox.storage.provenance import surroundings
from fedjax_paradox.sweep.batches import by_length
from fedjax_paradox.sweep.history import Went, recorded
from fedjax_paradox.sweep.hosts import is_writer, written_by_one
from fedjax_paradox.sweep.plan import explained, launch
from fedjax_paradox.sweep.program import Program
from fedjax_paradox.sweep.resume import Part, Standing, look, ordered
from fedjax_paradox.sweep.rounds import (
    asked_of_models,
    padding,
    plan_round,
    train_batches,
    train_needs,
    with_start_loss,
)
from fedjax_paradox.sweep.scores import scores


class Started(NamedTuple):
    """Part number `program` of what is left to train begins, with `round` rounds found finished."""

    program: int
    round: int


class Trained(NamedTuple):
    """So many more rows are trained in the round."""

    program: int
    round: int
    rows: int


class Finished(NamedTuple):
    """The round is stored; `table` holds its rows, if clients were scored after it."""

    program: int
    round: int
    table: pa.Table
    seconds: float
    phases: dict[str, float]  # seconds of schedule, training, aggregation, prediction, checkpoint
    waste: float  # share of the computed steps that trained nothing
    padding: float  # share of the token places computed in the others that held none
    history: pa.Table  # its rows of rounds.parquet


class Diverged(NamedTuple):
    """A cell stopped before this round, whose losses or leaves are not finite; it keeps its rounds before."""

    program: int
    round: int
    cell: str
    client: int  # `cells.NOBODY` where the rule alone is at fault


Event = Started | Trained | Finished | Diverged
Notify = Callable[[Event], None]


class Study(NamedTuple):
    """An experiment in a folder that is claimed for it."""

    experiment: Experiment
    out: Path
    standing: Standing

    @property
    def programs(self) -> list[Program]:
        """What is left to train."""
        return [part.program for part in self.standing.parts]


@contextmanager
def begin(
    experiment: Experiment, programs: Sequence[Program], out: Path, retry_diverged: bool = False
) -> Iterator[Study]:
    """Claims `out` for an experiment and finds what is left to train.

    Args:
      programs: `prepare(cells(experiment), cache)`.

    Raises:
      InputError: `out` is somebody else's or in use, holds another run under a cell's name, or is damaged.
    """
    record = {
        "hash": content_hash(experiment),
        "inputs": [program.inputs for program in programs],
        "commits": [program.commits for program in programs],
        **surroundings(),
    }
    with written_by_one(folder.claim(out)):
        standing = look(out, programs, retry_diverged)
        if is_writer():
            folder.describe(out, record, to_yaml(experiment))
            _store(out, standing)
        yield Study(experiment, out, standing)


def run(experiment: Experiment, programs: Sequence[Program], out: Path, notify: Notify) -> pa.Table:
    """Runs or resumes an experiment in `out`, from `begin` to `train`."""
    with begin(experiment, programs, out) as study:
        return train(study, notify).table


def train(study: Study, notify: Notify) -> Standing:
    """Trains what is left, part by part and round by round.

    Args:
      notify: told of every chunk and round.

    Returns:
      what the folder then holds.

    Raises:
      InputError: a rule cannot weigh a client, or lanes do not fit. Rounds that were finished before stay.
    """
    standing = study.standing
    for number, part in enumerate(standing.parts):
        standing = _train_part(study, number, part, standing, notify)
    return standing


def _train_part(study: Study, number: int, part: Part, standing: Standing, notify: Notify) -> Standing:
    program, done, out = part.program, part.done, study.out
    engine, cells_ = program.engine, program.cells
    # On the devices like what a checkpoint restores, or a resumed run would compile another program.
    globals_, frozen = engine.replicate(program.initial())
    states = engine.init_rules(globals_)
    if part.start is not None:
        globals_, states = engine.replicate(part.start)
    advance, lanes, buffer = launch(study.experiment, program, globals_, states, frozen)
    num_lanes, batches = lanes.loss.shape[0], by_length(program, program.predicted, asked_of_models(program))
    everybody = train_batches(program) if engine.needs_start_loss else []
    needs = train_needs(program)
    stopped: dict[int, int] = {}  # cell -> its last finite round
    where = out / "checkpoints" / checkpoint.group_name(program.identities)
    with explained(program, num_lanes), checkpoint.checkpoints(where, study.experiment.checkpoints_kept) as manager:
        notify(Started(number, done))
        for round_ in range(done + 1, cells_[0].rounds + 1):
            lap = _stopwatch()
            jobs, participants = plan_round(program, round_, num_lanes, stopped)
            if engine.needs_start_loss:
                participants = with_start_loss(program, round_, participants, (globals_, frozen), everybody)
            buffer, told, unweighable = engine.begin(globals_, states, buffer, participants)
            round_inputs = Round(globals_, program.hyper, told, frozen, program.data)
            _check_weights(program, jobs, unweighable, round_)
            lap("schedule")
            trained: Any = 0
            for chunk in schedule.chunks(jobs, num_lanes, round_):
                lanes, buffer, rows = advance(lanes, buffer, round_inputs, chunk)
                # One chunk behind, so that the device never waits for the host.
                notify(Trained(number, round_, int(trained)))
                trained = rows
            notify(Trained(number, round_, int(trained)))
            lap("training")
            globals_, states, outcome = engine.aggregate(states, buffer, round_inputs)
            _check_weights(program, jobs, outcome.unweighable, round_)
            before = set(stopped)
            for index, client in _diverging(jobs, outcome, stopped):
                stopped[index] = round_ - 1
                standing = _with_diverged(standing, program, index, round_, client)
                notify(Diverged(number, round_, cells_[index].name, client))
            lap("aggregation")
            going = [index for index in range(len(cells_)) if index not in stopped]
            ended = [index for index in stopped if index not in before]
            table, late = scores(program, round_, (globals_, states, frozen), batches, going=going, ended=ended)
            phases = dict(lap("prediction"))
            standing = standing._replace(table=ordered(pa.concat_tables([standing.table, table, late]), standing.ranks))
            waste = schedule.waste([len(job.steps) for job in jobs], num_lanes)
            empty = padding(program, needs, jobs, num_lanes)
            went = Went(round_, participants, outcome, phases, _visited(jobs), waste, empty)
            if is_writer():  # before the checkpoint: results may be ahead of it, never behind
                _write(out, _with_history(standing, program, went, before))
            checkpoint.save(manager, round_, globals_, states, _members(program, round_, stopped))
            phases = lap("checkpoint")
            standing = _with_history(standing, program, went._replace(phases=phases), before)
            if not going:
                break
            trained = history.of_round(standing.history.rounds, [cell.name for cell in cells_], round_)
            notify(Finished(number, round_, table, sum(phases.values()), phases, waste, empty, trained))
    if is_writer():
        history.write(out, standing.history)  # with the time of the last checkpoint
    return standing


def _visited(jobs: Sequence[schedule.Job]) -> int:
    return sum(int((job.steps >= 0).sum()) for job in jobs)


def _with_history(standing: Standing, program: Program, went: Went, stopped: Collection[int]) -> Standing:
    found = recorded(standing.history, program, went, stopped)
    return standing._replace(history=found.map(lambda table: ordered(table, standing.ranks)))


def _write(out: Path, standing: Standing) -> None:
    cells.write(out, standing.entries.values())
    history.write(out, standing.history)
    results.write(out, [standing.table])


def _store(out: Path, standing: Standing) -> None:
    """Writes what differs from what the folder holds: a finished one stays as it is."""
    if cells.read(out) != standing.entries:
        cells.write(out, standing.entries.values())
    if not results.read(out).equals(standing.table):
        results.write(out, [standing.table])
    if not all(one.equals(other) for one, other in zip(history.read(out), standing.history, strict=True)):
        history.write(out, standing.history)


def _members(program: Program, round_: int, stopped: dict[int, int]) -> list[checkpoint.Member]:
    """The cells of a checkpoint: identity, round, and where its rule's state lies."""
    places = {
        cell: (rule, place) for rule, group in enumerate(program.engine.groups) for place, cell in enumerate(group)
    }
    return [
        checkpoint.Member(identity, stopped.get(index, round_), *places[index])
        for index, identity in enumerate(program.identities)
    ]


def _diverging(jobs: Sequence[schedule.Job], outcome: Outcome, stopped: Collection[int]) -> Iterator[tuple[int, int]]:
    """(cell, client) of those that the round has stopped; the first client at fault, or `cells.NOBODY`."""
    losses = np.asarray(outcome.loss).ravel()
    for index in np.flatnonzero(~np.asarray(outcome.finite)).tolist():
        if index not in stopped:
            clients = [job.client for job in jobs if job.cell == index and not np.isfinite(losses[job.slot])]
            yield index, min(clients, default=cells.NOBODY)


def _with_diverged(standing: Standing, program: Program, index: int, round_: int, client: int) -> Standing:
    alike = [program.cells[index].name, *(twin.cell.name for twin in program.twins if twin.of == index)]
    told: dict[str, Any] = {"status": cells.DIVERGED, "diverged_round": round_, "diverged_client": client}
    return standing._replace(
        entries=standing.entries | {name: standing.entries[name]._replace(**told) for name in alike}
    )


def _check_weights(program: Program, jobs: Sequence[schedule.Job], unweighable: Any, round_: int) -> None:
    found = np.asarray(unweighable)
    if not found.any():
        return
    index = int(np.flatnonzero(found.any(axis=1))[0])
    own = [job for job in jobs if job.cell == index]
    faulty = [job.client for job in own if found.ravel()[job.slot]]
    cell = program.cells[index]
    who = f"client {faulty[0]}" if len(faulty) < len(own) else f"every client, the first being {faulty[0]}"
    raise InputError(
        f"rule {cell.rule}: a weight must be finite and not negative, and one of them above 0; in cell {cell.name}, "
        f"round {round_}, that fails for {who}; correct the rule or its numbers. The rounds before are kept"
    )


def _stopwatch() -> Callable[[str], dict[str, float]]:
    """A function that ends a phase, and returns the seconds of all phases since this call."""
    phases: dict[str, float] = {}
    last = time.monotonic()

    def lap(name: str) -> dict[str, float]:
        nonlocal last
        now = time.monotonic()
        phases[name], last = now - last, now
        return phases

    return lap
