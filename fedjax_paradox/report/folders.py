"""Output folders for a report: which can be read, how far their runs are, and their tables as one."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fedjax_paradox.config import Cell, Experiment, Local, Partition, cells, load
from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import results

RECORD, CONFIG = "experiment.json", "config.yaml"
# Two cells that agree in these columns are one setting, or two seeds of it.
KEYS = ("corpus", "model", "rule", "alpha", "num_clients", "partition_seed", "seed")
# What is in a column already, or says nothing about a run's numbers.
_NO_SETTING = {"name", "protocols", "model", *KEYS[2:]}


class Folder(NamedTuple):
    """One output folder that can be read."""

    path: Path
    experiment: Experiment
    record: dict[str, Any]  # experiment.json: versions, machine, commit
    table: pa.Table
    unfinished: dict[str, tuple[int, int]]  # cell -> (last finished round, rounds that its config asks for)


class Reading(NamedTuple):
    """All folders of a report, every cell with a name of its own."""

    folders: list[Folder]
    left_out: list[str]  # a sentence for every folder that cannot be read
    notes: list[str]  # what merging them did
    table: pa.Table  # as in `results`
    labels: dict[str, dict[str, str]]  # cell -> corpus, model and rule with the settings that have no column
    origin: dict[str, tuple[int, str]]  # cell -> (index of its folder, its name there)


def read_folders(paths: Sequence[Path]) -> Reading:
    """Reads what can be read of `paths` and merges it.

    Settings that differ and have no column (a learning rate, the number of rounds) become part of the cell's
    name and of its labels, so that a mean over seeds never mixes two of them.

    Raises:
      InputError: no folder can be read.
    """
    folders, left_out = [], []
    for path in dict.fromkeys(paths):
        try:
            folders.append(_read(path))
        except InputError as error:
            left_out.append(str(error))
    if not folders:
        raise InputError(
            "no folder with results among those given; name output folders of `fedjax-paradox run`:\n  "
            + "\n  ".join(left_out)
        )
    return _merge(folders, left_out)


def _read(path: Path) -> Folder:
    record = _record(path)
    experiment = load(path / CONFIG)
    table = results.read(path)
    if table.num_rows == 0:
        raise InputError(f"{path} holds no finished round; run its {CONFIG} first")
    planned = {cell.name: cell.rounds for cell in cells(experiment)}
    _check(path, table, planned)
    reached = table.group_by("cell").aggregate([("round", "max")]).to_pydict()
    last = dict(zip(reached["cell"], reached["round_max"], strict=True))
    unfinished = {name: (last.get(name, 0), want) for name, want in planned.items() if last.get(name, 0) < want}
    return Folder(path, experiment, record, table, unfinished)


def _record(path: Path) -> dict[str, Any]:
    file = path / RECORD
    if not file.is_file():
        raise InputError(f"{path} is no output folder of a run: it holds no {RECORD}")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is damaged ({error}); restore it") from error
    if not isinstance(record, dict):
        raise InputError(f"{file} is damaged (no JSON object); restore it")
    return record


def _check(path: Path, table: pa.Table, planned: Mapping[str, int]) -> None:
    """A table that the run cannot have written is damaged: its numbers are not shown."""
    problem = ""
    if any(column.null_count for column in table.columns):
        problem = "values are missing"
    elif foreign := sorted(set(table["cell"].unique().to_pylist()) - set(planned)):
        problem = f"the cell {foreign[0]} is not in its {CONFIG}"
    else:
        correct, total = table["correct"].to_numpy(), table["total"].to_numpy()
        # Sums of weighted recalls may pass the total by rounding.
        if not (np.isfinite(correct) & (correct >= 0) & (correct <= total * (1 + 1e-6))).all():
            problem = "a client has fewer than 0 or more than all rows correct"
        elif not _complete(table):
            problem = "a round does not have every client exactly once"
    if problem:
        raise InputError(f"{path / results.FILE} is damaged: {problem}; restore it or run again")


def _complete(table: pa.Table) -> bool:
    groups = table.group_by(["cell", "round", "protocol", "num_clients"]).aggregate(
        [("client", "count"), ("client", "count_distinct"), ("client", "min"), ("client", "max")]
    )
    clients = groups["num_clients"].to_numpy()
    return bool(
        (groups["client_count"].to_numpy() == clients).all()
        and (groups["client_count_distinct"].to_numpy() == clients).all()
        and (groups["client_min"].to_numpy() == 0).all()
        and (groups["client_max"].to_numpy() == clients - 1).all()
    )


def _merge(folders: list[Folder], left_out: list[str]) -> Reading:
    owned = [(index, cell) for index, folder in enumerate(folders) for cell in cells(folder.experiment)]
    extras = _extras([cell for _, cell in owned])
    reading = Reading(folders, left_out, _different_files([cell for _, cell in owned]), pa.table({}), {}, {})
    parts: dict[tuple, tuple[str, pa.Table]] = {}
    for (index, cell), extra in zip(owned, extras, strict=True):
        stored = folders[index].table
        part = stored.filter(pa.array(stored["cell"].to_numpy() == cell.name))
        if part.num_rows == 0:
            continue
        run = (*(part[name][0].as_py() for name in KEYS), *extra.items())
        if run in parts:
            before, other = parts[run]
            places = f"folders {reading.origin[before][0] + 1} and {index + 1}"
            reading.notes.append(f"{cell.name} is in {places}: the run with more rounds is shown, once")
            if _last(part) <= _last(other):
                continue
            del parts[run], reading.origin[before], reading.labels[before]
        name = _unique(cell.name, extra, index, reading.origin)
        parts[run] = name, _renamed(part, {"cell": name})
        reading.labels[name] = _label(cell, extra)
        reading.origin[name] = index, cell.name
    table = pa.concat_tables([part for _, part in parts.values()]).combine_chunks()
    return reading._replace(table=table)


def _unique(name: str, extra: Mapping[str, str], index: int, taken: Collection[str]) -> str:
    """Names the settings as the grid of one config would have."""
    told = [f"{key}={value}" for key, value in extra.items() if f",{key}=" not in f",{name}"]
    name = ",".join([name, *told])
    return f"{name},folder={index + 1}" if name in taken else name


def labelled(reading: Reading) -> pa.Table:
    """The table with its labels in the columns corpus, model and rule."""
    names = reading.table["cell"].to_pylist()
    table = reading.table
    for column in ("corpus", "model", "rule"):
        values = pa.array([reading.labels[name][column] for name in names], pa.string())
        table = table.set_column(table.schema.get_field_index(column), column, values)
    return table


def _last(table: pa.Table) -> int:
    return int(table["round"].to_numpy().max())


def _renamed(table: pa.Table, values: Mapping[str, str]) -> pa.Table:
    for name, value in values.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array([value] * table.num_rows, pa.string()))
    return table


def _extras(all_cells: Sequence[Cell]) -> list[dict[str, str]]:
    """For every cell its settings without a column that differ among the cells of its corpus and model."""
    settings = [_settings(cell) for cell in all_cells]
    groups: dict[tuple[str, str], dict[str, set]] = {}
    for cell, own in zip(all_cells, settings, strict=True):
        found = groups.setdefault((cell.corpus.name, cell.model), {})
        for key, value in own.items():
            found.setdefault(key, set()).add(value)
    return [
        {key: value for key, value in own.items() if len(groups[cell.corpus.name, cell.model][key]) > 1}
        for cell, own in zip(all_cells, settings, strict=True)
    ]


def _label(cell: Cell, extra: Mapping[str, str]) -> dict[str, str]:
    label = {"corpus": cell.corpus.name, "model": cell.model, "rule": cell.rule}
    defaults = dict(_flat({"local": Local().model_dump(), "partition": Partition().model_dump()}, ""))
    for key, value in extra.items():
        if defaults.get(key) != value:
            label[_column(key)] += f", {key.removeprefix('architecture.')}={value}"
    return label


def _column(key: str) -> str:
    return {"corpus": "corpus", "architecture": "model"}.get(key.split(".")[0], "rule")


def _settings(cell: Cell) -> dict[str, str]:
    data = cell.model_dump(mode="json", exclude={*_NO_SETTING, "corpus"})
    data["corpus"] = cell.corpus.model_dump(mode="json", exclude={"name", "files"})
    # Another path is not another corpus, another file name is.
    data["corpus"]["files"] = [file.name for file in _files(cell)]
    return dict(_flat(data, ""))


def _flat(data: Any, prefix: str) -> Iterable[tuple[str, str]]:
    if not isinstance(data, Mapping):
        return [(prefix, str(data))]
    return [leaf for key, value in data.items() for leaf in _flat(value, f"{prefix}.{key}".lstrip("."))]


def _files(cell: Cell) -> list[Path]:
    return [file for file in (cell.corpus.files.train, cell.corpus.files.test) if file]


def _different_files(all_cells: Sequence[Cell]) -> list[str]:
    places: dict[str, dict[str, None]] = {}
    for cell in all_cells:
        places.setdefault(cell.corpus.name, {})[", ".join(map(str, _files(cell)))] = None
    return [
        f"{name} was read from {len(found)} places, taken as the same rows where the file names are: "
        + "; ".join(place or "by its name" for place in found)
        for name, found in places.items()
        if len(found) > 1
    ]
