"""From cells to programs: what all cells of one compiled program share, and what is each cell's own.

Everything a person can get wrong about data, weights and names comes to light here, before any training.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_paradox.config import Cell, CustomModel, TextCNN, parse_call, structure
from fedjax_paradox.data import partition as split
from fedjax_paradox.data.corpus import Corpus, load_texts, word_corpus, wordpiece_corpus
from fedjax_paradox.errors import InputError
from fedjax_paradox.evaluation.protocols import PROTOCOLS, Protocol, View
from fedjax_paradox.federated import schedule
from fedjax_paradox.federated.engine import Data, Engine, Participants, RuleGroup, build_engine
from fedjax_paradox.federated.local import OBJECTIVES
from fedjax_paradox.federated.rules import RULES
from fedjax_paradox.federated.types import Hyper, Tree
from fedjax_paradox.models.base import Model
from fedjax_paradox.models.distilbert import transformer
from fedjax_paradox.models.download import find_checkpoint, weights_digest
from fedjax_paradox.models.pretrained import load_checkpoint
from fedjax_paradox.models.textcnn import textcnn

PREDICT_BATCH = 64


class Clients(NamedTuple):
    """One cell's clients: K row-index arrays each, class counts i64[K, C], and who can take part."""

    train: split.Partition
    holdout: split.Partition
    class_counts: np.ndarray
    available: np.ndarray


class Program(NamedTuple):
    """Cells that share one compiled program, with all they need. Axes: P cells, K slots."""

    cells: tuple[Cell, ...]
    corpus: Corpus
    clients: tuple[Clients, ...]
    model: Model
    engine: Engine
    hyper: Hyper  # f32[P]
    data: Data
    protocols: dict[str, Protocol]
    predicted: np.ndarray  # i32[rows], rows of `data` that the protocols read
    inputs: dict[str, str]  # content hashes of corpus and weights
    slots: int

    def initial(self) -> tuple[Tree, Tree]:
        """(global leaves [P, ...] from the cells' seeds, frozen leaves)."""
        # Stream 0 of a seed; the streams of rounds start at 1.
        keys = jnp.stack([jax.random.fold_in(jax.random.key(cell.seed), 0) for cell in self.cells])
        return jax.vmap(lambda key: self.model.init(key)[0])(keys), self.model.init(keys[0])[1]


def prepare(cells: Sequence[Cell], cache_folder: Path) -> list[Program]:
    """Groups cells by structure, in the order of their first cell, and loads what each group needs.

    Raises:
      InputError: anything wrong with corpus, partition, weights, or a name in the config.
    """
    texts = cache(partial(_texts, cache_folder))
    weights = cache(lambda name: (folder := find_checkpoint(name, cache_folder), *load_checkpoint(folder)))
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(structure(cell), []).append(cell)
    return [_program(tuple(group), texts, weights, cache_folder) for group in groups.values()]


def resolve(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """The table's entry of that name, or what `module:function` points to.

    Raises:
      InputError: neither; names the nearest entry.
    """
    if name in table:
        return table[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        near = difflib.get_close_matches(name, table, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(table))}"
        raise InputError(f"unknown {what} {name!r}; {hint} Your own goes in as module:function")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{what} {name!r} cannot be imported ({error}); it must be module:function") from error


def _texts(cache_folder: Path, corpus: Any) -> Any:
    files = (corpus.files.train, corpus.files.test) if corpus.files.train or corpus.files.test else None
    return load_texts(
        corpus.name,
        files=files,
        subset=corpus.subset,
        splits=(corpus.splits.train, corpus.splits.test),
        text_column=corpus.text_column,
        label_column=corpus.label_column,
        classes=corpus.classes,
        train_rows=corpus.train_rows,
        test_rows=corpus.test_rows,
        seed=corpus.seed,
        cache=cache_folder,
    )


def _program(cells: tuple[Cell, ...], texts: Callable, weights: Callable, cache_folder: Path) -> Program:
    shared = cells[0]
    corpus, model, inputs = _corpus_and_model(shared, texts(shared.corpus), weights, cache_folder)
    clients = tuple(_clients(cell, corpus) for cell in cells)
    protocols = {name: resolve("protocol", name, PROTOCOLS) for name in shared.protocols}
    # A person's own protocol is a plain function; it may read anything.
    protocols = {n: p if isinstance(p, Protocol) else Protocol(p, ("train",)) for n, p in protocols.items()}
    objective = resolve("local.objective", shared.local.objective, OBJECTIVES)
    numbers = [[getattr(cell.local, name) for cell in cells] for name in Hyper._fields]
    tokens, labels = (
        jnp.asarray(np.concatenate(pair), jnp.int32)
        for pair in ((corpus.train_tokens, corpus.test_tokens), (corpus.train_labels, corpus.test_labels))
    )
    return Program(
        cells=cells,
        corpus=corpus,
        clients=clients,
        model=model,
        engine=build_engine(model.apply, objective, shared.local.optimizer, _rule_groups(cells, model)),
        hyper=Hyper(*jnp.asarray(numbers, jnp.float32)),
        data=Data(tokens, labels),
        protocols=protocols,
        predicted=_predicted_rows(protocols, clients, corpus),
        inputs=inputs,
        slots=max(len(_sampled(cell, one, 1)) for cell, one in zip(cells, clients, strict=True)),
    )


def _corpus_and_model(
    cell: Cell, texts: Any, weights: Callable, folder: Path
) -> tuple[Corpus, Model, dict[str, str]]:
    spec, classes = cell.architecture, len(texts.classes)
    if isinstance(spec, TextCNN | CustomModel):
        corpus = word_corpus(texts, spec.vocabulary_size, spec.max_length, folder)
        if isinstance(spec, TextCNN):
            sizes = (spec.embedding_size, spec.filters, tuple(spec.widths), spec.dropout)
            model = textcnn(corpus.vocabulary_size, classes, *sizes)
        else:
            build = resolve("architecture", spec.architecture, {})
            model = build(vocabulary_size=corpus.vocabulary_size, num_classes=classes, **spec.options)
        return corpus, model, {"corpus": corpus.fingerprint}
    checkpoint, sizes, frozen = weights(spec.weights)
    if spec.max_length > sizes.positions:
        raise InputError(
            f"models.{cell.model}.max_length must be at most {sizes.positions}, the positions of {spec.weights}, "
            f"got {spec.max_length}; lower it"
        )
    corpus = wordpiece_corpus(texts, checkpoint, spec.max_length, folder)
    options = ("lora_rank", "lora_alpha", "lora_dropout", "dropout", "attention_dropout", "head_dropout")
    model = transformer(sizes, frozen, classes, **{name: getattr(spec, name) for name in options})
    return corpus, model, {"corpus": corpus.fingerprint, "weights": weights_digest(checkpoint)}


def _clients(cell: Cell, corpus: Corpus) -> Clients:
    make = resolve("partition.kind", cell.partition.kind, split.PARTITIONERS)
    rows = make(
        labels=corpus.train_labels,
        num_clients=cell.num_clients,
        alpha=cell.alpha,
        seed=cell.partition_seed,
        shards_per_client=cell.partition.shards_per_client,
    )
    rows = split.repair_minimum(rows, cell.partition.min_client_rows, cell.partition_seed)
    train, holdout = split.split_holdout(rows, cell.partition.holdout_fraction, cell.partition_seed)
    counts = split.class_counts(train, corpus.train_labels, len(corpus.classes))
    available = np.flatnonzero(counts.sum(axis=1) >= cell.min_participant_rows)
    if len(available) == 0:
        raise InputError(
            f"cell {cell.name}: no client has min_participant_rows={cell.min_participant_rows} train rows "
            f"(the largest has {counts.sum(axis=1).max()}); lower it"
        )
    return Clients(train, holdout, counts, available)


def _rule_groups(cells: Sequence[Cell], model: Model) -> list[RuleGroup]:
    members: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for index, cell in enumerate(cells):
        name, numbers = parse_call(cell.rule)
        members.setdefault(name, []).append((index, numbers))
    groups = []
    for name, group in members.items():
        build = resolve("rule", name, RULES)
        if "is_adapter" in inspect.signature(build).parameters:
            build = partial(build, is_adapter=model.is_adapter)
        for _, numbers in group:
            _check_arguments(name, build, numbers)
        hyper = {key: np.array([numbers[key] for _, numbers in group], np.float32) for key in group[0][1]}
        groups.append(RuleGroup(build, np.array([index for index, _ in group]), hyper))
    return groups


def _check_arguments(name: str, build: Callable, numbers: Mapping[str, float]) -> None:
    wanted = [p for p in inspect.signature(build).parameters if p != "is_adapter"]
    if sorted(numbers) != sorted(wanted):
        call = f"{name}({', '.join(f'{p}=0.5' for p in wanted)})" if wanted else name
        raise InputError(
            f"rule {name!r} takes {wanted or 'no numbers'}, got {sorted(numbers)}; write it as {call}"
        )


def _predicted_rows(protocols: Mapping[str, Protocol], clients: Sequence[Clients], corpus: Corpus) -> np.ndarray:
    train = len(corpus.train_labels)
    needed = np.zeros(train + len(corpus.test_labels), bool)
    needed[train:] = True
    reads = {kind for protocol in protocols.values() for kind in protocol.reads}
    for one in clients:
        for kind in reads:
            for rows in getattr(one, kind):
                needed[rows] = True
    return np.flatnonzero(needed).astype(np.int32)


def _sampled(cell: Cell, clients: Clients, round_: int) -> np.ndarray:
    return schedule.sample_clients(clients.available, cell.participation, cell.seed, round_)


def job_lengths(program: Program) -> list[int]:
    """Steps of each job of round 1."""
    return [
        schedule.num_steps(
            len(one.train[client]), cell.local.epochs, cell.local.batch_size, cell.local.drop_ragged
        )
        for cell, one in zip(program.cells, program.clients, strict=True)
        for client in _sampled(cell, one, 1)
    ]


def plan_round(program: Program, round_: int) -> tuple[list[schedule.Job], Participants]:
    """The round's jobs, and who fills which slot; a pure function of the program and the round."""
    shape = (len(program.cells), program.slots)
    rows, mask = np.zeros(shape, np.float32), np.zeros(shape, bool)
    counts = np.zeros((*shape, len(program.corpus.classes)), np.float32)
    jobs = []
    for index, (cell, one) in enumerate(zip(program.cells, program.clients, strict=True)):
        for slot, client in enumerate(_sampled(cell, one, round_)):
            local, held = cell.local, one.train[client]
            settings = (local.epochs, local.batch_size, local.drop_ragged)
            steps = schedule.local_batches(held, *settings, cell.seed, round_, int(client))
            jobs.append(schedule.Job(index, index * program.slots + slot, int(client), cell.seed, steps))
            counts[index, slot], mask[index, slot] = one.class_counts[client], True
            rows[index, slot] = len(held)
    return jobs, Participants(rows, counts, mask)


def predict_batches(program: Program) -> np.ndarray:
    """i32[batches, B]: `predicted`, the last batch padded with row 0."""
    rows = program.predicted
    size = min(PREDICT_BATCH, len(rows))
    padded = np.zeros(-(-len(rows) // size) * size, np.int32)
    padded[: len(rows)] = rows
    return padded.reshape(-1, size)


def measure(program: Program, index: int, classes: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every protocol's (correct f64[K], total i64[K]) of one cell.

    Args:
      classes: i32[rows], the global model's class for each row of `predicted`.
    """
    corpus, one = program.corpus, program.clients[index]
    labels = np.concatenate([corpus.train_labels, corpus.test_labels])
    correct = np.zeros(len(labels), bool)
    correct[program.predicted] = labels[program.predicted] == classes
    train = len(corpus.train_labels)
    view = View(
        correct[:train],
        correct[train:],
        corpus.train_labels,
        corpus.test_labels,
        one.train,
        one.holdout,
        len(corpus.classes),
    )
    return {name: protocol.counts(view) for name, protocol in program.protocols.items()}
