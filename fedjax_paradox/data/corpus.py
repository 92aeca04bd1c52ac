"""From a Hugging Face name or local files to token arrays.

`load_texts` reads and checks, `word_corpus` and `subword_corpus` tokenise once and keep the tokens on disk.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from fedjax_paradox.cachefiles import clear_leftovers, keep, kept
from fedjax_paradox.data.files import refuse
from fedjax_paradox.data.published import HUB_ALIASES
from fedjax_paradox.data.sources import Label, Rows, both_files, read_docstrings, read_file, read_folder, read_hub
from fedjax_paradox.data.subwords import encode_subwords, load_tokenizer, tokenizer_files
from fedjax_paradox.data.text import build_vocabulary, encode_words
from fedjax_paradox.errors import InputError
from fedjax_paradox.hub import local_folder
from fedjax_paradox.text import printable

FORMAT_VERSION = 1  # of the token files in the cache; raise it whenever the same key would mean other tokens

Tokens = tuple[np.ndarray, np.ndarray, int]  # train i32[N, T], test i32[M, T], vocabulary size


@dataclass(frozen=True)
class Texts:
    """Texts and labels: i32[N] and i32[M] in 0..C-1, rows in file order. `fingerprint` hashes both; `commit` is that of
    a data set of the hub."""

    name: str
    train_texts: list[str]
    train_labels: np.ndarray
    test_texts: list[str]
    test_labels: np.ndarray
    classes: tuple[str, ...]
    fingerprint: str
    commit: str | None = None


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


def load_texts(
    name: str,
    *,
    files: tuple[Path, Path] | None = None,
    subset: str | None = None,
    revision: str | None = None,
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

    `files` (train, test; parquet, csv, tsv, jsonl or json) win over `name`, which is `docstrings`, a folder that
    `datasets` understands, or a data set of the Hugging Face Hub at a `revision` (commit, branch or tag); both
    with their `subset` and `splits` (slices such as `train[:80%]` are understood).
    Numbers of AG News and Sentiment140 are given their names.
    Classes are numbered in the order of `classes` if given, of a ClassLabel feature's names, of the integers
    0..C-1, or of the sorted strings. `train_rows` and `test_rows` rows are drawn without replacement by
    `np.random.default_rng(seed)` and kept in file order.

    Raises InputError for a file, column, text or label that cannot be used, for a class without a train row,
    for the revision of something local, and for a hub that can be reached neither over the network nor in its cache.
    """
    clear_leftovers(cache)
    columns, folder = (text_column, label_column), _folder(name)
    if revision is not None and (files is not None or name == "docstrings" or folder):
        told = "local files" if files is not None else f"corpus.name={name}"
        raise InputError(f"corpus.revision={revision} is of a data set on the hub, not of {told}; leave it out")
    if files is not None:
        train, test = (read_file(path, *columns) for path in both_files(files))
    elif name == "docstrings":
        train, test = read_docstrings(cache)
    elif folder:
        train, test = read_folder(folder, subset, splits, columns, cache)
    else:
        train, test = read_hub(name, subset, revision, splits, columns)
    values = _class_values(train, classes)
    names = _class_names(name, values)
    train_texts, train_labels = _sample(train, _number(train, values), train_rows, seed, "corpus.train_rows")
    test_texts, test_labels = _sample(test, _number(test, values), test_rows, seed, "corpus.test_rows")
    _check_every_class(train.source, train_labels, names)
    fingerprint = _fingerprint([(train_texts, train_labels), (test_texts, test_labels)])
    if files is not None and name == "docstrings":  # the default name would credit the built-in corpus with the files
        name = "/".join(Path(files[0]).absolute().parts[-2:])
    return Texts(name, train_texts, train_labels, test_texts, test_labels, names, fingerprint, train.commit)


def _folder(name: str) -> Path | None:
    """A folder of one's own; one that is called as a known data set is named by a path, such as ./ag_news."""
    return None if name == "docstrings" or name in HUB_ALIASES else local_folder(name)


def word_corpus(texts: Texts, vocabulary_size: int, length: int, cache: Path) -> Corpus:
    """Tokens by the `vocabulary_size` commonest words of the train texts (fewer if there are fewer)."""

    def tokenise() -> Tokens:
        vocabulary = build_vocabulary(texts.train_texts, vocabulary_size)
        train, test = (encode_words(t, vocabulary, length) for t in (texts.train_texts, texts.test_texts))
        return train, test, len(vocabulary)

    return _cached_corpus(texts, ["words", vocabulary_size, length], length, cache, tokenise)


def subword_corpus(texts: Texts, folder: Path, length: int, cache: Path) -> Corpus:
    """Tokens by the tokenizer of the checkpoint in `folder`; see `encode_subwords`."""
    main, *beside = tokenizer_files(folder)

    def tokenise() -> Tokens:
        tokenizer = load_tokenizer(folder)
        train, test = (encode_subwords(t, tokenizer, length) for t in (texts.train_texts, texts.test_texts))
        return train, test, tokenizer.get_vocab_size()

    content, *others = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (main, *beside))
    return _cached_corpus(texts, ["wordpiece", main.name, content, *others, length], length, cache, tokenise)


def check_token_ids(corpus: Corpus, rows: int) -> None:
    """InputError for a token that has no row in an embedding table of `rows`: JAX would take another row, or NaN."""
    for split, tokens in (("train", corpus.train_tokens), ("test", corpus.test_tokens)):
        outside = np.argwhere((tokens < 0) | (tokens >= rows))
        if len(outside):
            row, column = outside[0]
            raise InputError(
                f"token ids must be 0..{rows - 1}, the rows of the embedding table: token {column + 1} of {split} row "
                f"{row + 1} of {corpus.name} (counted from 1) is {tokens[row, column]}, the first of {len(outside)}; "
                "use the tokenizer that was published with the weights"
            )


# ---- tokens in the cache


def _cached_corpus(
    texts: Texts,
    pipeline: list[Label],
    length: int,
    cache: Path,
    tokenise: Callable[[], Tokens],
) -> Corpus:
    _check_memory(len(texts.train_texts) + len(texts.test_texts), length)
    key = json.dumps([FORMAT_VERSION, texts.fingerprint, pipeline]).encode()
    fingerprint = hashlib.sha256(key).hexdigest()
    path = cache / f"tokens-{fingerprint[:32]}.npz"
    tokens = kept(path, _read_tokens)
    if tokens is None:
        tokens = tokenise()
        keep(path, partial(_write_tokens, tokens=tokens))
    train, test, size = tokens
    return Corpus(texts.name, train, texts.train_labels, test, texts.test_labels, texts.classes, size, fingerprint)


def _check_memory(rows: int, length: int) -> None:
    # int32, and twice: as tokenised, and joined for the device.
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (2 * 4 * rows)
    if length > most:
        raise InputError(
            f"the tokens of {rows} texts fit into the memory of this machine up to max_length {most}, got {length}; "
            "lower models.<name>.max_length or corpus.train_rows"
        )


def _write_tokens(file: IO[bytes], tokens: Tokens) -> None:
    train, test, size = tokens
    np.savez(file, allow_pickle=False, train=train, test=test, vocabulary_size=size)


def _read_tokens(file: IO[bytes]) -> Tokens:
    with np.load(file, allow_pickle=False) as arrays:
        return arrays["train"], arrays["test"], int(arrays["vocabulary_size"])


# ---- classes and rows


def _class_values(train: Rows, classes: Sequence[Label] | None) -> list[Label]:
    """The label value of class 0, 1, ..."""
    values = _listed_classes(train, classes) if classes is not None else _found_classes(train)
    if len(values) < 2:
        raise InputError(f"a corpus needs two classes or more: {train.source} has {values}; choose another label")
    return values


# What the publishers call the numbers in their files, where the files do not say.
_PUBLISHED = {
    "ag_news": {0: "World", 1: "Sports", 2: "Business", 3: "Sci/Tech"},
    "sentiment140": {0: "negative", 1: "positive", 4: "positive"},
}


def _class_names(corpus: str, values: Sequence[Label]) -> tuple[str, ...]:
    published = _PUBLISHED.get(corpus.rpartition("/")[2], {})
    names = tuple(published.get(value, "") for value in values if isinstance(value, int))
    return names if all(names) and len(set(names)) == len(values) else tuple(str(value) for value in values)


def _listed_classes(train: Rows, classes: Sequence[Label]) -> list[Label]:
    if len(set(classes)) < len(classes):
        raise InputError(f"corpus.classes must differ: {list(classes)}; list every label value once")
    if train.names and all(isinstance(value, int) for value in classes):
        unknown = [value for value in classes if value not in range(len(train.names))]
        if unknown:
            raise InputError(f"label outside the classes: {unknown} of {train.source}; it has {train.names}")
        return [train.names[int(value)] for value in classes]
    return list(classes)


def _found_classes(train: Rows) -> list[Label]:
    if train.names:
        return list(train.names)
    strings = sorted({value for value in train.labels if isinstance(value, str)})
    integers = sorted({value for value in train.labels if isinstance(value, int)})
    if strings:
        return [*strings]
    if integers != list(range(len(integers))):
        shown = ", ".join(f"{value!s:.20}" for value in integers[:10])
        raise InputError(
            f"integer labels must be 0..C-1, a gap is a class with no rows: {train.source} has {shown}"
            f"{', ...' if len(integers) > 10 else ''}; list the values: corpus.classes=[{shown}]"
        )
    return [*integers]


def _number(rows: Rows, values: Sequence[Label]) -> np.ndarray:
    """labels: i32[N]; InputError for one that is not among `values`."""
    number = {value: i for i, value in enumerate(values)}
    foreign = [row for row, label in enumerate(rows.labels) if label not in number]
    if foreign:
        found = sorted({repr(rows.labels[row]) for row in foreign})
        rule = f"label outside the classes {list(values)}: {', '.join(found[:5])}"
        refuse(rows.source, foreign, rule, "add it to corpus.classes=[...] or remove the rows")
    return np.array([number[label] for label in rows.labels], np.int32)


def _sample(rows: Rows, labels: np.ndarray, size: int | None, seed: int, option: str) -> tuple[list[str], np.ndarray]:
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
            f"{printable(', '.join(empty))}; leave it out of corpus.classes or raise corpus.train_rows"
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
