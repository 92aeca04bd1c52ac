"""The per-client table, `clients.parquet`: everything a report says derives from it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import parquet

FILE = "clients.parquet"

# One row per (cell, round, protocol, client). `correct` is fractional for reweighted protocols, and
# total 0 means that the protocol defines no accuracy for this client.
SCHEMA = pa.schema(
    [
        ("cell", pa.string()),
        ("corpus", pa.string()),
        ("model", pa.string()),
        ("rule", pa.string()),
        ("alpha", pa.float64()),
        ("num_clients", pa.int32()),
        ("partition_seed", pa.int64()),
        ("seed", pa.int64()),
        ("round", pa.int32()),
        ("protocol", pa.string()),
        ("client", pa.int32()),
        ("train_rows", pa.int64()),
        ("correct", pa.float64()),
        ("total", pa.int64()),
    ]
)


def records(
    facts: Mapping[str, Any],
    train_rows: np.ndarray,
    counts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    clients: np.ndarray | None = None,
) -> pa.Table:
    """Rows of one cell in one round.

    Args:
      facts: the columns that are the same in every row (cell ... round).
      train_rows: i[S], of those that were scored; counts: protocol -> (correct f[S], total i[S]).
      clients: i[S], their numbers; None: all, in order.
    """
    clients = np.arange(len(train_rows)) if clients is None else clients
    columns = {name: [value] * (len(clients) * len(counts)) for name, value in facts.items()}
    columns["protocol"] = [protocol for protocol in counts for _ in clients]
    columns["client"] = clients.tolist() * len(counts)
    columns["train_rows"] = train_rows.tolist() * len(counts)
    columns["correct"] = np.concatenate([correct for correct, _ in counts.values()]).tolist()
    columns["total"] = np.concatenate([total for _, total in counts.values()]).tolist()
    return pa.Table.from_pydict(columns, SCHEMA)


def copied(rows: pa.Table, values: Mapping[str, Any]) -> pa.Table:
    """The rows with other values in the columns that `values` names."""
    for name, value in values.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, SCHEMA.field(name), pa.array([value] * rows.num_rows, SCHEMA.field(name).type))
    return rows


def write(folder: Path, parts: Sequence[pa.Table]) -> None:
    """Replaces the folder's table in one atomic step, on the disk when this returns."""
    parquet.write(folder / FILE, pa.concat_tables([SCHEMA.empty_table(), *parts]))


def read(folder: Path) -> pa.Table:
    """The folder's table, or an empty one where no round is finished.

    Raises:
      InputError: the file is no parquet file, lacks a column or was damaged.
    """
    return parquet.read(folder / FILE, SCHEMA)


def counts(table: pa.Table, keys: Sequence[str]) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    """Every group of equal `keys`: (key values, correct f64[K], total i64[K] by client), in the table's order.

    total is 0 for a client that holds no train rows, so that no measure counts it.

    Raises:
      InputError: a client occurs twice in a group.
    """
    columns = ["client", "train_rows", "correct", "total"]
    groups = table.group_by(list(keys), use_threads=False).aggregate([(name, "list") for name in columns])
    for row in groups.to_pylist():
        client, train_rows, right, rows = (np.array(row[f"{name}_list"]) for name in columns)
        key = {name: row[name] for name in keys}
        if len(np.unique(client)) < len(client):
            raise InputError(
                f"a client occurs twice in {key}: two runs share a cell's name and seeds; give every folder once, "
                "and such runs apart"
            )
        correct, total = np.zeros(client.max() + 1), np.zeros(client.max() + 1, np.int64)
        correct[client], total[client] = right, np.where(train_rows > 0, rows, 0)
        yield key, correct, total
