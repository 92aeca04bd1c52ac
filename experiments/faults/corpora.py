"""Malformed corpora: small files of every format, each with what an honest reader may take from it.

`cases(seed)` yields `(name, files, truth)`. `files` are the bytes of one file by its name, used as both splits.
`truth` is the rows, (text, label) as strings; None means that the file has no reading and must be refused. A reader
may refuse any case; what it may not do is give other rows, raise something else, crash or hang.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[tuple[str, str]]
Case = tuple[str, dict[str, bytes], Rows | None]

TEXTS = ['plain, "quoted" text', "naïve café 中国", "two\nlines", "NA", "tab\there", "' single", "trailing space ", "0"]
LABELS = [0, 1, 1, 0, 1, 0, 0, 1]
ROWS = [(text, str(label)) for text, label in zip(TEXTS, LABELS, strict=True)]
FLIPS = 25  # mutations of each kind and format


def cases(seed: int) -> Iterator[Case]:
    """Hand-written cases, then FLIPS of each mutation of each format; the same ones for the same seed."""
    yield from _delimited()
    yield from _json()
    yield from _foreign()
    generator = np.random.default_rng(seed)
    for suffix, (content, read) in whole().items():
        for mutation in (_cut, _flip_bit, _flip_byte, _delete, _double, _insert):
            for number in range(FLIPS):
                changed = mutation(content, generator)
                yield f"{suffix} {mutation.__name__[1:]} {number}", {f"rows.{suffix}": changed}, read(changed)


def whole() -> dict[str, tuple[bytes, Callable[[bytes], Rows | None]]]:
    """Suffix -> a good file and an independent reader of it."""
    lines = b"".join(
        json.dumps({"text": text, "label": label}).encode() + b"\n" for text, label in zip(TEXTS, LABELS, strict=True)
    )
    array = json.dumps([json.loads(line) for line in lines.splitlines()], ensure_ascii=False).encode()
    file = io.BytesIO()
    pq.write_table(pa.table({"text": TEXTS, "label": LABELS}), file, write_page_checksum=True)
    return {
        "csv": (_write_csv(","), lambda content: read_csv(content, ",")),
        "tsv": (_write_csv("\t"), lambda content: read_csv(content, "\t")),
        "jsonl": (lines, lambda content: read_json(content, lines=True)),
        "json": (array, lambda content: read_json(content, lines=False)),
        "parquet": (file.getvalue(), lambda _: ROWS),  # its pages carry checksums: the rows as written, or none
    }


def read_csv(content: bytes, delimiter: str) -> Rows | None:
    """By the csv module, strictly; None if a row has other fields than the header, or any is unreadable."""
    csv.field_size_limit(10**9)
    try:
        rows = [
            row
            for row in csv.reader(
                io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=delimiter, strict=True
            )
            if row
        ]
        if any(len(row) != len(rows[0]) for row in rows) or min(map(rows[0].count, ("text", "label"))) < 1:
            return None
        return _usable([(row[rows[0].index("text")], row[rows[0].index("label")]) for row in rows[1:]])
    except (ValueError, csv.Error, IndexError):
        return None


def read_json(content: bytes, lines: bool) -> Rows | None:
    """By the json module; None if a row is no object with a string and an integer or a string."""
    try:
        text = content.decode("utf-8-sig")
        rows = json.loads("[" + re.sub(r"}\s*{", "},{", text) + "]" if lines else text)
        found = [(row["text"], row["label"]) for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(type(text) is str and type(label) in (int, str, bool) for text, label in found):
        return None
    return _usable([(text, str(label if type(label) is str else int(label))) for text, label in found])


def _usable(rows: Rows) -> Rows | None:
    """The rows if none is empty; spaces around integers are not part of them."""
    if not rows or not all(text.strip() and label for text, label in rows):
        return None
    if all(label.strip(" ").removeprefix("-").isdecimal() for _, label in rows):
        return [(text, label.strip(" ")) for text, label in rows]
    return rows


def _write_csv(delimiter: str) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([("text", "label"), *zip(TEXTS, LABELS, strict=True)])
    return file.getvalue().encode()


# ---- mutations of bytes


def _cut(content: bytes, generator: Any) -> bytes:
    return content[: generator.integers(len(content))]


def _flip_bit(content: bytes, generator: Any) -> bytes:
    changed = bytearray(content)
    changed[generator.integers(len(content))] ^= 1 << generator.integers(8)
    return bytes(changed)


def _flip_byte(content: bytes, generator: Any) -> bytes:
    changed = bytearray(content)
    changed[generator.integers(len(content))] ^= generator.integers(1, 256)
    return bytes(changed)


def _delete(content: bytes, generator: Any) -> bytes:
    start = generator.integers(len(content))
    return content[:start] + content[start + generator.integers(1, 20) :]


def _double(content: bytes, generator: Any) -> bytes:
    start = generator.integers(len(content))
    return content[:start] + content[start : start + generator.integers(1, 40)] + content[start:]


def _insert(content: bytes, generator: Any) -> bytes:
    start = generator.integers(len(content))
    odd = [
        b'"',
        b"\n",
        b"\r",
        b",",
        b"\t",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"null",
        b"[[",
        b"{",
        b"\\ud800",
        b"NaN",
        b"1e999",
    ]
    return content[:start] + odd[generator.integers(len(odd))] + content[start:]


# ---- by hand


def _delimited() -> Iterator[Case]:
    contents = {
        "one comma too many in every row": "text,label\na, b,0\nc, d,1\n",
        "one comma too many in the last row": "text,label\na,0\nb,1\nc, d,1\n",
        "one field too few": "text,label\na,0\nb\nc,1\n",
        "trailing commas": "text,label\na,0,\nb,1,\n",
        "a quote that never closes": 'text,label\na,0\n"b,1\nc,1\n',
        "text after a quote": 'text,label\n"a" b,0\nc,1\n',
        "no header": "a,0\nb,1\n",
        "two text columns": "text,text,label\na,b,0\nc,d,1\n",
        "a header alone": "text,label\n",
        "blank lines": "\n\ntext,label\n\na,0\n\nb,1\n\n",
        "a byte order mark": "\ufefftext,label\na,0\nb,1\n",
        "carriage returns alone": "text,label\ra,0\rb,1\r",
        "zero-padded labels": "text,label\na,01\nb,1\nc,01\n",
        "signed labels": "text,label\na,+1\nb,1\nc,0\n",
        "labels with spaces": "text,label\na, 1\nb,1\nc, 1\n",
        "labels beyond 64 bits": f"text,label\na,{10**30}\nb,{10**30 + 1}\n",
        "float labels": "text,label\na,0.0\nb,1.0\n",
        "nan labels": "text,label\na,0\nb,1\nc,nan\n",
        "boolean labels": "text,label\na,True\nb,False\n",
        "labels of two kinds": "text,label\na,0\nb,one\n",
        "labels like nothing": "text,label\na,None\nb,NA\nc,null\n",
        "a long text": f"text,label\n{'x' * 300_000},0\nb,1\n",
        "terminal escapes": "text,label\na,\x1b[31m[/x]\nb,1\n",
        "semicolons": "text;label\na;0\nb;1\n",
        "zero bytes": "text,label\na\0b,0\nc,1\n",
        "sixteen bits": "text,label\na,0\nb,1\n".encode("utf-16-le").decode("latin1"),
    }
    for name, content in contents.items():
        data = content.encode()
        yield f"csv {name}", {"rows.csv": data}, None if name.startswith("two text") else read_csv(data, ",")
    for encoding in ("utf-16", "utf-32", "latin1"):
        yield f"csv {encoding}", {"rows.csv": "text,label\né,0\nb,1\n".encode(encoding)}, None


def _json() -> Iterator[Case]:
    row = '{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n'
    odd = ["null", "1", "1.5", '"text"', "[]", "{}", "true", "[null]", "NaN", "", "{", '{"text": "c"}', '{"label": 1}']
    odd += [
        f'{{"text": {value}, "label": 1}}' for value in ("null", "1", "[]", "{}", '""', '"\\ud800"', '"\\u0000"', "NaN")
    ]
    odd += [
        f'{{"text": "c", "label": {value}}}'
        for value in ("null", "1.0", "[]", "{}", '""', "true", '"1"', "NaN", 10**400)
    ]
    odd += [
        '{"text": "c", "text": "d", "label": 1}',
        '{"label": 0, "text": "c", "label": 1}',
        '{"text": "c", "label": 1} x',
    ]
    odd += ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "9" * 10_000]
    for number, line in enumerate(odd):
        for place, content in {"first": f"{line}\n{row}", "last": f"{row}{line}\n", "only": f"{line}\n"}.items():
            data = content.encode()
            repeated = line.startswith(('{"text": "c", "text"', '{"label": 0'))
            yield f"jsonl odd {number} {place}", {"rows.jsonl": data}, None if repeated else read_json(data, lines=True)
    for name, content in {
        "dates": '[{"text": "2020-01-01", "label": "2020-01-01"}, {"text": "b", "label": "01"}]'
    }.items():
        yield f"json {name}", {"rows.json": content.encode()}, read_json(content.encode(), lines=False)


def _foreign() -> Iterator[Case]:
    """The content of one format under the name of another."""
    good = {suffix: content for suffix, (content, _) in whole().items()}
    for suffix in good:
        for other in ("csv", "jsonl", "parquet"):
            if {suffix, other} not in ({"csv"}, {"jsonl"}, {"parquet"}, {"json", "jsonl"}):
                yield f"{other} named {suffix}", {f"rows.{suffix}": good[other]}, None
        yield f"{suffix} empty", {f"rows.{suffix}": b""}, None
