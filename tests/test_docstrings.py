import gzip
import hashlib
import logging
import textwrap
from collections import Counter

import pytest

from fedjax_paradox.cachefiles import write_atomically
from fedjax_paradox.data import docstrings
from fedjax_paradox.data.docstrings import (
    CLASSES,
    docstring_paragraphs,
    is_prose,
    label_paragraphs,
    package_paragraphs,
    split_paragraphs,
)

PROSE = "This sentence number {} is a piece of real English prose."


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("docstrings")


@pytest.fixture(scope="module")
def real(real_cache):
    return docstring_paragraphs(real_cache)


def test_every_style_of_docstring_gives_its_running_text_only():
    docstring = """Sum of the elements over
    a given axis.

    Parameters
    ----------
    a : array_like
        Elements to sum.
    axis : None or int, optional
        Axis along which
        a sum is performed.

    Args:
      first: the array whose *own* shape
        is kept.
      second (`int`, *optional*, defaults to 1): The other one.
    :param third: and the third.

    * an item that goes on
      in a second line
    - another item

    >>> add(1, 2)
    3

    An example follows::

        x = this_is(code)

    ```python
    print("the code of a fence")
    ```

    .. math:: a + b

    The end.
    """
    assert split_paragraphs(docstring) == [
        "Sum of the elements over a given axis.",
        "Elements to sum.",
        "Axis along which a sum is performed.",
        "the array whose *own* shape is kept.",
        "The other one.",
        "and the third.",
        "an item that goes on in a second line",
        "another item",
        "3",
        "An example follows::",
        "The end.",
    ]


@pytest.mark.parametrize("docstring", ["", "\n\n", "```\nnever closed", "x::", "----"])
def test_degenerate_docstrings(docstring):
    assert split_paragraphs(docstring) in ([], ["x::"])


@pytest.mark.parametrize(
    ("paragraph", "kept"),
    [
        ("Return the sum of the array elements over a given axis.", True),
        ("Return the sum.", False),
        ("array([[1, 2], [3, 4]]) is of the dtype int64 in 1 2 3 4 5 6 7 8 9", False),
        ("numpy add subtract multiply divide matmul power", False),
        ("This file is free: see the License for more of the terms.", False),
        ("Return the sum \ud800 of the array elements over a given axis.", False),
    ],
)
def test_what_counts_as_prose(paragraph, kept):
    assert is_prose(paragraph) is kept


def test_package_is_read_without_import_and_without_its_tests(tmp_path):
    def write(name, source):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), "utf-8")

    write(
        "b.py",
        f'''
        """{PROSE.format(1)}"""
        raise RuntimeError("imported")
        if True:
            class A:
                """{PROSE.format(2)}"""
                async def f(self):
                    """{PROSE.format(3)}

                    {PROSE.format(1)}
                    """
        add_newdoc("module", "name", """{PROSE.format(4)}""")
        add_newdoc("module", "name", ("attribute", """{PROSE.format(5)}"""))
        text = """{PROSE.format(90)}"""
        bad = "\\d invalid escape"
        ''',
    )
    write("a.py", f'"""{PROSE.format(0)}"""')
    write("c.pyi", f'"""{PROSE.format(6)}"""')
    write("not_python.py", f'"""{PROSE.format(91)}"""\nprint "two"')
    write("modeling_x.py", f'"""{PROSE.format(92)}"""')
    write("tests/test_a.py", f'"""{PROSE.format(93)}"""')
    write("site-packages/other.py", f'"""{PROSE.format(94)}"""')
    assert package_paragraphs(tmp_path) == [PROSE.format(i) for i in range(7)]


def test_shared_paragraphs_are_dropped_and_the_cap_does_not_depend_on_order(monkeypatch):
    monkeypatch.setattr(docstrings, "MOST_PARAGRAPHS", 3)
    first, second = [f"first {i}" for i in range(5)], ["second 0", "first 2"]
    rows = label_paragraphs({"first": first, "second": second})
    assert rows == label_paragraphs({"first": first[::-1], "second": second[::-1]})
    assert Counter(label for _, label in rows) == {0: 3, 1: 1}
    assert "first 2" not in dict(rows)
    digests = [hashlib.sha256(text.encode()).hexdigest() for text, _ in rows]
    assert digests == sorted(digests)


def test_the_real_corpus_has_the_promised_sizes_and_no_leak(real):
    train_texts, train_labels, test_texts, test_labels = real
    everything = train_texts + test_texts
    assert len(set(everything)) == len(everything)
    assert len(train_texts) == len(train_labels)
    assert len(test_texts) == len(test_labels)
    sizes = Counter(train_labels + test_labels)
    assert sorted(sizes) == list(range(len(CLASSES)))
    assert all(6_000 <= size <= 12_000 for size in sizes.values())
    # A paragraph is in the test split with probability 0.1; 0.09..0.11 is six standard deviations of 40,000.
    assert 0.09 < len(test_texts) / len(everything) < 0.11


def test_cache_is_read_again_and_a_damaged_one_is_built_again(real, real_cache, monkeypatch, caplog):
    monkeypatch.setattr(docstrings, "package_folder", lambda name: pytest.fail(f"parsed {name} again"))
    assert docstring_paragraphs(real_cache) == real
    monkeypatch.undo()
    (path,) = real_cache.iterdir()
    whole = path.read_bytes()
    tiny = {name: [f"{PROSE.format(name)} {i}" for i in range(20)] for name in CLASSES}
    monkeypatch.setattr(docstrings, "package_folder", lambda name: name)
    monkeypatch.setattr(docstrings, "package_paragraphs", tiny.get)
    for content in (whole[: len(whole) // 2], b"", b"garbage", gzip.compress(b"[1]\n")):
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            rebuilt = docstring_paragraphs(real_cache)
        assert "damaged" in caplog.text
        caplog.clear()
        assert len(rebuilt[0]) + len(rebuilt[2]) == 80
        assert docstring_paragraphs(real_cache) == rebuilt
        assert list(real_cache.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "folder" / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
