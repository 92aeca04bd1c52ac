"""Where texts come from: the built-in corpus, local files, the Hugging Face hub. Labels are not yet numbered."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_paradox.data import docstrings
from fedjax_paradox.data.files import Table, python_values, read_table, refuse
from fedjax_paradox.errors import InputError

HUB_ALIASES = {"ag_news": "fancyzhx/ag_news", "sentiment140": "stanfordnlp/sentiment140"}

_LOGGER = logging.getLogger(__name__)
_HUB_SECONDS = 5.0
_PARQUET_CONVERSION = "refs/convert/parquet"  # the hub's own copy of data sets that are loading scripts
_HALF = re.compile("[\ud800-\udfff]")  # JSON can name half a character; UTF-8 cannot

Label = int | str


class Rows(NamedTuple):
    """One split as it was read: `source` is for messages, `names` are those of a ClassLabel feature."""

    source: str
    texts: list[str]
    labels: list[Label]
    names: tuple[str, ...] | None


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


def _datasets() -> Any:
    """`datasets`, imported late because that takes a second, without bars that would break the progress lines."""
    import datasets

    datasets.disable_progress_bars()
    return datasets


def read_file(path: Path, text_column: str, label_column: str) -> Rows:
    return _extract(read_table(path, (text_column, label_column)), str(path), text_column, label_column)


def read_text_column(path: Path, column: str) -> list[str]:
    """The texts of a file, of which no label is asked; InputError as for a corpus."""
    table = read_table(path, (column,))
    if column not in table.names:
        raise InputError(f"no column {column!r} in {path}: name one of {table.names}")
    _check_texts(table.columns[column], str(path), column)
    return table.columns[column]


def read_hub(name: str, subset: str | None, splits: tuple[str, str], text_column: str, label_column: str) -> list[Rows]:
    datasets = _datasets()
    repository = HUB_ALIASES.get(name, name)
    where = _hub_arguments(repository, subset)
    try:
        # Told that it is offline, `datasets` looks in its cache at once instead of retrying for long.
        with nullcontext() if where else _offline(datasets):
            where = where or {"name": subset}
            loaded = [datasets.load_dataset(repository, split=split, **where) for split in splits]
    except ConnectionError as error:
        raise InputError(
            f"the Hugging Face Hub cannot be reached and its cache has no {repository}: give local files "
            "with corpus.files.train=... corpus.files.test=..., or use corpus.name=docstrings"
        ) from error
    except (datasets.exceptions.DatasetsError, ValueError) as error:
        raise InputError(
            f"cannot read {repository}, subset {subset}, splits {splits}: {error}; correct corpus.subset or "
            "corpus.splits"
        ) from error
    except OSError as error:
        raise InputError(
            f"{repository} cannot be kept in the hub's cache ({error}); point HF_HOME to a folder with room, or give "
            "local files with corpus.files.train=... corpus.files.test=..."
        ) from error
    sources = [f"{repository} {split}" for split in splits]
    tables = [_table(d, s, (text_column, label_column)) for d, s in zip(loaded, sources, strict=True)]
    return [_extract(t, s, text_column, label_column) for t, s in zip(tables, sources, strict=True)]


def _hub_arguments(repository: str, subset: str | None) -> dict[str, Any]:
    """What `load_dataset` needs to find the data on the hub; empty if the hub cannot be reached."""
    files = _hub_files(repository, None)
    script = f"{repository.split('/')[-1]}.py"
    if files is None or script not in files:
        return {} if files is None else {"name": subset}
    converted = _hub_files(repository, _PARQUET_CONVERSION) or []
    subsets = sorted({path.split("/")[0] for path in converted if path.endswith(".parquet")})
    chosen = subset or (subsets[0] if len(subsets) == 1 else None)
    if chosen not in subsets:
        raise InputError(
            f"{repository} is a script, read from the hub's parquet conversion, which has no subset "
            f"{subset}; choose one of {subsets} with corpus.subset, or give local files"
        )
    return {"revision": _PARQUET_CONVERSION, "data_dir": chosen}


def _hub_files(repository: str, revision: str | None) -> list[str] | None:
    """Names of the files of a data set; None if the hub does not answer within seconds, or must not be asked."""
    from huggingface_hub import HfApi, errors

    if _datasets().config.HF_HUB_OFFLINE:
        return None
    try:
        info = HfApi().dataset_info(repository, revision=revision, timeout=_HUB_SECONDS)
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise InputError(
            f"no public data set {repository!r} on the Hugging Face Hub: correct corpus.name, log in, or "
            "give local files with corpus.files.train=... corpus.files.test=..."
        ) from error
    # HTTPError is the base class of httpx, whichever generation of it the hub's client uses.
    except (errors.HTTPError, errors.OfflineModeIsEnabled) as error:
        _LOGGER.warning("the Hugging Face Hub does not answer (%s): looking for %s in its cache", error, repository)
        return None
    return [file.rfilename for file in info.siblings or []]


@contextmanager
def without_network() -> Iterator[None]:
    """Data sets of the hub are read from its cache alone; InputError where they are not in it."""
    with _offline(_datasets()):
        yield


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


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
