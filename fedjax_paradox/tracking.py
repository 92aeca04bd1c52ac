"""Curves of a run for TensorBoard, MLflow, Weights & Biases or Trackio, by their own writers: one of their runs for
every cell, grouped by experiment. A run that goes on adds to its curves."""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_paradox.errors import InputError
from fedjax_paradox.evaluation.fairness import summarise
from fedjax_paradox.storage import history, results
from fedjax_paradox.sweep.run import Event, Finished

_OF_ROUND = ("train_loss", "rows_per_second", "seconds")


class Tracked(NamedTuple):
    """A cell, as a tracker is told of it."""

    experiment: str
    cell: str
    settings: Mapping[str, Any]  # by dotted key
    out: Path  # the output folder

    @property
    def key(self) -> str:
        """The same for the same cell in the same folder, whoever goes on with it."""
        return hashlib.sha256(f"{self.out.resolve()}\0{self.cell}".encode()).hexdigest()[:32]


class Curves(NamedTuple):
    """Where the numbers of one cell go."""

    log: Callable[[Mapping[str, float], int], Any]  # (tag -> value, round)
    end: Callable[[bool], Any]  # whether the run came to its end


def _tensorboard(tracked: Tracked) -> Curves:
    """Below `tensorboard/` of the output folder."""
    from tensorboard.summary import Writer

    writer = Writer(str(tracked.out / "tensorboard" / _folder(tracked.cell)))

    def log(values: Mapping[str, float], round_: int) -> None:
        for tag, value in values.items():
            writer.add_scalar(tag, value, round_)
        writer.flush()

    return Curves(log, lambda ended: writer.close())  # noqa: ARG005


def _mlflow(tracked: Tracked) -> Curves:
    """In the database that MLFLOW_TRACKING_URI names, or in `mlflow.db` of the output folder."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{tracked.out.resolve() / 'mlflow.db'}")
    known = client.get_experiment_by_name(tracked.experiment)
    experiment = known.experiment_id if known else client.create_experiment(tracked.experiment)
    begun = client.search_runs([experiment], filter_string=f"tags.fedjax_paradox = '{tracked.key}'")
    tags = {"fedjax_paradox": tracked.key}
    run = (begun[0] if begun else client.create_run(experiment, tags=tags, run_name=tracked.cell)).info.run_id
    client.update_run(run, status="RUNNING")
    client.log_batch(run, params=[] if begun else [Param(key, str(value)) for key, value in tracked.settings.items()])

    def log(values: Mapping[str, float], round_: int) -> None:
        now = int(1000 * time.time())
        client.log_batch(run, [Metric(tag, value, now, round_) for tag, value in values.items()])

    return Curves(log, lambda ended: client.set_terminated(run, "FINISHED" if ended else "KILLED"))


def _wandb(tracked: Tracked) -> Curves:
    """Below `wandb/` of the output folder, and on the server if `wandb login` was said or WANDB_MODE says so."""
    import wandb

    mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
    run = wandb.init(
        project=tracked.experiment,
        name=tracked.cell,
        id=tracked.key,
        config=dict(tracked.settings),
        dir=str(tracked.out),
        mode=mode,
        resume="allow",
        reinit="create_new",
    )
    return Curves(lambda values, round_: run.log(dict(values), step=round_), lambda ended: run.finish(int(not ended)))


def _trackio(tracked: Tracked) -> Curves:
    """In the folder that TRACKIO_DIR names, or in `trackio/` of the output folder."""
    os.environ.setdefault("TRACKIO_DIR", str(tracked.out.resolve() / "trackio"))
    import trackio

    run = trackio.init(
        project=tracked.experiment, name=tracked.cell, config=dict(tracked.settings), resume="allow", embed=False
    )
    return Curves(lambda values, round_: run.log(dict(values), step=round_), lambda ended: run.finish())  # noqa: ARG005


# Name -> what must be installed, and what starts the curves of a cell.
TRACKERS: dict[str, tuple[str, Callable[[Tracked], Curves]]] = {
    "tensorboard": ("tensorboard", _tensorboard),
    "mlflow": ("mlflow", _mlflow),
    "wandb": ("wandb", _wandb),
    "trackio": ("trackio", _trackio),
}


def check(tracker: str) -> None:
    """InputError where it is not installed."""
    if find_spec(TRACKERS[tracker][0]) is None:
        raise InputError(f"--track {tracker} needs a package: pip install 'fedjax-paradox[{tracker}]'")


@contextmanager
def curves(
    tracker: str, experiment: str, settings: Mapping[str, Mapping[str, Any]], out: Path
) -> Iterator[Callable[[Event], None]]:
    """A function that is told of a run's events and writes what they hold. A tracker that fails ends the run, whose
    round is stored by then: the same command goes on.

    Tags: PROTOCOL/avg, /worst and /gap in [0, 1], train_loss, rows_per_second, seconds, and the rule's diagnostics.

    Args:
      settings: cell -> its settings, nested.
    """
    begun: dict[str, Curves] = {}
    ended = False

    def notify(event: Event) -> None:
        if not isinstance(event, Finished):
            return
        told: dict[str, dict[str, float]] = {}
        for cell, tag, value in scalars(event):
            told.setdefault(cell, {})[tag] = value
        for cell, values in told.items():
            if cell not in begun:
                begun[cell] = TRACKERS[tracker][1](Tracked(experiment, cell, dict(dotted(settings[cell])), out))
            begun[cell].log(values, event.round)

    try:
        yield notify
        ended = True
    finally:
        with ExitStack() as all_of_them:
            for each in begun.values():
                all_of_them.callback(each.end, ended)


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


def dotted(settings: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    """("local.learning_rate", 0.1) and so on."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{under}{name}.")
        else:
            yield f"{under}{name}", value


def _folder(cell: str) -> str:
    """A folder's name; TensorBoard shows it as the run's."""
    plain = cell.replace("/", "-")[:150]
    return plain if plain == cell else f"{plain}-{hashlib.sha256(cell.encode()).hexdigest()[:8]}"
