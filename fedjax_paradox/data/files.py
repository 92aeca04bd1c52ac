"""Local files of texts and labels: csv, tsv, json, jsonl and parquet, read to the letter or refused with the row.

Readers that guess (an index, a type, what a quote was for) change texts and labels without a word; these do not.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from fedjax_paradox.errors import InputError
from fedjax_paradox.text import printable

_LARGEST_FIELD = 2**31 - 1  # bytes of a csv field; the module's own limit is 128 KiB
_BLANK = re.compile(r"[ \t\r\n]*")
_INTEGER = re.compile(r" *(0|-?[1-9][0-9]{0,17}) *")  # not 007 or +1, which are names and stay strings
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)


class Table(NamedTuple):
    """`columns`: those asked for that are there, as Python values. `names`: all there are. `classes`: names of a
    ClassLabel, by column."""

    names: list[str]
    columns: dict[str, list[Any]]
    classes: dict[str, tuple[str, ...]]


def read_table(path: Path, wanted: Sequence[str]) -> Table:
    """The columns `wanted` of a local file, rows in file order.

    Raises InputError naming the row or line for whatever the format does not allow.
    """
    kind, read = _check_file(path)
    try:
        if kind != "parquet":
            _check_utf8(path)
        table = read(path, wanted)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); make it readable") from error
    if not any(table.columns.values()) and set(wanted) <= set(table.names):
        _unreadable(path, kind, "it has none")
    return table


def refuse(source: str, rows: Sequence[int], rule: str, remedy: str) -> NoReturn:
    """Raises InputError for `rows` (counted from 0) of a source."""
    shown = ", ".join(str(row + 1) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    raise InputError(f"{rule}: {source}, {len(rows)} row(s), counted from 1: {shown}; {remedy}")


def _check_file(path: Path) -> tuple[str, Callable[[Path, Sequence[str]], Table]]:
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError:  # a name that no file can have
        size = None
    if size is None:
        raise InputError(f"no such file: {path}; correct corpus.files.train / corpus.files.test")
    if path.suffix.lower() not in _READERS:
        raise InputError(f"unsupported suffix {path.suffix!r} of {path}: convert it to {', '.join(_READERS)}")
    if size == 0:
        raise InputError(f"empty file: {path}; a split needs rows")
    return _READERS[path.suffix.lower()]


def _unreadable(path: Path, kind: str, reason: object) -> NoReturn:
    raise InputError(f"{path} has no rows that can be read as {kind}: {printable(str(reason)[:500])}; repair it")


def _check_utf8(path: Path) -> None:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise InputError(
                    f"text must be UTF-8: {path}, line {number}, {error}; convert the file, for example with "
                    "`iconv -f latin1 -t utf-8`"
                ) from error


def _check_names(path: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if names.count(name) > 1:
            raise InputError(f"{path} has {names.count(name)} columns {name!r}; rename all but one")


# ---- csv and tsv


def _read_csv(path: Path, wanted: Sequence[str], delimiter: str = ",") -> Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = _csv_rows(path, file, delimiter)
        header = next(rows, [])
        _check_names(path, header, wanted)
        places = {name: header.index(name) for name in wanted if name in header}
        columns: dict[str, list[Any]] = {name: [] for name in places}
        for row in rows:
            for name, place in places.items():
                columns[name].append(row[place])
    return Table(header, {name: _typed(values) for name, values in columns.items()}, {})


def _csv_rows(path: Path, file: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    """Rows with as many fields as the first; blank lines are none."""
    csv.field_size_limit(_LARGEST_FIELD)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    number, size = -1, 0
    try:
        for row in filter(None, reader):
            number += 1
            size = size or len(row)
            if len(row) != size:
                _unreadable(
                    path,
                    "csv",
                    f"row {number}, which ends in line {reader.line_num}, has {len(row)} fields and the header {size}"
                    f" (column {min(len(row), size) + 1} is {'missing' if len(row) < size else 'one too many'}); "
                    f"a text with {delimiter!r}, a quote or a line break stands in double quotes",
                )
            yield row
    except csv.Error as error:
        _unreadable(path, "csv", f"row {number + 1}, line {reader.line_num}: {error}; a quote within quotes is doubled")


def _typed(values: list[str]) -> list[Any]:
    """Integers or floats if every value is written as one, else strings; None for an empty field."""
    written = [value for value in values if value]
    convert: Callable[[str], Any] = str
    if all(map(_INTEGER.fullmatch, written)):
        convert = int
    # Without a point, an exponent or a nan nobody meant a float.
    elif all(map(_DECIMAL.fullmatch, written)) and not all(value.lstrip("+-").isdecimal() for value in written):
        convert = float
    return [convert(value) if value else None for value in values]


# ---- json and jsonl


def _read_json(path: Path, wanted: Sequence[str]) -> Table:
    records = _records(path, path.read_text("utf-8-sig"))
    foreign = [row for row, record in enumerate(records) if not isinstance(record, dict)]
    if foreign:
        kinds = sorted({type(records[row]).__name__ for row in foreign})
        rule = f'every row must be a JSON object such as {{"text": ..., "label": ...}}, not {", ".join(kinds)}'
        refuse(str(path), foreign, rule, "remove the rows or give them names")
    names = list(dict.fromkeys(name for record in records for name in record))
    return Table(names, {name: [record.get(name) for record in records] for name in wanted if name in names}, {})


def _records(path: Path, text: str) -> list[Any]:
    """The values of a file of them, one a line or not; those of a list, if the file is one."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    records: list[Any] = []
    position = _skip(text, 0)
    try:
        while position < len(text):
            record, position = decoder.raw_decode(text, position)
            position = _skip(text, position)
            records.append(record)
    except (ValueError, RecursionError) as error:
        line = text.count("\n", 0, position) + 1
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        _unreadable(path, "json", f"row {len(records) + 1}, which begins in line {line}: {reason}")
    return records[0] if len(records) == 1 and isinstance(records[0], list) else records


def _skip(text: str, position: int) -> int:
    blank = _BLANK.match(text, position)
    return blank.end() if blank else position


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"the name {twice!r} stands twice in one object")
    return found


# ---- parquet


def _read_parquet(path: Path, wanted: Sequence[str]) -> Table:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            _check_names(path, names, wanted)
            table = file.read(columns=[name for name in wanted if name in names])
            classes = _class_names(table.schema.metadata or {}, wanted)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError | PermissionError):
            raise
        _unreadable(path, "parquet", error)
    return Table(names, {name: _values(path, table, name) for name in wanted if name in names}, classes)


def _class_names(metadata: dict[bytes, bytes], wanted: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The names of ClassLabel columns, which `datasets` writes into the schema."""
    written = json.loads(metadata.get(b"huggingface", b"{}"))
    features = written.get("info", {}).get("features", {})
    labels = {name: features[name] for name in wanted if features.get(name, {}).get("_type") == "ClassLabel"}
    return {name: tuple(str(label) for label in feature["names"]) for name, feature in labels.items()}


def _values(path: Path, table: pa.Table, name: str) -> list[Any]:
    return python_values(table.column(name), str(path), name)


def python_values(column: pa.ChunkedArray, source: str, name: str) -> list[Any]:
    """Arrow values as Python's; InputError names a row whose string is not UTF-8."""
    values = []
    for row, value in enumerate(column):
        try:
            values.append(value.as_py())
        except UnicodeDecodeError as error:
            refuse(source, [row], f"column {name!r} must be UTF-8, {error}", "convert it before it is written")
    return values


def _read_tsv(path: Path, wanted: Sequence[str]) -> Table:
    return _read_csv(path, wanted, "\t")


_READERS: dict[str, tuple[str, Callable[[Path, Sequence[str]], Table]]] = {
    ".parquet": ("parquet", _read_parquet),
    ".csv": ("csv", _read_csv),
    ".tsv": ("csv", _read_tsv),
    ".jsonl": ("json", _read_json),
    ".json": ("json", _read_json),
}
