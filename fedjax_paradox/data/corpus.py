"""From a Hugging Face name or local files to token arrays.

`load_texts` reads and checks, `word_corpus` and `wordpiece_corpus` tokenise once and keep the tokens on disk.
"""

import glob
import hashlib
import json
import logging
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np

from fedjax_paradox.data import docstrings
from fedjax_paradox.data.text import (
    build_vocabulary,
    encode_wordpiece,
    encode_words,
    load_wordpiece,
    wordpiece_file,
)
from fedjax_paradox.errors import InputError

FORMAT_VERSION = 1  # of the token files in the cache; raise it whenever the same key would mean other tokens
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
Tokens = tuple[np.ndarray, np.ndarray, int]  # train i32[N, T], test i32[M, T], vocabulary size


@dataclass(frozen=True)
class Texts:
    """Texts and labels: i32[N] and i32[M] in 0..C-1, rows in file order. `fingerprint` hashes both."""

    name: str
    train_texts: list[str]
    train_labels: np.ndarray
    test_texts: list[str]
    test_labels: np.ndarray
    classes: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True)
class Corpus:
    """train_tokens: i32[N, T], train_labels: i32[N], test_tokens: i32[M, T], test_labels: i32[M].

    Token 0 is padding. `fingerprint` hashes texts, labels and everything the tokens depend on.
    """

    name: str
    train_tokens: np.ndarray
    train_labels: np.ndarray
    test_tokens: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    vocabulary_size: int
    fingerprint: str


class _Rows(NamedTuple):
    """One split as it was read: `source` is for messages, `names` are those of a ClassLabel feature."""

    source: str
    texts: list[str]
    labels: list[Label]
    names: tuple[str, ...] | None


def load_texts(
    name: str,
    *,
    files: tuple[Path, Path] | None = None,
    subset: str | None = None,
    splits: tuple[str, str] = ("train", "test"),
    text_column: str = "text",
    label_column: str = "label",
    classes: Sequence[Label] | None = None,
    train_rows: int | None = None,
    test_rows: int | None = None,
    seed: int = 0,
    cache: Path,
) -> Texts:
    """Read a train and a test split and number their classes.

    `files` (train, test; parquet, csv, tsv, jsonl or json) win over `name`, which is `docstrings` or a data
    set of the Hugging Face Hub with its `subset` and `splits` (slices such as `train[:80%]` are understood).
    Classes are numbered in the order of `classes` if given, of a ClassLabel feature's names, of the integers
    0..C-1, or of the sorted strings. `train_rows` and `test_rows` rows are drawn without replacement by
    `np.random.default_rng(seed)` and kept in file order.

    Raises InputError for a file, column, text or label that cannot be used, for a class without a train row,
    and for a hub that can be reached neither over the network nor in its cache.
    """
    if files is not None:
        train, test = (_read_file(path, text_column, label_column, cache) for path in _both(files))
    elif name == "docstrings":
        train, test = _read_docstrings(cache)
    else:
        train, test = _read_hub(name, subset, splits, text_column, label_column)
    values = _class_values(train, classes)
    names = tuple(str(value) for value in values)
    train_texts, train_labels = _sample(train, _number(train, values), train_rows, seed, "corpus.train_rows")
    test_texts, test_labels = _sample(test, _number(test, values), test_rows, seed, "corpus.test_rows")
    _check_every_class(train.source, train_labels, names)
    fingerprint = _fingerprint([(train_texts, train_labels), (test_texts, test_labels)])
    return Texts(name, train_texts, train_labels, test_texts, test_labels, names, fingerprint)


def word_corpus(texts: Texts, vocabulary_size: int, length: int, cache: Path) -> Corpus:
    """Tokens by the `vocabulary_size` commonest words of the train texts (fewer if there are fewer)."""

    def tokenise() -> Tokens:
        vocabulary = build_vocabulary(texts.train_texts, vocabulary_size)
        train, test = (encode_words(t, vocabulary, length) for t in (texts.train_texts, texts.test_texts))
        return train, test, len(vocabulary)

    return _cached_corpus(texts, ["words", vocabulary_size, length], length, cache, tokenise)


def wordpiece_corpus(texts: Texts, folder: Path, length: int, cache: Path) -> Corpus:
    """Tokens by the WordPiece tokenizer of the checkpoint in `folder`; see `encode_wordpiece`."""
    file = wordpiece_file(folder)

    def tokenise() -> Tokens:
        tokenizer = load_wordpiece(folder)
        train, test = (encode_wordpiece(t, tokenizer, length) for t in (texts.train_texts, texts.test_texts))
        return train, test, tokenizer.get_vocab_size()

    content = hashlib.sha256(file.read_bytes()).hexdigest()
    return _cached_corpus(texts, ["wordpiece", file.name, content, length], length, cache, tokenise)


# ---- tokens in the cache


def _cached_corpus(
    texts: Texts,
    pipeline: list[Label],
    length: int,
    cache: Path,
    tokenise: Callable[[], Tokens],
) -> Corpus:
    key = json.dumps([FORMAT_VERSION, texts.fingerprint, pipeline]).encode()
    fingerprint = hashlib.sha256(key).hexdigest()
    path = cache / f"tokens-{fingerprint[:32]}.npz"
    shapes = (len(texts.train_texts), length), (len(texts.test_texts), length)
    tokens = _read_tokens(path, shapes)
    if tokens is None:
        tokens = tokenise()
        docstrings.write_atomically(path, partial(_write_tokens, tokens=tokens))
    train, test, size = tokens
    return Corpus(
        texts.name, train, texts.train_labels, test, texts.test_labels, texts.classes, size, fingerprint
    )


def _write_tokens(file: IO[bytes], tokens: Tokens) -> None:
    train, test, size = tokens
    np.savez(file, allow_pickle=False, train=train, test=test, vocabulary_size=size)


def _read_tokens(path: Path, shapes: tuple[tuple[int, int], ...]) -> Tokens | None:
    if not path.exists():
        return None
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            train, test, size = file["train"], file["test"], int(file["vocabulary_size"])
        for tokens, shape in zip((train, test), shapes, strict=True):
            if tokens.shape != shape or tokens.dtype != np.int32:
                raise ValueError(f"{tokens.dtype}{tokens.shape} instead of int32{shape}")
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        _LOGGER.warning("%s is damaged (%s): the texts are tokenised again", path, error)
        return None
    return train, test, size


# ---- classes and rows


def _class_values(train: _Rows, classes: Sequence[Label] | None) -> list[Label]:
    """The label value of class 0, 1, ..."""
    values = _listed_classes(train, classes) if classes is not None else _found_classes(train)
    if len(values) < 2:
        raise InputError(
            f"a corpus needs two classes or more: {train.source} has {values}; choose another label"
        )
    return values


def _listed_classes(train: _Rows, classes: Sequence[Label]) -> list[Label]:
    if len(set(classes)) < len(classes):
        raise InputError(f"corpus.classes must differ: {list(classes)}; list every label value once")
    if train.names and all(isinstance(value, int) for value in classes):
        unknown = [value for value in classes if value not in range(len(train.names))]
        if unknown:
            raise InputError(f"label outside the classes: {unknown} of {train.source}; it has {train.names}")
        return [train.names[int(value)] for value in classes]
    return list(classes)


def _found_classes(train: _Rows) -> list[Label]:
    if train.names:
        return list(train.names)
    strings = sorted({value for value in train.labels if isinstance(value, str)})
    integers = sorted({value for value in train.labels if isinstance(value, int)})
    if strings:
        return [*strings]
    if integers != list(range(len(integers))):
        shown = ", ".join(map(str, integers[:10]))
        raise InputError(
            f"integer labels must be 0..C-1, a gap is a class with no rows: {train.source} has {shown}"
            f"{', ...' if len(integers) > 10 else ''}; list the values: corpus.classes=[{shown}]"
        )
    return [*integers]


def _number(rows: _Rows, values: Sequence[Label]) -> np.ndarray:
    """labels: i32[N]; InputError for one that is not among `values`."""
    number = {value: i for i, value in enumerate(values)}
    foreign = [row for row, label in enumerate(rows.labels) if label not in number]
    if foreign:
        found = sorted({repr(rows.labels[row]) for row in foreign})
        rule = f"label outside the classes {list(values)}: {', '.join(found[:5])}"
        _refuse(rows.source, foreign, rule, "add it to corpus.classes=[...] or remove the rows")
    return np.array([number[label] for label in rows.labels], np.int32)


def _sample(
    rows: _Rows, labels: np.ndarray, size: int | None, seed: int, option: str
) -> tuple[list[str], np.ndarray]:
    if size is None:
        return rows.texts, labels
    if not 1 <= size <= len(labels):
        raise InputError(f"{option} must be 1..{len(labels)}, the rows of {rows.source}: {size}; lower it")
    chosen = np.sort(np.random.default_rng(seed).choice(len(labels), size, replace=False))
    return [rows.texts[row] for row in chosen], labels[chosen]


def _check_every_class(source: str, labels: np.ndarray, names: tuple[str, ...]) -> None:
    empty = [names[i] for i in np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)]
    if empty:
        raise InputError(
            f"every class needs a train row: class with no rows in the {len(labels)} train rows of {source}: "
            f"{', '.join(empty)}; leave it out of corpus.classes or raise corpus.train_rows"
        )


def _fingerprint(splits: Sequence[tuple[list[str], np.ndarray]]) -> str:
    digest = hashlib.sha256()
    for texts, labels in splits:
        digest.update(len(texts).to_bytes(8, "little"))
        for text in texts:
            content = text.encode()
            digest.update(len(content).to_bytes(8, "little") + content)
        digest.update(labels.astype("<i4").tobytes())
    return digest.hexdigest()


# ---- sources


def _read_docstrings(cache: Path) -> tuple[_Rows, _Rows]:
    train_texts, train_labels, test_texts, test_labels = docstrings.docstring_paragraphs(cache)
    names = docstrings.CLASSES
    return (
        _Rows("docstrings", train_texts, [names[i] for i in train_labels], names),
        _Rows("docstrings", test_texts, [names[i] for i in test_labels], names),
    )


def _both(files: tuple[Path, Path]) -> list[Path]:
    if len(files) != 2 or not all(files):
        raise InputError(
            f"local files come in pairs: {files}; give corpus.files.train=... corpus.files.test=..."
        )
    return [Path(path) for path in files]


def _read_file(path: Path, text_column: str, label_column: str, cache: Path) -> _Rows:
    import datasets

    builder, options = _check_file(path)
    files = {"train": glob.escape(str(path.resolve()))}  # or `datasets` reads data1.csv for data[1].csv
    cache.mkdir(parents=True, exist_ok=True)
    # A folder of its own: `datasets` takes a file with the same path and time stamp for the same content.
    with tempfile.TemporaryDirectory(dir=cache, prefix="reading-") as scratch:
        try:
            dataset = datasets.load_dataset(
                builder, data_files=files, split="train", cache_dir=scratch, **options
            )
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


def _read_hub(
    name: str, subset: str | None, splits: tuple[str, str], text_column: str, label_column: str
) -> list[_Rows]:
    import datasets

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
        _LOGGER.warning(
            "the Hugging Face Hub does not answer (%s): looking for %s in its cache", error, repository
        )
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


def _extract(dataset: Any, source: str, text_column: str, label_column: str) -> _Rows:
    """The two columns of a `datasets.Dataset`, checked."""
    for column, option in ((text_column, "corpus.text_column"), (label_column, "corpus.label_column")):
        if column not in dataset.column_names:
            raise InputError(
                f"no column {column!r} in {source}: set {option} to one of {dataset.column_names}"
            )
    if len(dataset) == 0:
        raise InputError(f"empty file: {source} has no rows; a split needs rows")
    labels, names = _extract_labels(dataset, source, label_column)
    return _Rows(source, _extract_texts(dataset, source, text_column), labels, names)


def _extract_texts(dataset: Any, source: str, column: str) -> list[str]:
    dtype = _dtype(dataset, column)
    if not ("string" in dtype or dtype == "null"):
        raise InputError(
            f"texts must be strings: column {column!r} of {source} is {dtype}; set corpus.text_column"
        )
    texts = _column(dataset, source, column)
    empty = [row for row, text in enumerate(texts) if text is None or not text.strip()]
    if empty:
        _refuse(source, empty, f"empty text in column {column!r}", "remove the rows")
    return texts


def _extract_labels(dataset: Any, source: str, column: str) -> tuple[list[Label], tuple[str, ...] | None]:
    names = tuple(getattr(dataset.features[column], "names", None) or ()) or None
    values = _column(dataset, source, column)
    # -1 is how a ClassLabel says that the label is withheld; x != x is NaN.
    missing = [row for row, x in enumerate(values) if x is None or x != x or x == "" or (names and x < 0)]
    if missing:
        _refuse(source, missing, f"label missing in column {column!r}", "fill it in or remove the rows")
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
            _refuse(
                source, [row], f"column {column!r} must be UTF-8, {error}", "convert it before it is written"
            )
    return values


def _refuse(source: str, rows: Sequence[int], rule: str, remedy: str) -> NoReturn:
    shown = ", ".join(str(row + 1) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    raise InputError(f"{rule}: {source}, {len(rows)} row(s), counted from 1: {shown}; {remedy}")
