"""Where texts come from: the built-in corpus, local files, data sets. Labels are not yet numbered."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_paradox.cachefiles import scratch_folder
from fedjax_paradox.data import docstrings, published
from fedjax_paradox.data.files import Table, python_values, read_table, refuse
from fedjax_paradox.errors import InputError

_HALF = re.compile("[\ud800-\udfff]")  # JSON can name half a character; UTF-8 cannot

Label = int | str


class Rows(NamedTuple):
    """One split as it was read: `source` is for messages, `names` are those of a ClassLabel feature, `commit` is the
    hub's."""

    source: str
    texts: list[str]
    labels: list[Label]
    names: tuple[str, ...] | None
    commit: str | None = None


def read_docstrings(cache: Path) -> tuple[Rows, Rows]:
    train_texts, train_labels, test_texts, test_labels = docstrings.docstring_paragraphs(cache)
    names = docstrings.CLASSES
    return (
        Rows("docstrings", train_texts, [names[i] for i in train_labels], names),
        Rows("docstrings", test_texts, [names[i] for i in test_labels], names),
    )


def both_files(files: tuple[Path, Path]) -> list[Path]:
    if len(files) != 2 or not all(files):
        raise InputError(f"local files come in pairs: {files}; give corpus.files.train=... corpus.files.test=...")
    return [Path(path) for path in files]


def read_file(path: Path, text_column: str, label_column: str) -> Rows:
    return _extract(read_table(path, (text_column, label_column)), str(path), text_column, label_column)


def read_text_column(path: Path, column: str) -> list[str]:
    """The texts of a file, of which no label is asked; InputError as for a corpus."""
    table = read_table(path, (column,))
    if column not in table.names:
        raise InputError(f"no column {column!r} in {path}: name one of {table.names}")
    _check_texts(table.columns[column], str(path), column)
    return table.columns[column]


def read_hub(
    name: str, subset: str | None, revision: str | None, splits: tuple[str, str], columns: tuple[str, str]
) -> list[Rows]:
    """Both splits of a data set of the hub; `columns` are those of texts and labels."""
    loaded = published.load_hub(name, subset, revision, splits)
    told = published.HUB_ALIASES.get(name, name)
    commit = published.commit_of(loaded[0])
    return [rows._replace(commit=commit) for rows in _rows(loaded, told, splits, columns)]


def read_folder(
    folder: Path, subset: str | None, splits: tuple[str, str], columns: tuple[str, str], cache: Path
) -> list[Rows]:
    """Both splits of a folder of parquet, csv or json files; each time anew, since files change."""
    try:
        with scratch_folder(cache) as scratch:
            loaded = published.load_folder(folder, subset, splits, Path(scratch))
            return _rows(loaded, str(folder), splits, columns)
    except OSError as error:
        raise InputError(
            f"the folder {folder} cannot be read through the cache {cache} ({error}); make the one readable and "
            "the other writable, or set FEDJAX_PARADOX_CACHE to another"
        ) from error


def _rows(loaded: Sequence[Any], told: str, splits: Sequence[str], columns: tuple[str, str]) -> list[Rows]:
    sources = [f"{told} {split}" for split in splits]
    tables = [_table(dataset, source, columns) for dataset, source in zip(loaded, sources, strict=True)]
    return [_extract(table, source, *columns) for table, source in zip(tables, sources, strict=True)]


def _table(dataset: Any, source: str, wanted: Sequence[str]) -> Table:
    """The columns of a `datasets.Dataset`."""
    names = list(dataset.column_names)
    arrow = dataset.with_format("arrow")[:]
    columns = {name: python_values(arrow.column(name), source, name) for name in wanted if name in names}
    classes = {name: getattr(dataset.features[name], "names", None) for name in columns}
    return Table(names, columns, {name: tuple(found) for name, found in classes.items() if found})


def _extract(table: Table, source: str, text_column: str, label_column: str) -> Rows:
    """The two columns of a table, checked."""
    for column, option in ((text_column, "corpus.text_column"), (label_column, "corpus.label_column")):
        if column not in table.names:
            raise InputError(f"no column {column!r} in {source}: set {option} to one of {table.names}")
    texts, labels = table.columns[text_column], table.columns[label_column]
    if not texts:
        raise InputError(f"empty file: {source} has no rows; a split needs rows")
    names = table.classes.get(label_column)
    _check_labels(labels, source, label_column, names)
    _check_texts(texts, source, text_column)
    if names:
        return Rows(source, texts, [names[value] for value in labels], names)
    return Rows(source, texts, [int(value) if isinstance(value, bool) else value for value in labels], None)


def _check_texts(texts: list[Any], source: str, column: str) -> None:
    foreign = [row for row, text in enumerate(texts) if not isinstance(text, str | None)]
    if foreign:
        rule = f"texts must be strings: column {column!r} has {_types(texts, foreign)}"
        refuse(source, foreign, rule, "set corpus.text_column or remove the rows")
    empty = [row for row, text in enumerate(texts) if text is None or not text.strip()]
    if empty:
        refuse(source, empty, f"empty text in column {column!r}", "remove the rows")
    _check_unicode(texts, source, column)


def _check_labels(labels: list[Any], source: str, column: str, names: tuple[str, ...] | None) -> None:
    # -1 is how a ClassLabel says that the label is withheld; x != x is NaN.
    missing = [row for row, x in enumerate(labels) if x is None or x != x or x == "" or (names and x == -1)]
    if missing:
        refuse(source, missing, f"label missing in column {column!r}", "fill it in or remove the rows")
    common = type(labels[0])
    foreign = [row for row, x in enumerate(labels) if type(x) is not common or common not in (str, int, bool)]
    if foreign:
        kinds = _types(labels, [0, *foreign])
        rule = f"labels must be all integers or all strings: column {column!r} has {kinds}"
        refuse(source, foreign, rule, "convert them or set corpus.label_column")
    if names:
        outside = [row for row, x in enumerate(labels) if not 0 <= x < len(names)]
        if outside:
            refuse(source, outside, f"label outside the {len(names)} names of column {column!r}", "correct the rows")
    if common is str:
        _check_unicode(labels, source, column)


def _types(values: list[Any], rows: Sequence[int]) -> str:
    return " and ".join(sorted({type(values[row]).__name__ for row in rows}))


def _check_unicode(values: list[str], source: str, column: str) -> None:
    halves = [row for row, value in enumerate(values) if not value.isascii() and _HALF.search(value)]
    if halves:
        refuse(source, halves, f"half of a surrogate pair in column {column!r}", "escape the whole character or none")
