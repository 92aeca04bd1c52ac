"""The built-in corpus: which package does a paragraph of documentation come from?

Four classes: the standard library, numpy, jax and transformers. All four are there wherever this
package runs, so the corpus needs no network. Their sources are parsed with `ast`, never imported.
"""

import ast
import gc
import gzip
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import logging
import os
import platform
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fedjax_paradox.cachefiles import keep, kept

CLASSES = ("python", "numpy", "jax", "transformers")
MOST_PARAGRAPHS = 12_000  # per class, so that the classes stay within a factor of two of each other
FORMAT_VERSION = 1  # raise it whenever the rules below change what comes out

_LOGGER = logging.getLogger(__name__)

_SKIPPED_FOLDERS = {
    *("site-packages", "dist-packages", "__pycache__", "test", "tests"),
    *("idlelib", "lib2to3", "turtledemo", "ensurepip", "pydoc_data"),
}
# Model implementations are most of the bytes of transformers: copies of one another with little prose.
_SKIPPED_FILES = re.compile(r"(modeling|modular|convert)_.*")

_FENCE = re.compile(r"\s*(```|~~~)")
_UNDERLINE = re.compile(r"\s*([=\-~^\"'#*+])\1{2,}\s*")
_LITERAL = re.compile(r"\s*(?:\.\. (?:code|math|testcode|ipython|doctest)|(?!\.\. ).*::\s*$)")
_MARKUP = re.compile(r"\s*(?:>>>|\.\.\. |\.\. |\||\$ |# |@)|\s*[*\w][\w, .*()\[\]]* : .*$")
_ENTRY = re.compile(
    r"\s*(?:(?:[-*•]|\d+[.)])\s+)?"  # the mark of a list item
    r"(?:`{0,2}\*{0,2}\w+`{0,2}(?:\s\(.*?\))?:(?=\s|$)|:\w+[^:`]*:(?=\s|$))?\s*"  # `name (type):`, `:field:`
)
_WORD = re.compile(r"(?<![\w.])[A-Za-z]+(?![\w(=])")
_NO_LETTER = re.compile(r"[\W\d_]+")
_FUNCTION_WORDS = {
    *("a", "an", "and", "are", "as", "be", "by", "can", "for", "from", "if", "in", "is"),
    *("it", "not", "of", "on", "or", "that", "the", "this", "to", "with"),
}
_BOILERPLATE = re.compile(r"licen[cs]e|copyright|warrant(y|ies)|all rights reserved|redistribut", re.IGNORECASE)


def docstring_paragraphs(cache: Path) -> tuple[list[str], list[int], list[str], list[int]]:
    """Train texts, train labels, test texts, test labels; a label indexes CLASSES.

    The outcome depends on the versions of Python and the three packages alone. Rows come in the order of
    their SHA-256, which also puts one paragraph in ten into the test split, so none is in both. The first
    call parses the sources (some eight seconds); later ones read a file in `cache`.
    """
    path = cache / f"docstrings-{_versions_key()}.jsonl.gz"
    rows = kept(path, _read_rows)
    if rows is None:
        with _no_search_for_cycles():
            rows = label_paragraphs({name: package_paragraphs(package_folder(name)) for name in CLASSES})
        keep(path, lambda file: _write_rows(file, rows))
    train, test = [[row for row in rows if _is_test(row[0]) == part] for part in (False, True)]
    return (
        [text for text, _ in train],
        [y for _, y in train],
        [text for text, _ in test],
        [y for _, y in test],
    )


def package_folder(name: str) -> Path:
    """Where the sources of an installed package lie; `python` is the standard library."""
    if name == "python":
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the built-in corpus reads the sources of {name}, which is not installed")
    return Path(spec.origin).parent


def package_paragraphs(folder: Path) -> list[str]:
    """Every different prose paragraph in the docstrings below `folder`, tests left out."""
    docstrings = (text for path in _source_files(folder) for text in _docstrings(path))
    paragraphs = (paragraph for text in docstrings for paragraph in split_paragraphs(text))
    return list(dict.fromkeys(filter(is_prose, paragraphs)))


def label_paragraphs(paragraphs: Mapping[str, Iterable[str]]) -> list[tuple[str, int]]:
    """(text, label) rows in the order of their SHA-256, at most MOST_PARAGRAPHS of a class.

    A paragraph that occurs in two packages is dropped from both: no label would be right for it, and
    keeping it in the first would only teach the order of the list.
    """
    groups = [set(group) for group in paragraphs.values()]
    occurrences = Counter(text for group in groups for text in group)
    rows = []
    for label, group in enumerate(groups):
        own = sorted((text for text in group if occurrences[text] == 1), key=_digest)
        rows += [(text, label) for text in own[:MOST_PARAGRAPHS]]
    return sorted(rows, key=lambda row: _digest(row[0]))


def split_paragraphs(docstring: str) -> list[str]:
    """The running text of one docstring: a string per paragraph, list item or parameter description.

    Headings, doctests, literal blocks and the names and types of parameters (Google, NumPy and Sphinx
    style) are left out; white space is normalised.
    """
    paragraphs: list[list[str]] = [[]]
    for line in _prose_lines(inspect.cleandoc(docstring).splitlines()):
        if line is None:
            paragraphs.append([])
        else:
            paragraphs[-1].append(line)
    return [text for lines in paragraphs if (text := " ".join(" ".join(lines).split()))]


def is_prose(paragraph: str) -> bool:
    """Six words or more, a function word among them, mostly letters, printable, no licence text.

    Six, because at eight numpy has fewer than 6,000 paragraphs.
    """
    words = [word.lower() for word in _WORD.findall(paragraph)]
    letters = len(_NO_LETTER.sub("", paragraph))
    return (
        len(words) >= 6
        and not _FUNCTION_WORDS.isdisjoint(words)
        and letters >= 0.7 * (len(paragraph) - paragraph.count(" "))
        and paragraph.isprintable()  # no lone surrogates, which tokenizers refuse
        and not _BOILERPLATE.search(paragraph)
    )


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Syntax trees have none, and so many parts that the search beside an imported JAX doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _source_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
        for name in sorted(files):
            if name.endswith((".py", ".pyi")) and not _SKIPPED_FILES.match(name):
                yield Path(parent, name)


def _docstrings(path: Path) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes are not our user's concern
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError) as error:  # templates and test data with a .py suffix
            _LOGGER.debug("%s has no docstrings: %s", path, error)
            return []
    return [text for node in _documented(tree) for text in _node_docstrings(node)]


def _documented(node: ast.AST) -> Iterator[ast.AST]:
    """The statements, which may carry documentation; going through the expressions too doubles the time."""
    yield node
    for block in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, block, ()):
            yield from _documented(child)


def _node_docstrings(node: ast.AST) -> list[str]:
    match node:
        case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return [ast.get_docstring(node, clean=False) or ""]
        # numpy attaches the docstrings of its C functions by a call.
        case ast.Expr(value=ast.Call(func=ast.Name(id="add_newdoc"), args=args)):
            strings = (s for arg in args for s in ast.walk(arg) if isinstance(s, ast.Constant))
            return [s.value for s in strings if isinstance(s.value, str)]
    return []


def _prose_lines(lines: list[str]) -> Iterator[str | None]:
    """Lines of running text; None wherever a paragraph ends."""
    fenced, indent, literal = False, 0, None
    for line, following in zip(lines, [*lines, ""][1:], strict=True):
        depth = len(line) - len(line.lstrip())
        fence = bool(_FENCE.match(line))
        fenced ^= fence
        if literal is not None and line.strip() and depth <= literal:
            literal = None
        hidden = fence or fenced or literal is not None
        if literal is None and _LITERAL.match(line):
            literal = depth
        entry = _ENTRY.match(line)
        if hidden or _is_markup(line, following):
            yield None
            continue
        marked = entry is not None and entry.end() > depth
        if depth < indent or marked:
            yield None
        indent = depth
        yield line[entry.end() :] if entry is not None and marked else line


def _is_markup(line: str, following: str) -> bool:
    heading = _UNDERLINE.fullmatch(line) or _UNDERLINE.fullmatch(following)
    return not line.strip() or bool(heading) or bool(_MARKUP.match(line))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_test(text: str) -> bool:
    return int(_digest(text)[-8:], 16) % 10 == 0


def _versions_key() -> str:
    packages = {name: importlib.metadata.version(name) for name in CLASSES[1:]}
    return _digest(json.dumps([FORMAT_VERSION, platform.python_version(), packages]))[:16]


def _read_rows(file: IO[bytes]) -> list[tuple[str, int]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [(text, label) for text, label in map(json.loads, lines)]


def _write_rows(file: IO[bytes], rows: list[tuple[str, int]]) -> None:
    with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        packed.writelines(json.dumps(row).encode() + b"\n" for row in rows)
