"""The cells of an output folder, `cells.parquet`: what each of them is, and how it ended."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import parquet

FILE = "cells.parquet"
OK, DIVERGED = "ok", "diverged"
NOBODY = -1  # no client's, but the rule's own result was not finite

SCHEMA = pa.schema(
    [
        ("cell", pa.string()),
        ("identity", pa.string()),
        ("settings", pa.string()),
        ("inputs", pa.string()),
        ("same_as", pa.string()),
        ("status", pa.string()),
        ("diverged_round", pa.int32()),
        ("diverged_client", pa.int32()),
        ("trainable_parameters", pa.int64()),
        ("parameters", pa.int64()),
    ]
)
_FIRST = pa.schema(list(SCHEMA)[:8])  # what folders of earlier versions have


class Entry(NamedTuple):
    """One cell of a folder, finished, unfinished or diverged. How far it is stands in `clients.parquet`."""

    cell: str  # its name, the key in `clients.parquet`
    identity: str  # hash of the settings and contents that decide its numbers
    settings: str  # the resolved `Cell` as JSON
    inputs: str  # content hashes as JSON: corpus, weights, own functions
    same_as: str = ""  # the cell whose training this one shares, being the same run by construction
    status: str = OK
    diverged_round: int = 0  # the round that has no results, 0 where all have
    diverged_client: int = NOBODY  # whose training was not finite in it
    trainable_parameters: int = 0  # of the cell's model, 0 where nobody says
    parameters: int = 0  # the same with those that are frozen


def write(folder: Path, entries: Iterable[Entry]) -> None:
    """Replaces the folder's list in one atomic step; entries by name. Settings in which cells differ have a column of
    their own as well, by their dotted keys, so that nobody need parse names or `settings`."""
    parquet.write(folder / FILE, flattened(entries, differing=True))


def flattened(entries: Iterable[Entry], differing: bool = False) -> pa.Table:
    """One row a cell, by name: the columns of SCHEMA, then every setting in a column of its own.

    A column holds numbers where all cells have one, else text, which of what is no text is JSON.

    Args:
      differing: those alone that are not the same in all cells.
    """
    ordered = sorted(entries)
    settings = [flat(json.loads(entry.settings)) for entry in ordered]
    table = pa.Table.from_pylist([entry._asdict() for entry in ordered], SCHEMA)
    for key in dict.fromkeys(key for each in settings for key in each):
        values = [each.get(key) for each in settings]
        if key not in _NO_SETTING and not (differing and all(value == values[0] for value in values)):
            table = table.append_column(key, _column(values))
    return table


_NO_SETTING = ("name", "protocols")


def _column(values: Sequence[Any]) -> pa.Array:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numbers and all(abs(value) < 2**53 for value in values):  # exact in either type
        return pa.array(values, pa.int64() if all(isinstance(value, int) for value in values) else pa.float64())
    return pa.array([value if isinstance(value, str) else json.dumps(value) for value in values], pa.string())


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def read(folder: Path) -> dict[str, Entry]:
    """Name -> entry; empty where there is no list.

    Raises:
      InputError: the file is damaged, or names a cell twice.
    """
    rows = parquet.read(folder / FILE, _FIRST, more=True).to_pylist()
    entries = [Entry(**{name: row[name] for name in Entry._fields if name in row}) for row in rows]
    found = {entry.cell: entry for entry in entries}
    if len(found) < len(entries):
        raise InputError(f"{folder / FILE} names a cell twice; restore it from a copy, or start with another --out")
    return found
