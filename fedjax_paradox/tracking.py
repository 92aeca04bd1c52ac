"""Curves of a run for TensorBoard, by its own writer: one of its runs for every cell, below the output folder."""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedjax_paradox.errors import InputError
from fedjax_paradox.evaluation.fairness import summarise
from fedjax_paradox.storage import history, results
from fedjax_paradox.sweep.run import Event, Finished

FOLDER = "tensorboard"
_OF_ROUND = ("train_loss", "rows_per_second", "seconds")


def check() -> None:
    """InputError where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise InputError("--track tensorboard needs TensorBoard: pip install 'fedjax-paradox[tensorboard]'")


@contextmanager
def tensorboard(out: Path) -> Iterator[Callable[[Event], None]]:
    """A function that is told of a run's events and writes what they hold; a run that goes on adds to its curves.

    Tags: PROTOCOL/avg, /worst and /gap in [0, 1], train_loss, rows_per_second, seconds, and the rule's diagnostics.
    """
    from tensorboard.summary import Writer

    writers: dict[str, Any] = {}

    def notify(event: Event) -> None:
        if not isinstance(event, Finished):
            return
        for cell, tag, value in scalars(event):
            if cell not in writers:
                writers[cell] = Writer(str(out / FOLDER / _name(cell)))
            writers[cell].add_scalar(tag, value, event.round)
        for writer in writers.values():
            writer.flush()

    try:
        yield notify
    finally:
        for writer in writers.values():
            writer.close()


def scalars(event: Finished) -> Iterator[tuple[str, str, float]]:
    """(cell, tag, value) of every finite number that a round has."""
    for key, correct, total in results.counts(event.table, ["cell", "protocol"]):
        spread = summarise(correct, total)
        for name, value in (("avg", spread.average), ("worst", spread.worst), ("gap", spread.gap)):
            if math.isfinite(value):
                yield key["cell"], f"{key['protocol']}/{name}", value
    diagnostics = [name for name in event.history.column_names if name not in history.ROUND.names]
    for row in event.history.to_pylist():
        for name in (*_OF_ROUND, *diagnostics):
            if math.isfinite(row[name]):
                yield row["cell"], name, row[name]


def _name(cell: str) -> str:
    """A folder's name; TensorBoard shows it as the run's."""
    plain = cell.replace("/", "-")[:150]
    return plain if plain == cell else f"{plain}-{hashlib.sha256(cell.encode()).hexdigest()[:8]}"
