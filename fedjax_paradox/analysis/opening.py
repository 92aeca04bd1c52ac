"""One output folder, opened: only what its run can have written is believed, and nothing that it names is run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from fedjax_paradox.config import Cell, Experiment, load
from fedjax_paradox.config import cells as planned_cells
from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import cells, folder, results
from fedjax_paradox.storage.cells import Entry
from fedjax_paradox.storage.folder import RECORD

# What a cell's settings say, and each of its rows again.
FACTS = ("model", "rule", "alpha", "num_clients", "partition_seed", "seed")


class Folder(NamedTuple):
    """One output folder that can be read."""

    path: Path
    experiment: Experiment  # of the last run in it
    record: dict[str, Any]  # experiment.json: versions, machine, commit
    cells: list[Cell]  # those of the config, then those that it no longer has
    entries: dict[str, Entry]  # how they ended; empty for a folder of an earlier version
    table: pa.Table
    unfinished: dict[str, tuple[int, int]]  # cell -> (last finished round, rounds that its settings ask for)

    def cell(self, name: str) -> Cell:
        """The cell of that name."""
        return next(cell for cell in self.cells if cell.name == name)

    def diverged(self) -> dict[str, Entry]:
        """The cells that stopped before a round whose numbers were not finite."""
        return {name: entry for name, entry in self.entries.items() if entry.status == cells.DIVERGED}


def runs_in(folder: Path) -> list[Path]:
    """The output folders directly below `folder`, by name; `folder` itself where it is one, or has none."""
    if (folder / RECORD).exists() or not folder.is_dir():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{RECORD}")) or [folder]


def open_folder(path: Path) -> Folder:
    """Raises InputError where `path` is no output folder, holds no number, or is damaged."""
    _check_regular(path)
    entries, table = cells.read(path), results.read(path)  # a run that goes on meanwhile lists a cell first
    record = _record(path, sealed=bool(entries))
    experiment = load(path / folder.CONFIG)
    known = {cell.name: cell for cell in planned_cells(experiment)}
    # A cell's own settings made its numbers; the config may have been replaced by the next one.
    known |= {name: _cell(path, entry) for name, entry in entries.items()}
    if table.num_rows == 0 and not any(entry.status == cells.DIVERGED for entry in entries.values()):
        raise InputError(f"{path} holds no finished round; run its {folder.CONFIG} first")
    last = _last_rounds(table)
    if problem := _problem(table, known) or (_contradiction(table, known, entries, last) if entries else ""):
        raise InputError(f"{path / results.FILE} is damaged: {problem}; restore it or run again")
    found = Folder(path, experiment, record, list(known.values()), entries, table, {})
    reached = {name: (last.get(name, 0), cell.rounds) for name, cell in known.items() if name not in found.diverged()}
    return found._replace(unfinished={name: (done, asked) for name, (done, asked) in reached.items() if done < asked})


def _check_regular(path: Path) -> None:
    """Opening a pipe waits for ever, and a link may lead to a file whose contents a message would quote."""
    if not (path / RECORD).is_file():
        raise InputError(f"{path} is no output folder of a run: it holds no {RECORD}")
    for name in (RECORD, folder.CONFIG, cells.FILE, results.FILE):
        file = path / name
        if (file.exists() and not file.is_file()) or (name == folder.CONFIG and file.is_symlink()):
            raise InputError(f"{file} is no regular file; put the file itself there")


def _record(path: Path, sealed: bool) -> dict[str, Any]:
    """experiment.json, where it and the config are as a run left them; earlier versions did not seal them."""
    file, config = path / RECORD, path / folder.CONFIG
    if sealed:
        first, _, rest = _text(config).partition("\n")
        if folder.with_header(rest).partition("\n")[0] != first:
            raise InputError(f"{config} is not what the run wrote, it was edited or damaged; restore it")
        return folder.unsealed(file)
    try:
        record = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged ({error}); restore it") from error
    if not isinstance(record, dict):
        raise InputError(f"{file} is damaged (no JSON object); restore it")
    if "sha256" in record and (path / results.FILE).exists():
        raise InputError(f"{path} has lost its {cells.FILE}, which says what its results are of; restore it")
    return record


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file} ({error.__class__.__name__}); restore it") from error


def _cell(path: Path, entry: Entry) -> Cell:
    try:
        cell = Cell.model_validate_json(entry.settings)
    except ValidationError as error:
        raise InputError(
            f"{path / cells.FILE} has settings of {entry.cell!r:.80} that this version does not know; read the folder "
            "with the version that wrote it"
        ) from error
    fits = cell.name == entry.cell and max(cell.num_clients, cell.rounds) < 2**31  # as columns hold them
    ended = entry.status in (cells.OK, cells.DIVERGED) and (entry.status == cells.OK) == (entry.diverged_round == 0)
    if not (fits and ended):
        raise InputError(f"{path / cells.FILE} is damaged: what it says of {entry.cell!r:.80} is no cell's; restore it")
    return cell


def _last_rounds(table: pa.Table) -> dict[str, int]:
    reached = table.group_by("cell").aggregate([("round", "max")]).to_pydict()
    return dict(zip(reached["cell"], reached["round_max"], strict=True))


def _problem(table: pa.Table, known: Mapping[str, Cell]) -> str:
    """Why a run cannot have written the table: its numbers are not shown."""
    try:
        table.validate(full=True)
    except pa.ArrowInvalid:
        return "it holds text that is not UTF-8"
    if any(column.null_count for column in table.columns):
        return "values are missing"
    if foreign := sorted(set(table["cell"].unique().to_pylist()) - set(known)):
        return f"the folder does not list the cell {foreign[0]!r:.80}"
    correct, total = table["correct"].to_numpy(), table["total"].to_numpy()
    # Sums of weighted recalls may pass the total by rounding.
    if not (np.isfinite(correct) & (correct >= 0) & (correct <= total * (1 + 1e-6))).all():
        return "a client has fewer than 0 or more than all rows correct"
    return "" if _complete(table, known) else "a round does not have every client exactly once"


def _contradiction(
    table: pa.Table, known: Mapping[str, Cell], entries: Mapping[str, Entry], last: Mapping[str, int]
) -> str:
    """How the table contradicts what the folder's list says of its cells."""
    if foreign := sorted(set(last) - set(entries)):
        return f"{cells.FILE} does not list the cell {foreign[0]!r:.80}"
    for row in table.group_by(["cell", *FACTS]).aggregate([]).to_pylist():
        cell = known[row["cell"]]
        if wrong := [name for name in FACTS if row[name] != getattr(cell, name)]:
            return f"the {wrong[0]} of the cell {cell.name!r:.80} is not that of its settings"
    for name, entry in entries.items():
        if entry.status == cells.DIVERGED and last.get(name, 0) != entry.diverged_round - 1:
            return (
                f"the cell {name!r:.80} diverged in round {entry.diverged_round}, but its last is {last.get(name, 0)}"
            )
    return ""


def _complete(table: pa.Table, known: Mapping[str, Cell]) -> bool:
    """Whether as many clients as are scored have a row each, of a number that there is."""
    groups = table.group_by(["cell", "round", "protocol", "num_clients"]).aggregate(
        [("client", "count"), ("client", "count_distinct"), ("client", "min"), ("client", "max")]
    )
    clients = groups["num_clients"].to_numpy()
    most = [known[name].evaluate_clients or np.inf for name in groups["cell"].to_pylist()]
    scored = np.minimum(clients, np.array(most))
    return bool(
        (groups["client_count"].to_numpy() == scored).all()
        and (groups["client_count_distinct"].to_numpy() == scored).all()
        and (groups["client_min"].to_numpy() >= 0).all()
        and (groups["client_max"].to_numpy() < clients).all()
    )
