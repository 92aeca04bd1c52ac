"""Parquet files that notice damage: page checksums, and a digest of every value beside the schema."""

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fedjax_paradox.errors import InputError, unwritable

_DIGEST = b"fedjax_paradox.sha256"


def write(path: Path, table: pa.Table) -> None:
    """Replaces `path` in one atomic step, on the disk when this returns: readers see the old table or the new one.

    Raises:
      InputError: there is no room, or the folder cannot be written; the old table stays.
    """
    table = table.replace_schema_metadata({_DIGEST: digest(table)})
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(table, file, write_page_checksum=True)
            flush(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            flush(folder)  # or the new name may be lost with the power
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def flush(descriptor: int) -> None:
    """Waits until the file is on the disk."""
    os.fsync(descriptor)


def read(path: Path, schema: pa.Schema, more: bool = False) -> pa.Table:
    """The columns of `schema`, with `more` all others as well; an empty table where there is no file.

    Raises:
      InputError: the file is no parquet file, lacks a column or a value, or was damaged since it was written.
    """
    try:
        # Opened once, since a run may replace it meanwhile; and pyarrow makes columns of a path's `key=value`.
        with path.open("rb") as file:
            stored = pq.read_table(file, page_checksum_verification=True)
        written = (stored.schema.metadata or {}).get(_DIGEST)
        table = stored.select(schema.names).cast(schema)
        if more:
            for name in stored.column_names[len(schema) :]:
                table = table.append_column(name, stored[name])
        if written not in (None, digest(stored)):  # tables of earlier versions carry none
            raise pa.ArrowInvalid("its values are not those that were written")
        return table.replace_schema_metadata(None)
    except FileNotFoundError:
        return schema.empty_table()
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{path} is not a readable results table ({told[0]:.200}); restore it from a copy, or remove {path.parent} "
            "to start again"
        ) from error


def digest(table: pa.Table) -> bytes:
    """SHA-256 in hexadecimal of names, types and values; how rows are divided into chunks does not matter."""
    found = hashlib.sha256(str(table.schema.remove_metadata()).encode())
    for column in table.columns:
        if column.null_count:
            raise pa.ArrowInvalid("values are missing")
        values = column.combine_chunks()
        for array in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
            found.update(len(array).to_bytes(8, "little"))
            found.update(_content(array))
    return found.hexdigest().encode()


def _content(array: pa.Array) -> bytes:
    if not pa.types.is_string(array.type):
        return array.to_numpy(zero_copy_only=False).tobytes()
    if len(array) == 0:
        return b""
    plain = pa.concat_arrays([array])  # offsets begin at 0
    _, offsets, data = plain.buffers()
    begin, count = plain.offset * 4, (len(plain) + 1) * 4
    last = int.from_bytes(offsets[begin + count - 4 : begin + count].to_pybytes(), "little")
    return offsets[begin : begin + count].to_pybytes() + (data[:last].to_pybytes() if data else b"")
