"""What lies in the cache folder is never believed unseen, and never needed."""

import dataclasses
import gzip
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fedjax_paradox import cachefiles
from fedjax_paradox.data import docstrings
from fedjax_paradox.data.corpus import Texts, load_texts, word_corpus
from fedjax_paradox.data.docstrings import CLASSES, docstring_paragraphs

TINY = Texts(
    "tiny",
    ["a b c", "b c d", "c d e"],
    np.arange(3, dtype=np.int32),
    ["a z"],
    np.zeros(1, np.int32),
    ("x", "y", "z"),
    "fingerprint",
)


def corpus(cache: Path, texts: Texts = TINY) -> tuple[list, list, int]:
    found = word_corpus(texts, 5, 4, cache)
    return found.train_tokens.tolist(), found.test_tokens.tolist(), found.vocabulary_size


@pytest.fixture
def few_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in corpus, of a few sentences."""
    sentences = {name: [f"This is the sentence {i} of the package {name}." for i in range(8)] for name in CLASSES}
    monkeypatch.setattr(docstrings, "package_folder", lambda name: name)
    monkeypatch.setattr(docstrings, "package_paragraphs", sentences.get)


# Damage


@pytest.mark.usefixtures("few_docstrings")
@pytest.mark.parametrize("make", [corpus, docstring_paragraphs], ids=["tokens", "docstrings"])
def test_no_byte_of_a_cache_file_can_change_what_is_read(
    tmp_path: Path, make, caplog: pytest.LogCaptureFixture
) -> None:
    expected = make(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    assert make(tmp_path) == expected
    assert not caplog.records
    generator = np.random.default_rng(0)
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        with caplog.at_level(logging.WARNING):
            assert make(tmp_path) == expected
        assert [record.message for record in caplog.records] == [
            f"{path} is damaged or of an earlier version: it is made again"
        ]
        caplog.clear()
        assert path.read_bytes() == whole
    for length in range(0, len(whole), 50):
        path.write_bytes(whole[:length])
        assert make(tmp_path) == expected


def test_a_cache_file_of_another_corpus_is_not_taken_for_this_one(tmp_path: Path) -> None:
    expected = corpus(tmp_path / "a")
    corpus(tmp_path / "b", dataclasses.replace(TINY, fingerprint="another", train_texts=["c c c", "e", "a a"]))
    (mine,), (others,) = (tmp_path / "a").iterdir(), (tmp_path / "b").iterdir()
    mine.write_bytes(others.read_bytes())
    assert corpus(tmp_path / "a") == expected


def test_files_of_an_earlier_version_are_made_again(tmp_path: Path) -> None:
    expected = corpus(tmp_path)
    (path,) = tmp_path.iterdir()
    np.savez(path, train=np.zeros((3, 4), np.int32), test=np.zeros((1, 4), np.int32), vocabulary_size=5)
    assert corpus(tmp_path) == expected


# A cache that cannot be written


@pytest.mark.usefixtures("few_docstrings")
@pytest.mark.parametrize("make", [corpus, docstring_paragraphs], ids=["tokens", "docstrings"])
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, make, caplog: pytest.LogCaptureFixture) -> None:
    expected = make(tmp_path / "good")
    (tmp_path / "file").write_text("no folder")
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        with caplog.at_level(logging.WARNING):
            assert make(cache) == expected
        assert len(caplog.records) == 1
        assert "cannot be written" in caplog.text
        assert str(cache) in caplog.text
        caplog.clear()
    assert (tmp_path / "file").read_text() == "no folder"


def limited(cache: Path, size: int) -> None:
    """Makes the corpus where no file can grow beyond `size` bytes, as on a disk without room."""
    import resource

    sys.dont_write_bytecode = True  # or what is imported from here on is kept cut short
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING)
    os._exit(0 if corpus(cache)[2] == 5 else 1)


@pytest.mark.parametrize("size", [0, 1, 31, 40, 200, 700])
def test_a_full_disk_leaves_nothing_partial(tmp_path: Path, size: int) -> None:
    child = multiprocessing.get_context("spawn").Process(target=limited, args=(tmp_path / "cache", size))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert not list((tmp_path / "cache").iterdir())


def test_local_files_need_no_cache(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,0\nb,1\n")
    (tmp_path / "cache").write_text("no folder")
    assert load_texts("mine", files=(path, path), cache=tmp_path / "cache").train_texts == ["a", "b"]


# Leftovers


def writer(cache: Path, started) -> None:
    """Writes cache files for ever: one that is never finished, and a folder beside it."""

    def slowly(file) -> None:
        file.write(b"half")
        file.flush()
        started.set()
        time.sleep(600)

    with cachefiles.scratch_folder(cache) as folder:
        (Path(folder) / "file").write_bytes(b"half")
        cachefiles.keep(cache / "tokens-0.npz", slowly)


def test_leftovers_of_killed_runs_are_removed_and_those_of_live_runs_are_not(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    child = context.Process(target=writer, args=(tmp_path, started))
    child.start()
    try:
        assert started.wait(60)
        (tmp_path / "reading-abc").mkdir()  # as earlier versions named theirs
        (tmp_path / "reading-abc" / "rows.arrow").write_bytes(b"half")
        (tmp_path / "tokens-1.npz").write_bytes(b"whole")
        (tmp_path / "notes.tmp").write_text("somebody else's")
        csv = tmp_path / "a.csv"
        csv.write_text("text,label\na,0\nb,1\n")
        kept = {"tokens-1.npz", "notes.tmp", "a.csv"}
        load_texts("mine", files=(csv, csv), cache=tmp_path)
        live = {path.name for path in tmp_path.iterdir()} - kept
        assert len(live) == 2, live
    finally:
        child.kill()
        child.join()
    load_texts("mine", files=(csv, csv), cache=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_warning_is_all_that_a_full_disk_prints(tmp_path: Path) -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700));"
        "import sys; from pathlib import Path; from fedjax_paradox.cachefiles import keep; import numpy as np;"
        "keep(Path(sys.argv[1]) / 'x', lambda file: np.savez(file, a=np.zeros(9000), b=np.zeros(9000)))"
    )
    # Without bytecode, which the limit would cut short for everybody who imports the package next.
    command = [sys.executable, "-B", "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot be written (File too large)" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_older_gzip_of_the_docstrings_is_no_error(tmp_path: Path, few_docstrings: None) -> None:  # noqa: ARG001
    expected = docstring_paragraphs(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(gzip.compress(b'["a sentence that nobody wrote", 99]\n'))
    assert docstring_paragraphs(tmp_path) == expected
