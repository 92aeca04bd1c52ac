"""The one impure loop: prepare, then for every program and round schedule, train, aggregate, predict, store."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa

from fedjax_paradox.config import Cell, Experiment, content_hash, to_yaml
from fedjax_paradox.errors import InputError
from fedjax_paradox.federated import schedule
from fedjax_paradox.hosts import is_writer, written_by_one
from fedjax_paradox.plan import explained, launch
from fedjax_paradox.program import Program
from fedjax_paradox.rounds import measure, plan_round, predict_batches
from fedjax_paradox.storage import checkpoint, folder, results
from fedjax_paradox.storage.provenance import surroundings


class Started(NamedTuple):
    """Program number `program` begins, with `round` rounds found finished."""

    program: int
    round: int


class Trained(NamedTuple):
    """So many more rows are trained in the round."""

    program: int
    round: int
    rows: int


class Finished(NamedTuple):
    """The round is stored; `table` holds its rows."""

    program: int
    round: int
    table: pa.Table
    seconds: float
    phases: dict[str, float]  # seconds of schedule, training, aggregation, prediction, checkpoint
    waste: float  # share of the computed steps that trained nothing


Event = Started | Trained | Finished
Notify = Callable[[Event], None]


def run(experiment: Experiment, programs: Sequence[Program], out: Path, notify: Notify) -> pa.Table:
    """Runs or resumes an experiment in `out`.

    Args:
      programs: `prepare(cells(experiment), cache)`.
      notify: told of every chunk and round.

    Returns:
      the whole results table, as in `out/clients.parquet`.

    Raises:
      InputError: `out` is not this experiment's, a checkpoint is damaged, or a loss is not finite.
        Rounds that were finished before stay readable.
    """
    record = {
        "hash": content_hash(experiment),
        "inputs": [program.inputs for program in programs],
        **surroundings(),
    }
    with written_by_one(folder.claim(out, record, to_yaml(experiment))):
        tables = [results.read(out)]
        for number, program in enumerate(programs):
            tables = _run_program(experiment, number, program, out, tables, notify)
        return pa.concat_tables(tables)


def _run_program(
    experiment: Experiment, number: int, program: Program, out: Path, tables: list[pa.Table], notify: Notify
) -> list[pa.Table]:
    engine, cells_ = program.engine, program.cells
    # On the devices like what a checkpoint restores, or a resumed run would compile another program.
    globals_, frozen = engine.replicate(program.initial())
    state = (globals_, engine.init_rules(globals_))
    advance, lanes, buffer = launch(experiment, program, globals_, frozen)
    num_lanes = lanes.loss.shape[0]
    batches = predict_batches(program)
    with (
        explained(program, num_lanes),
        checkpoint.checkpoints(out / "checkpoints" / str(number), experiment.checkpoints_kept) as manager,
    ):
        done, (globals_, rule_states) = checkpoint.restore(manager, state)
        notify(Started(number, done))
        tables = [_without_later_rounds(pa.concat_tables(tables), cells_, done)]
        _check_complete(tables[0], cells_, done, out)
        for round_ in range(done + 1, cells_[0].rounds + 1):
            lap = _stopwatch()
            jobs, participants = plan_round(program, round_, num_lanes)
            buffer, weights = engine.begin(globals_, buffer, participants)
            lap("schedule")
            trained: Any = 0
            for chunk in schedule.chunks(jobs, num_lanes, round_):
                lanes, rows = advance(lanes, globals_, program.hyper, frozen, program.data, chunk)
                if chunk.last.any():
                    buffer = engine.store(buffer, lanes, globals_, program.hyper, weights, chunk)
                # One chunk behind, so that the device never waits for the host.
                notify(Trained(number, round_, int(trained)))
                trained = rows
            notify(Trained(number, round_, int(trained)))
            lap("training")
            globals_, rule_states, losses = engine.aggregate(globals_, rule_states, buffer, participants)
            _check_finite(program, jobs, np.asarray(losses).ravel(), round_, out)
            jax.block_until_ready(globals_)
            lap("aggregation")
            predicted = np.asarray(engine.predict(globals_, frozen, program.data.tokens, batches))
            lap("prediction")
            table = _table(program, round_, predicted)
            tables.append(table)
            if is_writer():
                results.write(out, tables)  # before the checkpoint: results may be ahead of it, never behind
            checkpoint.save(manager, round_, (globals_, rule_states))
            phases = lap("checkpoint")
            waste = schedule.waste([len(job.steps) for job in jobs], num_lanes)
            notify(Finished(number, round_, table, sum(phases.values()), phases, waste))
    return tables


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


def _table(program: Program, round_: int, predicted: np.ndarray) -> pa.Table:
    """The rows of every cell of a program; predicted: i32[batches, P, B]."""
    classes = predicted.swapaxes(0, 1).reshape(len(program.cells), -1)[:, : len(program.predicted)]
    tables = []
    for index, cell in enumerate(program.cells):
        facts = {**_facts(cell, program.corpus.name), "round": round_}
        train_rows = program.clients[index].class_counts.sum(axis=1)
        tables.append(results.records(facts, train_rows, measure(program, index, classes[index])))
    return pa.concat_tables(tables)


def _facts(cell: Cell, corpus: str) -> dict[str, Any]:
    names = ("model", "rule", "alpha", "num_clients", "partition_seed", "seed")
    return {"cell": cell.name, "corpus": corpus, **{name: getattr(cell, name) for name in names}}


def _without_later_rounds(table: pa.Table, cells_: Sequence[Cell], last: int) -> pa.Table:
    """Drops what these cells stored after the round that their checkpoint holds; it is computed again."""
    ours = np.isin(table["cell"].to_numpy(), [cell.name for cell in cells_])
    return table.filter(pa.array(~(ours & (table["round"].to_numpy() > last))))


def _check_complete(table: pa.Table, cells_: Sequence[Cell], last: int, out: Path) -> None:
    stored = {tuple(row.values()) for row in table.group_by(["cell", "round"]).aggregate([]).to_pylist()}
    for cell in cells_:
        missing = [round_ for round_ in range(1, last + 1) if (cell.name, round_) not in stored]
        if missing:
            raise InputError(
                f"{out / results.FILE} lacks round {missing[0]} of cell {cell.name}, but the checkpoint holds "
                f"round {last}; restore the file, or remove {out / 'checkpoints'} to start again"
            )


def _check_finite(program: Program, jobs: Sequence[schedule.Job], losses: np.ndarray, round_: int, out: Path) -> None:
    for job in jobs:
        if not np.isfinite(losses[job.slot]):
            cell = program.cells[job.cell]
            raise InputError(
                f"the loss or a weight is not finite in cell {cell.name}, round {round_}, client {job.client} "
                f"(local.learning_rate={cell.local.learning_rate}); lower the learning rate. "
                f"Rounds before {round_} are in {out / results.FILE}"
            )
