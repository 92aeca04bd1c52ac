"""Files of texts and labels are read to the letter or refused by row: nothing is guessed, lost or converted."""

import json
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedjax_paradox.data.corpus import load_texts
from fedjax_paradox.errors import InputError

CORPORA = Path(__file__).parent.parent / "experiments" / "faults" / "corpora.py"


def rows(path: Path, **options: object) -> list[tuple[str, str]]:
    """What the package reads: (text, class name) of every row."""
    texts = load_texts("local", files=(path, path), cache=path.parent / "cache", **options)  # type: ignore[arg-type]
    return [(text, texts.classes[label]) for text, label in zip(texts.train_texts, texts.train_labels, strict=True)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path: Path, content: str | bytes, rule: str) -> str:
    with pytest.raises(InputError, match=rule) as caught:
        rows(write(path, content))
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("a.csv", "text,label\nlost, a,0\nlost, b,1\n", r"row 1, which ends in line 2, has 3 fields and the header 2"),
        ("a.tsv", "text\tlabel\nlost\ta\t0\nlost\tb\t1\n", r"row 1, .* line 2, .*column 3 is one too many"),
        ("a.csv", "text,label\na,0\nb,1,\n", r"row 2, .* line 3, has 3 fields"),
        ("a.csv", "text,label\na,0\nb\n", r"row 2, .* line 3, has 1 fields .*column 2 is missing"),
        ("a.csv", 'text,label\n"a\nb",0\nc, d,1\n', r"row 2, .* line 4, has 3 fields"),
        ("a.csv", 'text,label\na,0\n"b,1\nc,1\n', r"row 2, line 4: unexpected end of data"),
        ("a.csv", 'text,label\n"a" film,0\nb,1\n', r"row 1, line 2: .*expected after.*doubled"),
        ("a.csv", "text,text,label\na,b,0\nc,d,1\n", r"2 columns 'text'; rename"),
        ("a.csv", "text,label\na,0\nb,1\nc,nan\n", r"label missing.*counted from 1: 3;"),
    ],
)
def test_a_table_whose_rows_do_not_fit_its_header(tmp_path: Path, name: str, content: str, rule: str) -> None:
    refused(tmp_path / name, content, rule)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["01", "1", "01"], ["01", "1", "01"]),
        (["+1", "1", "0"], ["+1", "1", "0"]),
        ([" 1", "0", "1 "], ["1", "0", "1"]),
        (["True", "False", "True"], ["True", "False", "True"]),
        (["1", "one", "2"], ["1", "one", "2"]),
        ([str(10**30), str(10**30 + 1), "5"], [str(10**30), str(10**30 + 1), "5"]),
    ],
)
def test_labels_of_a_csv_are_integers_if_all_are_written_so_and_else_stay_as_written(
    tmp_path: Path, written: list[str], expected: list[str]
) -> None:
    path = write(tmp_path / "a.csv", "text,label\n" + "".join(f"t,{label}\n" for label in written))
    assert [label for _, label in rows(path)] == expected


def test_a_later_part_of_a_long_file_is_read_like_the_first(tmp_path: Path) -> None:
    labels = ["7"] * 30_000 + ["007"] + ["x"] * 3
    path = write(tmp_path / "a.csv", "text,label\n" + "".join(f"t{i},{label}\n" for i, label in enumerate(labels)))
    assert rows(path) == [(f"t{i}", label) for i, label in enumerate(labels)]


def test_json_strings_stay_strings(tmp_path: Path) -> None:
    labels = ["2020-01-01", "01", "1"]
    content = json.dumps([{"text": text, "label": label} for text, label in zip(labels, labels, strict=True)])
    assert rows(write(tmp_path / "a.json", content)) == [(label, label) for label in labels]


@pytest.mark.parametrize("line", ["null", "1", '"text"', "[]", "true", "[null]", "3.5"])
@pytest.mark.parametrize("place", [0, 2])
def test_json_rows_that_are_no_objects(tmp_path: Path, line: str, place: int) -> None:
    lines = ['{"text": "a", "label": 0}', '{"text": "b", "label": 1}']
    lines.insert(place, line)
    message = refused(tmp_path / "a.jsonl", "\n".join(lines), "every row must be a JSON object")
    assert f"counted from 1: {place + 1};" in message


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("[" * 100_000, r"row 2, which begins in line 2: nested too deeply"),
        ('{"a": ' * 50_000, r"row 2, which begins in line 2: nested too deeply"),
        ('{"text": "a", "text": "b", "label": 1}', r"row 2, .* 'text' stands twice"),
        ('{"text": 3, "label": 1}', r"texts must be strings: column 'text' has int: .*: 2;"),
        ('{"text": "b", "label": "1"}', r"column 'label' has int and str: .*: 2;"),
        ('{"text": "b", "label": 1.0}', r"column 'label' has float and int: .*: 2;"),
        ('{"text": "b", "label": true}', r"column 'label' has bool and int: .*: 2;"),
        ('{"text": "b", "label": NaN}', r"label missing.*: 2;"),
        ('{"text": "\\ud83d", "label": 1}', r"half of a surrogate pair in column 'text': .*: 2;"),
    ],
)
def test_json_values_that_cannot_be_used(tmp_path: Path, line: str, rule: str) -> None:
    refused(tmp_path / "a.jsonl", f'{{"text": "a", "label": 0}}\n{line}\n', rule)


def test_parquet_pages_with_a_wrong_checksum_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["a needle", "b"], "label": [0, 1]})
    pages = {"write_page_checksum": True, "write_statistics": False}
    pq.write_table(table, path, compression="NONE", use_dictionary=False, **pages)
    assert rows(path) == [("a needle", "0"), ("b", "1")]
    refused(path, path.read_bytes().replace(b"needle", b"noodle"), "no rows that can be read as parquet: .*checksum")


def test_a_class_label_beyond_its_names(tmp_path: Path) -> None:
    feature = {"info": {"features": {"label": {"names": ["x", "y"], "_type": "ClassLabel"}}}}
    table = pa.table({"text": ["a", "b", "c"], "label": [0, 1, 2]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(feature)}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"outside the 2 names of column 'label': .*: 3;"):
        rows(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_folder_or_an_impossible_name_in_place_of_a_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").mkdir()
    for name in (f"a.{suffix}", f"{'a' * 5000}.{suffix}", f"a\0.{suffix}"):
        with pytest.raises(InputError, match="no such file"):
            rows(tmp_path / name)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_that_may_not_be_read(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / f"a.{suffix}", "text,label\n")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Not by its mode, which the superuser does not heed.
    monkeypatch.setattr(Path, "open", forbidden)
    monkeypatch.setattr(pq, "ParquetFile", forbidden)
    with pytest.raises(InputError, match=rf"a.{suffix} cannot be read \(Permission denied\)"):
        rows(path)


def test_what_a_file_says_is_escaped_in_messages(tmp_path: Path) -> None:
    hostile = "\x1b[31m[/x]"
    path = tmp_path / "a.csv"
    table = f"text,label\na,{hostile}\nb,1\n"
    messages = [
        refused(path, f"{hostile},label\na,0\nb,1\n", "no column 'text'"),
        refused(path, f"text,label\na,{hostile}\nb,{hostile}\n", "two classes"),
        refused(tmp_path / "a.json", json.dumps([{"text": "a", hostile: 0}]), "no column 'label'"),
        refused(tmp_path / "a.jsonl", f'{{"{hostile.replace(chr(27), "u001b")}": 1', "json"),
    ]
    for classes in ([1, 2], [hostile, 1, "\x1b"]):
        with pytest.raises(InputError) as caught:
            rows(write(path, table), classes=classes)
        messages.append(str(caught.value))
    assert not any("\x1b" in message for message in messages)


def test_mutated_files_give_their_rows_or_are_refused(tmp_path: Path) -> None:
    cases = runpy.run_path(str(CORPORA))["cases"]
    outcomes = {"equal": 0, "refused": 0}
    for name, files, truth in cases(seed=20):
        ((file, content),) = files.items()
        path = write(tmp_path / file, content)
        try:
            found = rows(path)
        except InputError:
            outcomes["refused"] += 1
            continue
        assert found == truth, name
        outcomes["equal"] += 1
    assert min(outcomes.values()) > 150, outcomes


def test_a_large_file_needs_seconds(tmp_path: Path) -> None:
    import time

    labels = np.random.default_rng(0).integers(0, 4, 120_000)
    lines = [f'"text {i}, with a comma and ""quotes""",{label}\n' for i, label in enumerate(labels)]
    path = write(tmp_path / "a.csv", "text,label\n" + "".join(lines))
    start = time.process_time()
    assert len(rows(path)) == 120_000
    assert time.process_time() - start < 20
