"""Configs that are wrong, each in one way: every key with every kind of wrong value, and YAML that is none.

Each must be refused as a person's mistake, at once and without a file, a function or much memory being touched.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Case(NamedTuple):
    """A file and overrides of it."""

    name: str
    content: bytes
    overrides: list[str]


FILE = b"""name: study
corpus: {files: {train: a.csv, test: b.csv}}
models: {mine: {architecture: 'evil:function', options: {depth: 2}}}
"""
COUNTS = """corpus.train_rows corpus.test_rows num_clients rounds min_participant_rows partition.shards_per_client
local.epochs local.batch_size lanes checkpoints_kept max_cells models.mine.max_length models.mine.vocabulary_size
models.textcnn.max_length models.textcnn.vocabulary_size models.textcnn.embedding_size models.textcnn.filters
models.minilm.max_length models.minilm.lora_rank models.textcnn.local.epochs models.textcnn.local.batch_size"""
SEEDS = "seed partition_seed corpus.seed partition.min_client_rows"
POSITIVE = "alpha local.learning_rate models.minilm.lora_alpha models.minilm.local.learning_rate"
NOT_NEGATIVE = "local.weight_decay local.mu models.minilm.local.weight_decay models.textcnn.local.mu"
SHARES = """partition.holdout_fraction local.momentum models.textcnn.dropout models.minilm.dropout
models.minilm.lora_dropout models.minilm.attention_dropout models.minilm.head_dropout models.textcnn.local.momentum"""
TEXTS = """name corpus.name corpus.subset corpus.splits.train corpus.splits.test corpus.text_column corpus.label_column
corpus.files.train corpus.files.test models.minilm.weights"""
CHOICES = """model partition.kind local.optimizer models.textcnn.architecture
models.textcnn.compute_dtype models.minilm.compute_dtype models.mine.architecture"""
LISTS = "protocols corpus.classes models.textcnn.widths"
SECTIONS = """corpus corpus.splits corpus.files partition local models models.textcnn models.mine models.mine.local
models.minilm models.minilm.local grid"""

NO_NUMBER = "true; '3'; abc; ''; [1, 2]; {x: 1}; .nan; .inf; -.inf; 2024-01-01; !!binary aGk=; 1e400; [; '1; 1:30:x"
NO_COUNT = f"{NO_NUMBER}; 0; -1; 1.5; 2.0; 1e9; 10000000000; 1000000000000; 0xffffffffffffffffffff; {'9' * 5000}"
NO_TEXT = (
    r"""''; 3; 1.5; true; [a, b]; {x: 1}; 2024-01-01; .nan; "a\0b"; "a\nb"; "\e[31m"; "\ud800"; "\x7f"; !!set {a}"""
)
WRONG = {
    COUNTS: NO_COUNT,
    SEEDS: NO_COUNT.replace("; 0;", ";").replace("1e9;", "1e9; 2147483648;") + "; null",
    POSITIVE: f"{NO_NUMBER}; 0; -1; 1e30; null; {'9' * 5000}",
    NOT_NEGATIVE: f"{NO_NUMBER}; -1; -1e-9; 1e30; null",
    SHARES: f"{NO_NUMBER}; 1; 1.1; -0.1; 5; null",
    "local.learning_rate": "1e-300; 1e-40; 1e13",
    "participation": f"{NO_NUMBER}; 0; 1.1; -0.1; 5; null",
    TEXTS: f"{NO_TEXT}; {'x' * 5000}; *a; &a [*a]; '@; `",
    CHOICES: f"{NO_TEXT}; {'x' * 5000}; no_such; a:b:c; 'a:b c'; ../x:y; null",
    "rule": f"{NO_TEXT}; a:b:c; 'a:b c'; ../x:y; null; f(; f(a=1, a=2); f(a=1e400); f(a=1e30); f(a=.nan); f(1); f g",
    LISTS: f"{NO_TEXT.replace('[a, b]; ', '')}; []; [[]]; [1.5, 2.5]; [null, null]; [[1], [1]]; [{{}}, {{}}]; abc",
    SECTIONS: "3; abc; [1]; true; 2024-01-01; !!set {a}; {no_such: 1}; {1: 2}; {[a]: 1}; {null: 1}; {'': 1}; {<<: {}}",
    "corpus.classes": "[1]; [1, 1]; [a, b, a]; [1, '1']; [1.0, 2.0]; [yes, no]",
    "models.textcnn.widths": "[2, 2]; [3, 0]; [1000000000]; [3, null]",
    "protocols": "[global, global]; [label_match]; global; [null]; [evil:f, evil:f]",
    "local.drop_ragged": "3; abc; [true]; null; {x: 1}; .nan",
    "models.mine.options": "3; abc; [1]; true; 2024-01-01; {1: 2}; {[a]: 1}; {null: 1}; {'': 1}; {<<: {}}; {a: .nan}",
    "models.mine.options.depth": r".nan; -.inf; [1, [.nan]]; {a: {b: .inf}}; 2024-01-01; !!python/name:os.system",
    "name": r"""../../x; /tmp/x; a/b; .; ..; "a\u2028b"; "\u202eabc"; " "; """ + "é" * 150,
    "grid.seed": "[]; 3; [1, 1]; [1, null]; {a: 1}; [1, 2147483648]",
    "grid": "{seed: [1], 'seed, alpha': [[1, 2]]}; {'seed,seed': [[1, 2]]}; {local: [{}], local.mu: [0.0]}",
    "grid.name": "[a]",
    "grid.lanes": "[1]",
    "grid.max_cells": "[1]",
    "grid.alpha,": "[[1, 2]]",
}
# Overrides that are none, or of keys that are none.
OVERRIDES = r"""rounds; =3; =; ; a..b=1; .a=1; a.=1; grid.=1; grid..a=[1]; lr=0.1; models.mine.local.epochs.y=3; x.y.z=1
models..x=1; seed=1: 2; corpus.files=a.csv; local.epochs.y=1; grid.x.y=[1]; protocols.0=global"""
NESTED = 500
AXES = b"seed partition_seed corpus.seed num_clients rounds local.epochs local.batch_size alpha".split()
# Files by themselves.
FILES: dict[str, bytes] = {
    "empty": b"",
    "comment": b"# nothing\n",
    "scalar": b"name",
    "list": b"- name: study\n",
    "null": b"~",
    "two documents": b"name: a\n---\nname: b\n",
    "no name": b"alpha: 1\n",
    "NUL": b"name: a\0b\n",
    "escape": b"name: \x1b[31m\n",
    "tab": b"name: a\nlocal:\n\tepochs: 1\n",
    "no UTF-8": b"name: \xff\n",
    "UTF-16": "name: study\n".encode("utf-16"),
    "UTF-32": "name: study\n".encode("utf-32"),
    "zip": b"PK\x03\x04\x14\x00\x00\x00",
    "large": b"name: a\n#" + b"x" * 3_000_000,
    "many values": b"name: a\ncorpus: {classes: [" + b"1," * 120_000 + b"1]}",
    "deep lists": b"name: " + b"[" * NESTED + b"]" * NESTED,
    "deep mappings": b"name: a\nlocal: " + b"{a: " * NESTED + b"}" * NESTED,
    "deep blocks": b"".join(b" " * level + b"a:\n" for level in range(NESTED)),
    "deep dots": b"name: a\nlocal." + b".".join([b"a"] * 5000) + b": 1\n",
    "dots in a key": b"name: a\nlocal:\n  ? a" + b".a" * 100_000 + b"\n  : 1\n",
    "dots in an axis": b"name: a\ngrid:\n  ? a" + b".a" * 100_000 + b"\n  : [1]\n",
    "commas in an axis": b"name: a\ngrid:\n  ? seed" + b",a" * 100_000 + b"\n  : [1]\n",
    "deep keys": b"? " * NESTED + b"a",
    "open brackets": b"[" * 200_000,
    "billion laughs": b"a0: &a0 [x, x]\n"
    + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 60)),
    "billion merges": b"a0: &a0 {x: 1}\n"
    + b"".join(b"a%d: &a%d {<<: [*a%d, *a%d]}\n" % (i, i, i - 1, i - 1) for i in range(1, 60)),
    "aliases upon aliases": b"a0: &a0 [x]\n" + b"".join(b"a%d: &a%d [*a%d]\n" % (i, i, i - 1) for i in range(1, 2000)),
    "itself": b"name: a\nlocal: &a {x: *a}\n",
    "unknown alias": b"name: *a\n",
    "merge": b"name: a\nlocal: {<<: {epochs: 3}, epochs: 2}\n",
    "a key twice": b"name: a\nname: b\n",
    "twice in dots": b"name: a\nlocal: {epochs: 1}\nlocal.epochs: 2\n",
    "whole and in parts": b"name: a\nlocal: 3\nlocal.epochs: 2\n",
    "axis twice": b"name: a\ngrid: {local: {epochs: [1]}, local.epochs: [2]}\n",
    "number as a key": b"name: a\n1: x\n",
    "null as a key": b"name: a\nnull: x\n",
    "truth as a key": b"name: a\nyes: x\n",
    "list as a key": b"name: a\n[a]: x\n",
    "mapping as a key": b"name: a\n{a: b}: x\n",
    "base 60": b"name: a\nseed: 1" + b":1" * 100_000 + b"\n",
    "hexadecimal": b"name: a\nseed: 0x" + b"f" * 100_000 + b"\n",
    "long key": b"name: a\n? " + b"k" * 100_000 + b"\n: 1\n",
    "many keys": b"name: a\n" + b"".join(b"k%d: 1\n" % number for number in range(3000)),
    "eight axes of nine": b"name: a\ngrid:\n" + b"".join(b"  %s: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" % key for key in AXES),
    "model without a name": b"name: a\nmodels: {'': {architecture: textcnn}}\n",
    "model of control characters": b'name: a\nmodels: {"\\e[0m": {architecture: textcnn}}\n',
} | {
    f"tag {tag}": f"name: a\ncorpus: {{name: !!{tag} {value}}}\n".encode()
    for tag, value in {
        "binary": "aGk=",
        "set": "{a}",
        "omap": "[a: 1]",
        "pairs": "[a: 1]",
        "timestamp": "2024-01-01",
        "int": "''",
        "float": "''",
        "bool": "x",
        "str": "[a]",
        "map": "a",
        "null": "x",
        "python/name:os.system": "",
        "python/object:os.environ": "{}",
        "python/object/apply:os.getcwd": "[]",
        "python/object/new:dict": "[]",
        "python/module:os": "",
        "python/tuple": "[1]",
    }.items()
}


def cases() -> Iterator[Case]:
    """Every case once, always in the same order."""
    for keys, values in WRONG.items():
        for key in keys.split():
            for value in values.split("; "):
                yield Case(f"{key}={value:.40}", FILE, [f"{key}={value}"])
    for keys, values in list(WRONG.items())[:9]:  # single values, as an axis of the grid
        for key in keys.split():
            for value in values.split("; "):
                if key not in ("name", "lanes", "checkpoints_kept", "max_cells") and "null" not in value:
                    yield Case(f"grid.{key}=[{value:.40}]", FILE, [f"grid.{key}=[{value}]"])
    for text in OVERRIDES.replace("\n", "; ").split("; "):
        yield Case(f"override {text}", FILE, [text])
    yield Case("override of dots", FILE, ["grid." + "a." * 50_000 + "a=[1]"])
    for name, content in FILES.items():
        yield Case(name, content, [])
