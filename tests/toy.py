"""A study so small that a whole run takes a second: 60 train rows, 24 test rows, and a person's own module."""

import csv
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
from jax.experimental.compilation_cache import compilation_cache

from fedjax_paradox.config import Experiment, cells, load
from fedjax_paradox.storage import checkpoint
from fedjax_paradox.sweep.program import Program, prepare
from fedjax_paradox.sweep.run import run

WORDS = {
    "apple": ("red", "green", "sweet", "tree", "fruit"),
    "car": ("wheel", "engine", "road", "drive", "fast"),
    "sea": ("wave", "fish", "salt", "boat", "deep"),
}

# At alpha 0.1 and partition seed 15 the five clients train on 20, 1, 15, 0 and 14 rows.
CONFIG = """
name: toy
corpus: {{name: toy, files: {{train: {folder}/train.csv, test: {folder}/test.csv}}}}
models:
  textcnn: {{embedding_size: 4, filters: 2, widths: [2, 3], max_length: 8}}
  bag: {{architecture: "mine:bag", max_length: 8, options: {{width: 3}}}}
num_clients: 5
rounds: 3
partition: {{holdout_fraction: 0.2}}
partition_seed: 15
local: {{batch_size: 8, epochs: 2, learning_rate: 0.3}}
protocols: [train_rows, label_filtered, label_matched, holdout, global]
"""

MINE = '''
"""A person's own rule, objective, protocol, partition and architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_paradox.federated.types import Local, Rule
from fedjax_paradox.models.base import Model
from fedjax_paradox.models.textcnn import textcnn

NOT_A_FUNCTION = 3


def momentum(decay):
    """FedAvg with momentum on the server: a rule with a state."""

    def aggregate(updates, velocity):
        weights = jnp.where(updates.mask, updates.rows, 0.0)
        weights = weights / weights.sum()

        def move(leaf, start, v):
            return decay * v + jnp.tensordot(weights, leaf, 1) - start

        velocity = jax.tree.map(move, updates.leaves, updates.start, velocity)
        return jax.tree.map(jnp.add, updates.start, velocity), velocity, {}

    return Rule(lambda global_: jax.tree.map(jnp.zeros_like, global_), aggregate)


def last_seen(num_clients):
    """The mean over all clients of the leaves that each of them sent last, the first global ones before that."""

    def init(global_):
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_clients, *leaf.shape)), global_)

    def aggregate(updates, seen):
        seen = jax.tree.map(lambda old, new: old.at[updates.client].set(new), seen, updates.leaves)
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), seen), seen, {}

    return Rule(init, aggregate)


def frozen_head():
    """Cross-entropy, and a strong pull of the head to where it was."""

    def transform(client):
        def pull(gradients, params):
            return {**gradients, "head": gradients["head"] + 200.0 * (params["head"] - client.start["head"])}

        return optax.stateless(pull)

    return Local(transform=transform)


def l2(strength=0.1):
    """Cross-entropy + strength / 2 ||w||^2, whose gradient is that of a weight decay."""

    def transform(client):
        return optax.stateless(lambda grads, params: jax.tree.map(lambda g, w: g + strength * w, grads, params))

    return Local(transform=transform)


def clipped(hyper, most=1.0):
    """SGD on gradients of at most this norm."""
    return optax.chain(optax.clip_by_global_norm(most), optax.sgd(hyper.learning_rate))


def first_row(view, rows=1.0):
    """Each client's first train row alone, or first few."""
    first = [held[: int(rows)] for held in view.train_rows]
    correct = np.array([view.train_correct[rows].sum() for rows in first], np.float64)
    return correct, np.array([len(rows) for rows in first], np.int64)


def blocks(labels, num_clients, **_):
    return np.array_split(np.arange(len(labels)), num_clients)


def shifted(labels, num_clients, by=0.0, **_):
    return np.array_split(np.roll(np.arange(len(labels)), int(by)), num_clients)


def bag(vocabulary_size, num_classes, width):
    """A bag of words with an adapter and a frozen leaf."""
    scale = {"scale": jnp.linspace(0.5, 1.5, width)}

    def init(key):
        table = jax.random.normal(key, (vocabulary_size, width))
        return {"adapter": table, "head": jnp.zeros((width, num_classes))}, scale

    def apply(trainable, frozen, tokens, key=None):
        mean = trainable["adapter"][tokens].mean(axis=1) * frozen["scale"][None]
        if key is not None:
            mean = jnp.where(jax.random.bernoulli(key, 0.8, mean.shape), mean / 0.8, 0.0)
        return mean @ trainable["head"]

    return Model(init, apply, lambda path: path[0].key == "adapter")


def small(vocabulary_size, num_classes):
    """One of the package's models in a size of one's own."""
    return textcnn(vocabulary_size, num_classes, 4, 2, (2, 3), dropout=0.25)
'''


def write(folder: Path) -> Path:
    """The corpus, `mine.py` and `toy.yaml` in `folder`; returns the path of the last."""
    folder.mkdir(parents=True, exist_ok=True)
    write_corpus(folder)
    (folder / "mine.py").write_text(MINE)
    (folder / "toy.yaml").write_text(CONFIG.format(folder=folder))
    return folder / "toy.yaml"


def write_corpus(folder: Path, seed: int = 0) -> None:
    """train.csv and test.csv; classes take turns, half of a row's words belong to its class."""
    generator = random.Random(seed)  # noqa: S311  (a test's data)
    every = [word for words in WORDS.values() for word in words]
    for name, rows in (("train", 60), ("test", 24)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for row in range(rows):
                label = list(WORDS)[row % 3]
                words = generator.choices(WORDS[label], k=3) + generator.choices(every, k=3)
                writer.writerow([" ".join(words), label])


def study(config: Path, *overrides: str) -> tuple[Experiment, list[Program]]:
    experiment = load(config, overrides)
    return experiment, prepare(cells(experiment), config.parent / "cache")


def execute(config: Path, out: Path, *overrides: str, notify: Callable = lambda _: None) -> pa.Table:
    return run(*study(config, *overrides), out, notify)


def stored(out: Path, programs: list[Program], number: int = 0) -> tuple[int, list[np.ndarray]]:
    """(round, leaves of globals [P, ...], then of rule states) of a program's cells, from their newest checkpoint."""
    identities = programs[number].identities
    found = checkpoint.restore(out / "checkpoints", identities, out / "damaged")
    (round_,) = {one.round for one in found.values()}
    cells_ = [found[identity].leaves for identity in identities]
    names = sorted(set().union(*cells_))
    return round_, [np.stack([leaves[name] for leaves in cells_ if name in leaves]) for name in names]


def checkpoints(out: Path) -> Path:
    """The folder of the only group of cells in `out`: a folder for each round."""
    (group,) = (out / "checkpoints").iterdir()
    return group


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    """Equal to the bit."""
    return [a.tobytes() for a in one] == [b.tobytes() for b in other]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`; empty where there is none."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@contextmanager
def compilation_cached(folder: Path) -> Iterator[None]:
    """Runs of the same program share what XLA made of it, below `folder`; traces are counted as before."""
    before = {
        "jax_compilation_cache_dir": jax.config.jax_compilation_cache_dir,
        "jax_persistent_cache_min_compile_time_secs": jax.config.jax_persistent_cache_min_compile_time_secs,
        "jax_persistent_cache_min_entry_size_bytes": jax.config.jax_persistent_cache_min_entry_size_bytes,
    }
    for name, value in zip(before, (str(folder / "xla"), 0.0, -1), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX decides at its first compilation whether there is a cache
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
