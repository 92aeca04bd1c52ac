"""How rounds went: `rounds.parquet`, one row for a cell and round; `participants.parquet`, one for each local update.

Diagnostics of the cells' rules are columns of their own, NaN where a rule has none so named. Times are those of this
machine; all else is the same whatever is stopped, resumed or packed.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedjax_paradox.storage import parquet

ROUNDS, PARTICIPANTS = "rounds.parquet", "participants.parquet"
PHASES = ("schedule", "training", "aggregation", "prediction", "checkpoint")

# Seconds are a cell's share of its program's. Those of the checkpoint are NaN where the process ended before they were
# known, and all are 0 for a cell that shares the training of another.
ROUND = pa.schema(
    [
        ("cell", pa.string()),
        ("round", pa.int32()),
        ("status", pa.string()),
        ("train_loss", pa.float64()),  # mean over the rows that were visited
        ("seconds", pa.float64()),
        *((f"{phase}_seconds", pa.float64()) for phase in PHASES),
        ("rows_per_second", pa.float64()),  # of the program
        ("waste", pa.float64()),  # share of the program's steps that trained nothing
    ]
)
PARTICIPANT = pa.schema(
    [
        ("cell", pa.string()),
        ("round", pa.int32()),
        ("client", pa.int32()),
        ("job", pa.int32()),  # which local update of the client, for rules that have several
        ("rows", pa.int64()),
        ("steps", pa.int64()),
        ("train_loss", pa.float64()),
        ("start_loss", pa.float64()),  # of the incoming model on the client's rows, NaN where no rule asked
    ]
)


class History(NamedTuple):
    """Both tables, with what the rules add to their columns."""

    rounds: pa.Table
    participants: pa.Table

    def map(self, function: Callable[[pa.Table], pa.Table]) -> "History":
        """The same of both."""
        return History(function(self.rounds), function(self.participants))


def of_round(rounds: pa.Table, cells: Sequence[str], round_: int) -> pa.Table:
    """The rows of some cells and one round."""
    return rounds.filter(pc.and_(pc.is_in(rounds["cell"], pa.array(cells)), pc.equal(rounds["round"], round_)))


def read(folder: Path) -> History:
    """The folder's tables, empty where there are none, as in folders of earlier versions.

    Raises:
      InputError: a file is no parquet file, lacks a column or was damaged.
    """
    return History(
        parquet.read(folder / ROUNDS, ROUND, more=True), parquet.read(folder / PARTICIPANTS, PARTICIPANT, more=True)
    )


def write(folder: Path, history: History) -> None:
    """Replaces both tables, each in one atomic step."""
    parquet.write(folder / ROUNDS, history.rounds.combine_chunks())
    parquet.write(folder / PARTICIPANTS, history.participants.combine_chunks())


Rows = Sequence[Mapping[str, Any]]


def extended(history: History, rounds: Rows, participants: Rows) -> History:
    """With these rows behind the others; what a row has beside the schema is a diagnostic."""
    return History(_extended(history.rounds, rounds, ROUND), _extended(history.participants, participants, PARTICIPANT))


def _extended(table: pa.Table, rows: Rows, schema: pa.Schema) -> pa.Table:
    added = sorted({name for row in rows for name in row} - set(schema.names))
    new = pa.Table.from_pylist(list(rows), pa.schema([*schema, *((name, pa.float64()) for name in added)]))
    return _filled(pa.concat_tables([table, new], promote_options="default"), schema)


def _filled(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Columns in one order, whatever came first, and NaN for what is missing."""
    others = sorted(set(table.column_names) - set(schema.names))
    columns = [table[name] for name in schema.names] + [pc.fill_null(table[name], np.nan) for name in others]
    return pa.table(columns, names=[*schema.names, *others])


def only(history: History, known: set[tuple[str, int]]) -> History:
    """The rows of these cells and rounds; a diagnostic that none of them has is no column."""

    def kept(table: pa.Table) -> pa.Table:
        pairs = zip(table["cell"].to_pylist(), table["round"].to_pylist(), strict=True)
        left = table.filter(pa.array([pair in known for pair in pairs], pa.bool_()))
        least = ROUND.names if "status" in left.column_names else PARTICIPANT.names
        named = [n for n in left.column_names if n in least or not np.isnan(left[n].to_numpy()).all()]
        return left.select(named)

    return history.map(kept)
