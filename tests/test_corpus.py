import dataclasses
import logging
import os
import re

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedjax_paradox.data import corpus, docstrings
from fedjax_paradox.data.corpus import Texts, load_texts, subword_corpus, word_corpus
from fedjax_paradox.errors import InputError

TEXTS = ['quoted "words", commas', "NA", "naïve café 中国", "two\nlines"]
LABELS = [1, 0, 2, 1]


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def write(path, texts=TEXTS, labels=LABELS, **columns):
    """The same rows in the format that the suffix names."""
    frame = datasets.Dataset.from_dict({"text": texts, "label": labels, **columns}).to_pandas()
    writers = {
        ".parquet": lambda: frame.to_parquet(path),
        ".csv": lambda: frame.to_csv(path, index=False),
        ".tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        ".jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        ".json": lambda: frame.to_json(path, orient="records"),
    }
    writers[path.suffix]()
    return path


def load(path, cache, **options):
    return load_texts("local", files=(path, path), cache=cache, **options)


def make_texts(train=("a b c", "b c d", "c d e"), test=("a z",)):
    return Texts("tiny", [*train], np.arange(3, dtype=np.int32), [*test], np.zeros(1, np.int32), ("x", "y", "z"), "f")


# ---- local files


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl", ".json"])
def test_every_format_gives_the_same_texts_labels_and_fingerprint(tmp_path, cache, suffix):
    texts = load(write(tmp_path / f"rows{suffix}"), cache)
    reference = load(write(tmp_path / "reference.parquet"), cache)
    assert texts.train_texts == texts.test_texts == TEXTS
    np.testing.assert_array_equal(texts.train_labels, LABELS)
    assert texts.train_labels.dtype == texts.test_labels.dtype == np.int32
    assert texts.classes == ("0", "1", "2")
    assert texts.fingerprint == reference.fingerprint
    assert not cache.exists()


def test_fingerprint_sees_every_text_label_border_and_split(tmp_path, cache):
    def fingerprint(train, test, **options):
        files = write(tmp_path / "a.parquet", *train), write(tmp_path / "b.parquet", *test)
        return load_texts("local", files=files, cache=cache, **options).fingerprint

    base = (["ab", "c", "d"], [0, 1, 0])
    changed = [(["a", "bc", "d"], [0, 1, 0]), (["ab", "c", "d"], [0, 1, 1]), (["c", "ab", "d"], [0, 1, 0])]
    prints = [fingerprint(a, b) for a, b in [(base, base), *((c, base) for c in changed), (base, changed[0])]]
    assert len(set(prints)) == len(prints)
    assert fingerprint(base, base, train_rows=2, seed=2) not in prints


def test_a_rewritten_file_is_read_again_even_with_the_same_time_stamp(tmp_path, cache):
    path = write(tmp_path / "rows.parquet", ["old", "text"], [0, 1])
    stamp = path.stat()
    assert load(path, cache).train_texts == ["old", "text"]
    write(path, ["new", "text"], [0, 1])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert load(path, cache).train_texts == ["new", "text"]


def test_file_names_are_not_patterns_and_need_no_writable_folder(tmp_path, cache):
    folder = tmp_path / "read only"
    folder.mkdir()
    write(folder / "rows1.csv", ["wrong", "file"], [0, 1])
    path = write(folder / "rows[1].csv", ["right", "file"], [0, 1])
    folder.chmod(0o555)
    assert load(path, cache).train_texts == ["right", "file"]
    assert sorted(p.name for p in folder.iterdir()) == ["rows1.csv", "rows[1].csv"]
    folder.chmod(0o755)


def test_columns_can_be_named(tmp_path, cache):
    path = write(tmp_path / "rows.csv", sentence=["s0", "s1", "s2", "s3"], topic=["x", "y", "y", "x"])
    texts = load(path, cache, text_column="sentence", label_column="topic")
    assert texts.train_texts == ["s0", "s1", "s2", "s3"]
    assert texts.classes == ("x", "y")


# ---- classes


def with_feature(path, labels, names):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = {"text": [f"t{i}" for i in range(len(labels))], "label": labels}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


@pytest.mark.parametrize(
    ("labels", "classes", "expected", "names"),
    [
        ([0, 4, 4, 0], [4, 0], [1, 0, 0, 1], ("4", "0")),
        (["b", "a", "b", "c"], None, [1, 0, 1, 2], ("a", "b", "c")),
        (["b", "a", "b", "c"], ["c", "b", "a"], [1, 2, 1, 0], ("c", "b", "a")),
        ([True, False, True, True], None, [1, 0, 1, 1], ("0", "1")),
    ],
)
def test_classes_are_numbered(tmp_path, cache, labels, classes, expected, names):
    texts = load(write(tmp_path / "rows.parquet", labels=labels), cache, classes=classes)
    np.testing.assert_array_equal(texts.train_labels, expected)
    assert texts.classes == names


@pytest.mark.parametrize(
    ("corpus", "labels", "names"),
    [
        ("ag_news", [3, 0, 1, 2], ("World", "Sports", "Business", "Sci/Tech")),
        ("stanfordnlp/sentiment140", [1, 0, 1, 0], ("negative", "positive")),
        ("sentiment140", [2, 0, 1, 2], ("0", "1", "2")),  # other numbers than the publisher's
        ("ag_news", ["b", "a", "b", "a"], ("a", "b")),
        ("news", [3, 0, 1, 2], ("0", "1", "2", "3")),
    ],
)
def test_the_numbers_of_published_data_sets_have_their_names(tmp_path, cache, corpus, labels, names):
    path = write(tmp_path / "rows.parquet", labels=labels)
    assert load_texts(corpus, files=(path, path), cache=cache).classes == names


@pytest.mark.parametrize(
    ("classes", "expected", "names"),
    [
        (None, [1, 0, 1], ("World", "Sports")),
        (["Sports", "World"], [0, 1, 0], ("Sports", "World")),
        ([1, 0], [0, 1, 0], ("Sports", "World")),
    ],
)
def test_class_label_features_keep_their_names(tmp_path, cache, classes, expected, names):
    path = with_feature(tmp_path / "rows.parquet", [1, 0, 1], ["World", "Sports"])
    texts = load(path, cache, classes=classes)
    np.testing.assert_array_equal(texts.train_labels, expected)
    assert texts.classes == names


def test_a_class_may_be_missing_in_the_test_split_only(tmp_path, cache):
    both, one = write(tmp_path / "both.csv", labels=[0, 1, 1, 0]), write(tmp_path / "one.csv", labels=[1] * 4)
    texts = load_texts("local", files=(both, one), cache=cache)
    np.testing.assert_array_equal(texts.test_labels, [1, 1, 1, 1])
    with pytest.raises(InputError, match=r"label outside the classes \[1, 2\]: 0: .*both.csv, 2 row\(s\).*: 1, 4;"):
        load_texts("local", files=(one, both), cache=cache, classes=[1, 2])


@pytest.mark.parametrize(
    ("labels", "classes", "rule"),
    [
        ([0, 2, 2, 0], None, r"class with no rows: .* has 0, 2; .*corpus.classes=\[0, 2\]"),
        ([1, 2, 2, 1], None, r"must be 0..C-1.*corpus.classes=\[1, 2\]"),
        ([-1, 0, 1, 0], None, r"must be 0..C-1.* has -1, 0, 1"),
        ([0, 10**15, 0, 0], None, "must be 0..C-1"),
        (
            [0, 1, 2, 1],
            [0, 1],
            r"label outside the classes \[0, 1\]: 2: .*1 row\(s\), counted from 1: 3; add",
        ),
        ([0, 1, 1, 1], [0, 1, 2], "every class needs a train row.* 2; leave it out"),
        ([0, 1, 1, 1], [0, 1, 0], "must differ"),
        ([0, 0, 0, 0], None, "two classes"),
        ([0.0, 1.0, 0.0, 1.0], None, r"integers or all strings: .* float: .* 4 row\(s\)"),
        (
            ["a", None, "b", None],
            None,
            r"label missing in column 'label': .*2 row\(s\), counted from 1: 2, 4",
        ),
        ([0, None, 1, 1], None, "label missing"),
        (["a", "", "b", "b"], None, "label missing"),
        ([["a"], ["b"], ["a"], ["b"]], None, "integers or all strings: .* list: "),
    ],
)
def test_unusable_labels(tmp_path, cache, labels, classes, rule):
    with pytest.raises(InputError, match=rule):
        load(write(tmp_path / "rows.parquet", labels=labels), cache, classes=classes)


@pytest.mark.parametrize(
    ("labels", "classes", "rule"),
    [
        ([0, -1, 1], None, "label missing"),
        ([0, 0, 0], None, "no rows in .*: Sports"),
        ([0, 1, 1], [0, 2], r"\[2\]"),
    ],
)
def test_unusable_class_label_features(tmp_path, cache, labels, classes, rule):
    with pytest.raises(InputError, match=rule):
        load(with_feature(tmp_path / "rows.parquet", labels, ["World", "Sports"]), cache, classes=classes)


# ---- texts and files that cannot be used


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("rows.txt", "text,label\na,0\n", r"unsupported suffix '.txt'.*\.parquet, \.csv"),
        ("rows.csv", "", "empty file"),
        ("rows.csv", "text,label\n", "no rows that can be read as csv"),
        ("rows.csv", "text,topic\na,0\n", r"no column 'label'.*corpus.label_column.*\['text', 'topic'\]"),
        ("rows.csv", "title,label\na,0\n", r"no column 'text'.*corpus.text_column.*\['title', 'label'\]"),
        (
            "rows.csv",
            "text,label\na,0\n,1\n \t,1\n",
            r"empty text in column 'text'.*2 row\(s\).*: 2, 3; remove",
        ),
        ("rows.csv", "text,label\na,0\nb,\n", "label missing.*: 2;"),
        ("rows.csv", "text,label\n1,0\n2,1\n", r"texts must be strings.* int: .*2 row\(s\).*: 1, 2;"),
        ("rows.csv", "text,label\na,0\nb,1,2,3\n", "no rows that can be read as csv.*line 3"),
        ("rows.csv", "text,label\nÄ,0\n".encode("latin1"), "UTF-8: .*rows.csv, line 2, .*iconv"),
        ("rows.jsonl", '{"text": "é", "label": 0}'.encode("latin1"), "UTF-8"),
        ("rows.jsonl", '{"text": "a", "label": 0}\n{"text": \n', "no rows that can be read as json"),
        ("rows.jsonl", '{"text": "a", "label": 0}\n{"label": 1}\n', "empty text.*: 2;"),
        ("rows.jsonl", '{"text": ["a"], "label": 0}\n{"text": ["b"], "label": 1}\n', "texts must be strings"),
        ("rows.parquet", "not parquet", "no rows that can be read as parquet"),
    ],
)
def test_unusable_files(tmp_path, cache, name, content, rule):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=rule) as caught:
        load(path, cache)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("column", ["text", "label"])
def test_parquet_strings_that_are_not_utf8(tmp_path, cache, column):
    columns = {"text": pa.array(["a", "b"]), "label": pa.array(["x", "y"])}
    columns[column] = pa.array([b"fine", b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=f"'{column}' must be UTF-8.*counted from 1: 2;"):
        load(tmp_path / "rows.parquet", cache)


def test_missing_file_and_missing_half_of_a_pair(tmp_path, cache):
    path = write(tmp_path / "rows.csv")
    with pytest.raises(InputError, match=re.escape(f"no such file: {tmp_path / 'other.csv'}")):
        load_texts("local", files=(path, tmp_path / "other.csv"), cache=cache)
    with pytest.raises(InputError, match="come in pairs"):
        load_texts("local", files=(path, None), cache=cache)


# ---- samples


def test_sample_is_the_stated_one_in_file_order(tmp_path, cache):
    path = write(tmp_path / "rows.csv", [f"row {i}" for i in range(100)], [0, 1] * 50)
    texts = load(path, cache, train_rows=30, test_rows=10, seed=7)
    chosen = sorted(np.random.default_rng(7).choice(100, 30, replace=False))
    assert texts.train_texts == [f"row {i}" for i in chosen]
    np.testing.assert_array_equal(texts.train_labels, np.array(chosen) % 2)
    assert len(texts.test_texts) == len(set(texts.test_texts)) == 10
    again = load(path, cache, train_rows=30, test_rows=10, seed=7)
    assert again.fingerprint == texts.fingerprint
    assert load(path, cache, train_rows=30, test_rows=10, seed=8).fingerprint != texts.fingerprint
    assert load(path, cache, train_rows=100).train_texts == load(path, cache).train_texts


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"train_rows": 5}, r"corpus.train_rows must be 1..4.*: 5"),
        ({"test_rows": 5}, r"corpus.test_rows must be 1..4.*: 5"),
        ({"train_rows": 0}, "corpus.train_rows must be 1..4"),
        ({"train_rows": 2}, "every class needs a train row.*raise corpus.train_rows"),
    ],
)
def test_impossible_samples(tmp_path, cache, options, rule):
    with pytest.raises(InputError, match=rule):
        load(write(tmp_path / "rows.csv"), cache, **options)


# ---- names


def test_built_in_corpus(cache, monkeypatch):
    monkeypatch.setattr(docstrings, "docstring_paragraphs", lambda _: (["a", "b", "c", "d"], [3, 0, 2, 1], ["e"], [2]))
    texts = load_texts("docstrings", cache=cache)
    assert texts.classes == ("python", "numpy", "jax", "transformers")
    np.testing.assert_array_equal(texts.train_labels, [3, 0, 2, 1])
    np.testing.assert_array_equal(texts.test_labels, [2])


# ---- folders


def write_folder(folder, suffix=".csv", **splits):
    """A folder as `datasets` understands it: files that are named as the splits."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (splits or {"train": (TEXTS, LABELS), "test": (TEXTS[1:], LABELS[1:])}).items():
        texts, labels = rows
        texts = ["not available" if text == "NA" else text for text in texts]  # which pandas reads as nothing
        write(folder / f"{split}{suffix}", texts, labels)
    return folder


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_folder_is_a_corpus(tmp_path, cache, suffix):
    folder = write_folder(tmp_path / "mine", suffix)
    (folder / "README.md").write_text("# Mine\n\nSee [the source](https://example.org): it is\n\n---\n")
    texts = load_texts(str(folder), cache=cache)
    assert texts.train_texts == [TEXTS[0], "not available", *TEXTS[2:]]
    assert texts.test_texts == ["not available", *TEXTS[2:]]
    np.testing.assert_array_equal(texts.train_labels, LABELS)
    assert (texts.name, texts.commit) == (str(folder), None)
    assert list(cache.iterdir()) == []  # what `datasets` made of it is not kept
    sliced = load_texts(str(folder), splits=("train[1:]", "train[:1]"), cache=cache)
    assert (sliced.train_texts, sliced.test_texts) == (texts.test_texts, TEXTS[:1])


def test_a_folder_is_named_from_the_working_directory(tmp_path, cache, monkeypatch):
    """`csv` is the name of a reader of `datasets`, too, and ag_news of a data set of the hub."""
    for name in ("csv", "ag_news"):
        write_folder(tmp_path / name, train=(["a", "b"], [0, 1]), test=(["c"], [0]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("csv", "./csv", "./ag_news", "~/csv"):
        assert load_texts(name, cache=cache).train_texts == ["a", "b"], name


def test_a_folder_that_changed_is_read_again_even_with_the_same_time_stamp(tmp_path, cache):
    folder = write_folder(tmp_path / "mine", train=(["old", "text"], [0, 1]), test=(["x"], [0]))
    stamp = (folder / "train.csv").stat()
    assert load_texts(str(folder), cache=cache).train_texts == ["old", "text"]
    write_folder(folder, train=(["new", "text"], [0, 1]))
    os.utime(folder / "train.csv", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert load_texts(str(folder), cache=cache).train_texts == ["new", "text"]


def test_a_folder_has_subsets(tmp_path, cache):
    for name, word in (("one", "first"), ("two", "second")):
        write_folder(tmp_path / "mine" / name, train=([word, "text"], [0, 1]), test=(["x"], [0]))
    files = "data_files: [{{split: train, path: {0}/train.csv}}, {{split: test, path: {0}/test.csv}}]"
    configs = "".join(f"- config_name: {name}\n  {files.format(name)}\n" for name in ("one", "two"))
    (tmp_path / "mine" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert load_texts(str(tmp_path / "mine"), subset="two", cache=cache).train_texts == ["second", "text"]
    with pytest.raises(InputError, match=r"subset None.*correct corpus.subset"):
        load_texts(str(tmp_path / "mine"), cache=cache)


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("place", ["http://127.0.0.1:9/x.csv", "hf://datasets/a/b/x.csv", "/etc/hosts", "../x.csv"])
def test_a_folder_leads_nowhere_else(tmp_path, cache, card, place):
    folder = write_folder(tmp_path / "mine", train=(["a", "b"], [0, 1]), test=(["c"], [0]))
    text = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: [train.csv, '{place}']\n"
    (folder / card).write_text(f"---\n{text}---\n# Card\n" if card == "README.md" else text)
    with pytest.raises(InputError, match=f"must be read from files of its own, and its card names '{place}'"):
        load_texts(str(folder), cache=cache)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda folder: (folder / "train.csv").unlink(), r"splits \('train', 'test'\).*correct corpus.subset or"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "cannot read the folder"),
        (lambda folder: write(folder / "test.csv", ["a", ""], [0, 1]), "empty text in column 'text': .*mine test"),
        (lambda folder: (folder / "train.csv").write_text("title,label\na,0\n"), "column names don't match"),
        (lambda folder: (folder / "mine.py").write_text("raise SystemExit"), "cannot read the folder"),
        (lambda folder: (folder / "README.md").write_text("---\n[\n---\n"), "cannot read the folder"),
        (lambda folder: (folder / "train.csv").write_bytes(b"text,label\n\xff,0\n"), "cannot read the folder"),
        (lambda folder: (folder / "state.json").write_text("{}"), "save_to_disk"),
    ],
    ids=["no train", "nothing", "no text", "other columns", "script", "card", "bytes", "saved"],
)
def test_a_folder_that_cannot_be_used(tmp_path, cache, change, rule):
    folder = write_folder(tmp_path / "mine", train=(["a", "b"], [0, 1]), test=(["c"], [0]))
    change(folder)
    with pytest.raises(InputError, match=rule):
        load_texts(str(folder), cache=cache)


def test_what_is_local_has_no_revision(tmp_path, cache):
    path = write(write_folder(tmp_path / "mine") / "train.csv")
    with pytest.raises(InputError, match=r"corpus\.revision=v1 is of a data set on the hub, not of local files; leave"):
        load_texts("fancyzhx/ag_news", files=(path, path), revision="v1", cache=cache)
    for name in ("docstrings", str(path.parent)):
        with pytest.raises(InputError, match=f"not of corpus.name={name}; leave it out"):
            load_texts(name, revision="v1", cache=cache)


# ---- tokens


def test_word_corpus_is_tokenised_once(cache, monkeypatch):
    texts = make_texts()
    first = word_corpus(texts, 5, 4, cache)
    np.testing.assert_array_equal(first.train_tokens, [[1, 3, 2, 0], [3, 2, 4, 0], [2, 4, 1, 0]])
    np.testing.assert_array_equal(first.test_tokens, [[1, 1, 0, 0]])
    assert first.vocabulary_size == 5
    assert word_corpus(texts, 20_000, 4, cache).vocabulary_size == 7
    monkeypatch.setattr(corpus, "encode_words", lambda *_: pytest.fail("tokenised again"))
    second = word_corpus(texts, 5, 4, cache)
    np.testing.assert_array_equal(second.train_tokens, first.train_tokens)
    np.testing.assert_array_equal(second.test_tokens, first.test_tokens)
    assert (second.fingerprint, second.vocabulary_size) == (first.fingerprint, 5)


def test_every_ingredient_changes_the_fingerprint(tmp_path, cache, monkeypatch):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    special = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"
    (folder / "vocab.txt").write_text(special + "a\nb\n")
    texts = make_texts()
    made = [word_corpus(texts, 5, 4, cache), word_corpus(texts, 6, 4, cache), word_corpus(texts, 5, 3, cache)]
    made += [subword_corpus(texts, folder, length, cache) for length in (4, 5)]
    np.testing.assert_array_equal(made[-1].train_tokens, [[2, 5, 6, 1, 3], [2, 6, 1, 1, 3], [2, 1, 1, 1, 3]])
    assert made[-1].vocabulary_size == 7
    (folder / "vocab.txt").write_text(special + "b\na\n")
    made.append(subword_corpus(texts, folder, 5, cache))
    np.testing.assert_array_equal(made[-1].test_tokens, [[2, 6, 1, 3, 0]])
    made.append(word_corpus(dataclasses.replace(texts, fingerprint="g"), 5, 4, cache))
    monkeypatch.setattr(corpus, "FORMAT_VERSION", corpus.FORMAT_VERSION + 1)
    made.append(word_corpus(texts, 5, 4, cache))
    assert len({c.fingerprint for c in made}) == len(made) == len(list(cache.iterdir()))


def test_a_damaged_token_file_is_made_again(cache, caplog):
    texts = make_texts()
    first = word_corpus(texts, 5, 4, cache)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"\x93NUMPY") + 140] ^= 255
    damages = [whole[: len(whole) // 2], b"", b"garbage", bytes(flipped)]
    for content in damages:
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            again = word_corpus(texts, 5, 4, cache)
        assert "is damaged" in caplog.text
        caplog.clear()
        np.testing.assert_array_equal(again.train_tokens, first.train_tokens)
        assert path.read_bytes() != content
    np.savez(path, train=first.train_tokens[:1], test=first.test_tokens, vocabulary_size=5)
    np.testing.assert_array_equal(word_corpus(texts, 5, 4, cache).train_tokens, first.train_tokens)
    assert "is damaged" in caplog.text
    assert list(cache.iterdir()) == [path]


def test_files_are_not_credited_to_the_built_in_corpus(tmp_path, cache):
    paths = []
    for name in ("train", "test"):
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text("text,label\none fine day,0\nanother fine day,1\n")
    named = {name: corpus.load_texts(name, files=tuple(paths), cache=cache).name for name in ("docstrings", "mine")}
    assert named == {"docstrings": f"{tmp_path.name}/train.csv", "mine": "mine"}
