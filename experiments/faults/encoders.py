"""Broken checkpoint folders, made from the files of a good one.

`cases(good, seed)` yields `(name, files)`; `good` and `files` are bytes by file name: config.json (of BERT or
DistilBERT), model.safetensors, and tokenizer.json or vocab.txt. A reader must refuse each, or read the weights of the
good one from it. Token ids may differ where the tokenizer is broken: they come with a digest of its file.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

Files = dict[str, bytes]

ODD = [10**9, 10**30, 0, -1, 3.5, True, None, "six", [], {}, float("nan"), float("inf"), "9" * 5000]
FLIPS = 25


def cases(good: Files, seed: int) -> Iterator[tuple[str, Files]]:
    """The same ones for the same seed."""
    generator = np.random.default_rng(seed)
    for name in good:
        yield f"no {name}", {other: content for other, content in good.items() if other != name}
        for number, content in enumerate((b"", b"{}", b"[]", b"null", b"[" * 200_000, b"\xff\xfe", b"\0" * 64)):
            yield f"{name} foreign {number}", good | {name: content}
        for number in range(FLIPS):
            yield f"{name} cut {number}", good | {name: good[name][: generator.integers(len(good[name]))]}
    yield from _configs(good)
    yield from _tensors(good, generator)
    for name in {"tokenizer.json"} & set(good):
        yield from _trees(good, name, generator)


def _configs(good: Files) -> Iterator[tuple[str, Files]]:
    config = json.loads(good["config.json"])
    for key in [*config, "layer_norm_eps", "position_embedding_type", "is_decoder"]:
        for value in ODD:
            yield f"config {key}={value!r:.20}", good | {"config.json": json.dumps(config | {key: value}).encode()}
        missing = {name: value for name, value in config.items() if name != key}
        yield f"config without {key}", good | {"config.json": json.dumps(missing).encode()}


def _tensors(good: Files, generator: Any) -> Iterator[tuple[str, Files]]:
    content = good["model.safetensors"]
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]

    def packed(changed: Any) -> Files:
        written = json.dumps(changed).encode()
        return good | {"model.safetensors": struct.pack("<Q", len(written)) + written + data}

    for number in range(4 * FLIPS):
        place = int(generator.integers(8 + size))
        flipped = content[:place] + bytes([content[place] ^ int(generator.integers(1, 256))]) + content[place + 1 :]
        yield f"tensors flip {number}", good | {"model.safetensors": flipped}
    names = [name for name in header if name != "__metadata__"]
    for number in range(FLIPS):
        name = names[generator.integers(len(names))]
        for key, value in (
            ("shape", [10**9, 10**9]),
            ("shape", []),
            ("shape", [-1]),
            ("dtype", "I8"),
            ("dtype", "F64"),
        ):
            yield f"tensors {number} {key}={value}", packed(header | {name: header[name] | {key: value}})
        yield f"tensors {number} offsets", packed(header | {name: header[name] | {"data_offsets": [0, 10**15]}})
        yield f"tensors {number} missing", packed({n: entry for n, entry in header.items() if n != name})
        yield f"tensors {number} renamed", packed({f"\x1b[31m{n}" if n == name else n: e for n, e in header.items()})
    for number, value in enumerate((np.nan, np.inf, -np.inf)):
        first = header[names[0]]["data_offsets"][0]
        broken = data[:first] + np.float32(value).tobytes() + data[first + 4 :]
        yield f"tensors not finite {number}", good | {"model.safetensors": content[: 8 + size] + broken}
    sharded = {"weight_map": dict.fromkeys(names, "../../outside.safetensors")}
    rest = {name: content for name, content in good.items() if name != "model.safetensors"}
    yield "tensors in another folder", rest | {"model.safetensors.index.json": json.dumps(sharded).encode()}


def _trees(good: Files, name: str, generator: Any) -> Iterator[tuple[str, Files]]:
    """A JSON file with one of its values replaced."""
    for number in range(8 * FLIPS):
        tree = json.loads(good[name])
        node = tree
        while True:
            key = list(node)[generator.integers(len(node))] if isinstance(node, dict) else generator.integers(len(node))
            if not isinstance(node[key], dict | list) or not node[key] or generator.random() < 0.2:
                break
            node = node[key]
        node[key] = ODD[generator.integers(len(ODD))]
        yield f"{name} tree {number} {key}={node[key]!r:.20}", good | {name: json.dumps(tree).encode()}
