"""What a round leaves in the history of its cells: rows as dicts, pure functions of what the round was."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_paradox.federated.types import Outcome, Participants
from fedjax_paradox.storage import cells
from fedjax_paradox.storage.history import PHASES, History, extended, only
from fedjax_paradox.sweep.program import Program


class Went(NamedTuple):
    """A round of a program, with what the host knows of it."""

    round: int
    participants: Participants  # [P, K]
    outcome: Outcome
    phases: Mapping[str, float]  # seconds, of those that have ended
    rows: int  # trained
    waste: float
    padding: float  # share of token places, as `rounds.padding` gives it


def recorded(history: History, program: Program, went: Went, stopped: Collection[int]) -> History:
    """With the round's rows; stopped: cells that had no part in it."""
    losses, finite = np.asarray(went.outcome.loss, np.float64), np.asarray(went.outcome.finite)
    found = {name: np.asarray(values, np.float64) for name, values in went.outcome.diagnostics.items()}
    rounds: list[dict[str, Any]] = []
    participants: list[dict[str, Any]] = []
    going = [index for index in range(len(program.cells)) if index not in stopped]
    for index in going:
        own = {name: values[index] for name, values in found.items()}
        names = [twin.cell.name for twin in program.twins if twin.of == index]
        updates = list(_updates(program, index, went, losses[index], own))
        status = {"status": cells.OK if finite[index] else cells.DIVERGED}
        row = _round(went.round, updates, own) | status | _times(went, len(going))
        rounds += [{"cell": program.cells[index].name, **row}]
        rounds += [{"cell": name, **row, **dict.fromkeys(_TIMES, 0.0)} for name in names]
        participants += [{"cell": name, **each} for name in (program.cells[index].name, *names) for each in updates]
    return extended(history, rounds, participants)


_TIMES = ("seconds", *(f"{phase}_seconds" for phase in PHASES))


def _times(went: Went, cells_: int) -> dict[str, float]:
    seconds = {f"{phase}_seconds": went.phases.get(phase, np.nan) / cells_ for phase in PHASES}
    rate = went.rows / max(went.phases["training"], 1e-9)
    return seconds | {
        "seconds": sum(seconds.values()),
        "rows_per_second": rate,
        "waste": went.waste,
        "padding": went.padding,
    }


def _round(round_: int, updates: Sequence[dict], own: Mapping[str, np.ndarray]) -> dict[str, Any]:
    rows = np.array([each["rows"] for each in updates], np.float64)
    loss = float(rows @ [each["train_loss"] for each in updates] / rows.sum()) if updates else np.nan
    scalars = {name: float(value) for name, value in own.items() if value.ndim == 0 and not np.isnan(value)}
    return {"round": round_, "train_loss": loss, **scalars}


def _updates(
    program: Program, index: int, went: Went, losses: np.ndarray, own: Mapping[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Every local update of a cell, by slot."""
    people, jobs = went.participants, program.rules[index].rule.jobs
    each = {name: value for name, value in own.items() if value.ndim == 1 and not np.isnan(value).all()}
    for slot in np.flatnonzero(people.mask[index]).tolist():
        yield {
            "round": went.round,
            "client": int(people.client[index, slot]),
            "job": slot % jobs,
            "rows": int(people.rows[index, slot]),
            "steps": int(people.steps[index, slot]),
            "train_loss": losses[slot],
            "start_loss": np.nan if people.start_loss is None else float(people.start_loss[index, slot]),
            **{name: value[slot] for name, value in each.items()},
        }


def believed(
    history: History, known: set[tuple[str, int]], alike: Sequence[Sequence[str]], renamed: Mapping[str, str]
) -> History:
    """The rows of the rounds behind a folder's cells, under the names that these have now.

    Args:
      known: (cell, round) of every row that is believed.
      alike: names of cells that are one run, of which each has the rows of the one with most.
    """
    rows = {"rounds": history.rounds.to_pylist(), "participants": history.participants.to_pylist()}
    for table in rows.values():
        for row in table:
            row["cell"] = renamed.get(row["cell"], row["cell"])
    seen: dict[str, int] = {}
    for row in rows["rounds"]:
        seen[row["cell"]] = seen.get(row["cell"], 0) + 1
    for names in alike:
        leader = max(names, key=lambda name: seen.get(name, 0))
        for kind, table in rows.items():
            zero = dict.fromkeys(_TIMES, 0.0) if kind == "rounds" else {}
            missing = [name for name in names if seen.get(name, 0) < seen.get(leader, 0)]
            own = [row for row in table if row["cell"] == leader]
            rows[kind] = [row for row in table if row["cell"] not in missing]
            rows[kind] += [{**row, "cell": name, **zero} for name in missing for row in own]
    return only(extended(history.map(lambda table: table.slice(0, 0)), **rows), known)
