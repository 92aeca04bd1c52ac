"""The cells of an output folder, `cells.parquet`: what each of them is, and how it ended."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

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
    ]
)


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


def write(folder: Path, entries: Iterable[Entry]) -> None:
    """Replaces the folder's list in one atomic step; entries by name."""
    rows = [entry._asdict() for entry in sorted(entries)]
    parquet.write(folder / FILE, pa.Table.from_pylist(rows, SCHEMA))


def read(folder: Path) -> dict[str, Entry]:
    """Name -> entry; empty where there is no list.

    Raises:
      InputError: the file is damaged, or names a cell twice.
    """
    entries = [Entry(**row) for row in parquet.read(folder / FILE, SCHEMA).to_pylist()]
    found = {entry.cell: entry for entry in entries}
    if len(found) < len(entries):
        raise InputError(f"{folder / FILE} names a cell twice; restore it from a copy, or start with another --out")
    return found
