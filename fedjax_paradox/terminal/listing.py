"""What a folder of runs holds, what a run found and what a model says, as tables and for machines."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from rich.table import Table

from fedjax_paradox.analysis.opening import open_folder, runs_in
from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import results
from fedjax_paradox.storage.cells import Entry
from fedjax_paradox.terminal.display import last_rounds, summaries
from fedjax_paradox.text import printable

_WHOLE = 24  # letters of a folder's name that a narrow terminal does not break


class Run(NamedTuple):
    """One output folder."""

    folder: str
    name: str
    status: str  # finished, unfinished, or a sentence about what is wrong
    cells: int
    finished: int
    diverged: int
    rounds: str  # of its cells that are the furthest and the least far behind
    written: str  # when its results were, local time


def runs(folder: Path) -> list[Run]:
    """The runs in a folder, by name; InputError where there is none."""
    found = [path for path in runs_in(folder) if (path / "experiment.json").exists()]
    if not found:
        raise InputError(f"no run lies in {folder}; name the folder that `fedjax-paradox run` wrote to")
    return [_run(path) for path in found]


def _run(path: Path) -> Run:
    try:
        opened = open_folder(path)
    except InputError as error:
        return Run(str(path), "", str(error).splitlines()[0], 0, 0, 0, "", "")
    table = last_rounds(opened.table)
    last = dict(zip(table["cell"].to_pylist(), table["round"].to_pylist(), strict=True))
    reached = [f"{last.get(cell.name, 0)}/{cell.rounds}" for cell in opened.cells]
    cells, diverged, unfinished = len(opened.cells), len(opened.diverged()), len(opened.unfinished)
    written = datetime.fromtimestamp((path / results.FILE).stat().st_mtime).isoformat(" ", "minutes")
    return Run(
        folder=str(path),
        name=opened.experiment.name,
        status="unfinished" if unfinished else "finished",
        cells=cells,
        finished=cells - unfinished - diverged,
        diverged=diverged,
        rounds=" to ".join(dict.fromkeys((min(reached, key=_done), max(reached, key=_done)))),
        written=written,
    )


def _done(reached: str) -> int:
    return int(reached.split("/")[0])


def as_json(found: Sequence[Run]) -> str:
    return json.dumps([run._asdict() for run in found], indent=2, ensure_ascii=False)


def as_table(found: Sequence[Run], folder: Path) -> Table:
    view = Table(title=printable(f"Runs in {folder}"))
    folders = [Path(run.folder).absolute().name for run in found]
    view.add_column("folder", overflow="fold", min_width=min(_WHOLE, max(map(len, folders))))  # to be copied
    for name in ("name", "status"):
        view.add_column(name, overflow="fold")
    for name in ("cells", "rounds", "written"):
        view.add_column(name, justify="right", no_wrap=True)
    for run, where in zip(found, folders, strict=True):
        status = f"{run.status}, {run.diverged} diverged" if run.diverged else run.status
        values = (where, run.name, status, str(run.cells), run.rounds, run.written)
        view.add_row(*map(printable, values))
    return view


def accuracies_as_json(table: pa.Table) -> str:
    """A record for every cell and protocol after the cell's last round; accuracies in [0, 1]."""
    records = [
        {"cell": cell, "round": round_, "protocol": protocol, **spread._asdict()}
        for (cell, round_, protocol), spread in summaries(last_rounds(table))
    ]
    return json.dumps(records, indent=2, ensure_ascii=False)


def models(folder: Path, entries: Mapping[str, Entry]) -> Table:
    """The cells of a run, and the rounds whose models are at hand."""
    from fedjax_paradox.sweep.trained import rounds_at_hand

    view = Table(title=printable(f"Models in {folder}"))
    view.add_column("cell", overflow="fold")
    view.add_column("rounds at hand")
    for name in entries:
        at_hand = rounds_at_hand(folder, entries, name)
        view.add_row(printable(name), ", ".join(map(str, at_hand)) or "none")
    return view


def predictions(classes: Sequence[str], probabilities: np.ndarray) -> str:
    """Lines of csv: the class, then the probability of each; probabilities: f32[N, C]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *classes])
    for row in probabilities:
        writer.writerow([classes[int(row.argmax())], *(f"{value:.6f}" for value in row)])
    return text.getvalue()
