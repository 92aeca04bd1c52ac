"""A study so small that a run takes a second, the numbers that an output folder holds, and what they are worth."""

import hashlib
import random
import tempfile
from pathlib import Path
from typing import Any

import server
from outcomes import Lab
from server import NOTHING, Ended, Fault

WORDS = {
    "apple": ("red", "green", "sweet", "tree", "fruit"),
    "car": ("wheel", "engine", "road", "drive", "fast"),
    "sea": ("wave", "fish", "salt", "boat", "deep"),
}
CONFIG = """
name: faults
corpus: {name: faults, files: {train: train.csv, test: test.csv}}
models:
  textcnn: {embedding_size: 4, filters: 2, widths: [2, 3], max_length: 8}
  bag: {architecture: "mine:bag", max_length: 8, options: {width: 3}}
model: bag
rule: mine:momentum(decay=0.5)
num_clients: 3
rounds: 3
alpha: 0.5
local: {batch_size: 8, epochs: 2, learning_rate: 0.3}
protocols: [train_rows, label_filtered, global]
grid: {seed: [1, 2]}
"""
MINE = '''
"""A person's own rule with a state, and an architecture."""

import jax
import jax.numpy as jnp

from fedjax_paradox.federated.types import Rule
from fedjax_paradox.models.base import Model


def momentum(decay):
    def aggregate(updates, velocity):
        weights = jnp.where(updates.mask, updates.rows, 0.0)
        weights = weights / weights.sum()

        def move(leaf, start, v):
            return decay * v + jnp.tensordot(weights, leaf, 1) - start

        velocity = jax.tree.map(move, updates.leaves, updates.start, velocity)
        return jax.tree.map(jnp.add, updates.start, velocity), velocity, {}

    return Rule(lambda global_: jax.tree.map(jnp.zeros_like, global_), aggregate)


def bag(vocabulary_size, num_classes, width):
    def init(key):
        table = jax.random.normal(key, (vocabulary_size, width))
        return {"adapter": table, "head": jnp.zeros((width, num_classes))}, {}

    def apply(trainable, frozen, tokens, key=None):
        return trainable["adapter"][tokens].mean(axis=1) @ trainable["head"]

    return Model(init, apply, lambda path: path[0].key == "adapter")
'''


def write(folder: Path) -> Path:
    """The study's files in `folder`; returns its config."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in corpus().items():
        (folder / name).write_bytes(content)
    (folder / "mine.py").write_text(MINE)
    (folder / "study.yaml").write_text(CONFIG)
    return folder / "study.yaml"


def corpus(seed: int = 0) -> dict[str, bytes]:
    """train.csv (60 rows) and test.csv (24); half of a row's words belong to its class."""
    generator = random.Random(seed)  # noqa: S311  (a study's data)
    every = [word for words in WORDS.values() for word in words]
    files = {}
    for name, rows in (("train.csv", 60), ("test.csv", 24)):
        labels = [list(WORDS)[row % 3] for row in range(rows)]
        texts = [generator.choices(WORDS[label], k=3) + generator.choices(every, k=3) for label in labels]
        lines = [f"{' '.join(words)},{label}" for words, label in zip(texts, labels, strict=True)]
        files[name] = "\n".join(["text,label", *lines, ""]).encode()
    return files


TABLES = ("clients.parquet", "cells.parquet", "participants.parquet")


def numbers(out: Path) -> dict[str, Any]:
    """What must not differ: the bytes of the tables without times, and every cell's newest round and its leaves."""
    from fedjax_paradox.storage import cells, checkpoint

    with tempfile.TemporaryDirectory() as aside:
        stored = checkpoint.restore(out / "checkpoints", [e.identity for e in cells.read(out).values()], Path(aside))
    tables = {
        name: _sha((out / name).read_bytes()) for name in ("clients.parquet", "cells.parquet", "participants.parquet")
    }
    return tables | {identity: [one.round, leaves(one.leaves)] for identity, one in sorted(stored.items())}


def leaves(held: dict[str, Any]) -> dict[str, str]:
    return {name: _sha(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes()) for name, leaf in sorted(held.items())}


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def run(out: str, *overrides: str) -> tuple[int, Any]:
    """In a child: (exit code, numbers) of the study's run in `out`."""
    code, _ = server.command("run", "study.yaml", *overrides, "--out", out)
    server.disarm()
    tempfile.tempdir = None  # the fault may have kept it from being found
    return code, numbers(Path(out)) if code in (0, 3) else None


def started(
    lab: Lab, out: Path, *overrides: str, cache: Path | None = None, scratch: Path | None = None, fault: Fault = NOTHING
) -> Ended:
    """`run` in a process of its own; temporary files go to `scratch`."""
    environment = {"FEDJAX_PARADOX_CACHE": str(cache or lab.cache)}
    if scratch:
        environment["TMPDIR"] = str(scratch)
    return server.call(run, str(out), *overrides, cwd=lab.study, fault=fault, environment=environment)
