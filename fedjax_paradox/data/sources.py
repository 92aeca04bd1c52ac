"""Where texts come from: the built-in corpus, local files, the Hugging Face hub. Labels are not yet numbered."""

import glob
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from fedjax_paradox.data import docstrings
from fedjax_paradox.errors import InputError

HUB_ALIASES = {"ag_news": "fancyzhx/ag_news", "sentiment140": "stanfordnlp/sentiment140"}

_LOGGER = logging.getLogger(__name__)
_HUB_SECONDS = 5.0
_PARQUET_CONVERSION = "refs/convert/parquet"  # the hub's own copy of data sets that are loading scripts
# The empty field alone means "missing": pandas would also take texts such as "NA" or "None" for it.
_CSV = {"keep_default_na": False, "na_values": [""]}
_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".parquet": ("parquet", {}),
    ".csv": ("csv", _CSV),
    ".tsv": ("csv", {**_CSV, "sep": "\t"}),
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
}

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


def read_file(path: Path, text_column: str, label_column: str, cache: Path) -> Rows:
    datasets = _datasets()
    builder, options = _check_file(path)
    files = {"train": glob.escape(str(path.resolve()))}  # or `datasets` reads data1.csv for data[1].csv
    cache.mkdir(parents=True, exist_ok=True)
    # A folder of its own: `datasets` takes a file with the same path and time stamp for the same content.
    with tempfile.TemporaryDirectory(dir=cache, prefix="reading-") as scratch:
        try:
            with _offline(datasets):  # or `datasets` counts its use at the hub
                dataset = datasets.load_dataset(builder, data_files=files, split="train", cache_dir=scratch, **options)
        except (datasets.exceptions.DatasetsError, ValueError) as error:
            raise InputError(
                f"{path} has no rows that can be read as {builder}: {error.__cause__ or error}; repair it"
            ) from error
        return _extract(dataset, str(path), text_column, label_column)


def _check_file(path: Path) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"no such file: {path}; correct corpus.files.train / corpus.files.test")
    if path.suffix.lower() not in _READERS:
        raise InputError(f"unsupported suffix {path.suffix!r} of {path}: convert it to {', '.join(_READERS)}")
    if path.stat().st_size == 0:
        raise InputError(f"empty file: {path}; a split needs rows")
    builder, options = _READERS[path.suffix.lower()]
    if builder != "parquet":
        _check_utf8(path)
    return builder, options


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
    sources = [f"{repository} {split}" for split in splits]
    return [_extract(d, s, text_column, label_column) for d, s in zip(loaded, sources, strict=True)]


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
    """Names of the files of a data set; None if the hub does not answer within seconds."""
    from huggingface_hub import HfApi, errors

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
def _offline(datasets: Any) -> Iterator[None]:
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _extract(dataset: Any, source: str, text_column: str, label_column: str) -> Rows:
    """The two columns of a `datasets.Dataset`, checked."""
    for column, option in ((text_column, "corpus.text_column"), (label_column, "corpus.label_column")):
        if column not in dataset.column_names:
            raise InputError(f"no column {column!r} in {source}: set {option} to one of {dataset.column_names}")
    if len(dataset) == 0:
        raise InputError(f"empty file: {source} has no rows; a split needs rows")
    labels, names = _extract_labels(dataset, source, label_column)
    return Rows(source, _extract_texts(dataset, source, text_column), labels, names)


def _extract_texts(dataset: Any, source: str, column: str) -> list[str]:
    dtype = _dtype(dataset, column)
    if not ("string" in dtype or dtype == "null"):
        raise InputError(f"texts must be strings: column {column!r} of {source} is {dtype}; set corpus.text_column")
    texts = _column(dataset, source, column)
    empty = [row for row, text in enumerate(texts) if text is None or not text.strip()]
    if empty:
        refuse(source, empty, f"empty text in column {column!r}", "remove the rows")
    return texts


def _extract_labels(dataset: Any, source: str, column: str) -> tuple[list[Label], tuple[str, ...] | None]:
    names = tuple(getattr(dataset.features[column], "names", None) or ()) or None
    values = _column(dataset, source, column)
    # -1 is how a ClassLabel says that the label is withheld; x != x is NaN.
    missing = [row for row, x in enumerate(values) if x is None or x != x or x == "" or (names and x < 0)]
    if missing:
        refuse(source, missing, f"label missing in column {column!r}", "fill it in or remove the rows")
    dtype = _dtype(dataset, column)
    if not ("string" in dtype or "int" in dtype or dtype == "bool"):
        raise InputError(
            f"labels must be integers or strings: column {column!r} of {source} is {dtype}; convert it or "
            "set corpus.label_column"
        )
    if names:
        return [names[value] for value in values], names
    return [int(value) if dtype == "bool" else value for value in values], None


def _dtype(dataset: Any, column: str) -> str:
    return getattr(dataset.features[column], "dtype", "nested")


def _column(dataset: Any, source: str, column: str) -> list[Any]:
    values = []
    for row, value in enumerate(dataset.with_format("arrow")[:].column(column)):
        try:
            values.append(value.as_py())
        except UnicodeDecodeError as error:
            refuse(source, [row], f"column {column!r} must be UTF-8, {error}", "convert it before it is written")
    return values


def refuse(source: str, rows: Sequence[int], rule: str, remedy: str) -> NoReturn:
    shown = ", ".join(str(row + 1) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    raise InputError(f"{rule}: {source}, {len(rows)} row(s), counted from 1: {shown}; {remedy}")
