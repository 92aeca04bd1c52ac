"""From cells to programs: what all cells of one compiled program share, and what is each cell's own.

Everything a person can get wrong about data, weights and names comes to light here, before any training.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_paradox.config import DROPOUT_RATES, Cell, CustomModel, TextCNN, parse_call, structure
from fedjax_paradox.data import partition as split
from fedjax_paradox.data.corpus import Corpus, Texts, load_texts, word_corpus, wordpiece_corpus
from fedjax_paradox.errors import InputError
from fedjax_paradox.evaluation.protocols import PROTOCOLS, Protocol
from fedjax_paradox.federated import schedule
from fedjax_paradox.federated.engine import Engine, RuleGroup, build_engine
from fedjax_paradox.federated.lanes import Data, Training
from fedjax_paradox.federated.local import OBJECTIVES
from fedjax_paradox.federated.rules import RULES
from fedjax_paradox.federated.types import Hyper, Rule, Tree
from fedjax_paradox.models.base import Model
from fedjax_paradox.models.distilbert import transformer
from fedjax_paradox.models.download import find_checkpoint, weights_digest
from fedjax_paradox.models.pretrained import load_checkpoint
from fedjax_paradox.models.textcnn import textcnn


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
    training: Training
    engine: Engine
    hyper: Hyper  # f32[P] each
    data: Data
    protocols: dict[str, Protocol]
    predicted: np.ndarray  # i32[rows], rows of `data` that the protocols read
    inputs: dict[str, str]  # content hashes of corpus and weights
    slots: int

    def initial(self) -> tuple[Tree, Tree]:
        """(global leaves [P, ...] from the cells' seeds, frozen leaves)."""
        # Stream 0 of a seed; the streams of rounds start at 1.
        keys = jnp.stack([jax.random.fold_in(jax.random.key(cell.seed), 0) for cell in self.cells])
        return jax.vmap(self.model.init, out_axes=(0, None))(keys)


def prepare(cells: Sequence[Cell], cache_folder: Path) -> list[Program]:
    """Groups cells by structure and loads what each group needs; the order of `cells` changes nothing.

    Raises:
      InputError: anything wrong with corpus, partition, weights, or a name in the config.
    """
    texts = cache(partial(read_texts, cache_folder))
    weights = cache(lambda name: (folder := find_checkpoint(name, cache_folder), *load_checkpoint(folder)))
    groups: dict[Any, list[Cell]] = {}
    # A checkpoint stacks the cells of a program, so a grid written in another order must stack them alike.
    for cell in sorted(cells, key=_order):
        groups.setdefault(structure(cell), []).append(cell)
    return [_program(tuple(group), texts, weights, cache_folder) for group in groups.values()]


def _order(cell: Cell) -> tuple:
    numbers = (cell.alpha, cell.num_clients, cell.partition_seed, cell.seed)
    return cell.model, cell.corpus.name, cell.rule, *numbers, cell.name


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
        raise InputError(f"unknown {what} {name!r}: {hint}; your own goes in as module:function")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{what} {name!r} cannot be imported ({error}); it must be module:function, the module in the "
            "working directory or on PYTHONPATH"
        ) from error
    if not callable(found):
        raise InputError(f"{what} {name!r} must be module:function, but {attribute} is {found!r}")
    return found


def read_texts(cache_folder: Path, corpus: Any) -> Texts:
    """Texts and labels of a `Cell.corpus`; InputError as from `load_texts`."""
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
    clients = tuple(divide(cell, corpus) for cell in cells)
    protocols = {name: resolve("protocol", name, PROTOCOLS) for name in shared.protocols}
    # A person's own protocol is a plain function; it may read anything.
    protocols = {n: p if isinstance(p, Protocol) else Protocol(p, ("train",)) for n, p in protocols.items()}
    objective = resolve("local.objective", shared.local.objective, OBJECTIVES)
    own = shared.local.objective not in OBJECTIVES or shared.local.optimizer != "sgd"
    # `sparse_step` knows what a row without data does under SGD and the objectives of `local`, not under others.
    training = Training(model.apply, objective, shared.local.optimizer, None if own else model.table)
    engine = build_engine(training, _rule_groups(cells, model))
    tokens, labels = (
        np.concatenate(pair).astype(np.int32)
        for pair in ((corpus.train_tokens, corpus.test_tokens), (corpus.train_labels, corpus.test_labels))
    )
    return Program(
        cells=cells,
        corpus=corpus,
        clients=clients,
        model=model,
        training=training,
        engine=engine,
        hyper=engine.replicate(_hyper(cells, model)),
        data=engine.replicate(Data(tokens, labels)),
        protocols=protocols,
        predicted=_predicted_rows(protocols, clients, corpus),
        inputs=inputs,
        slots=max(len(sampled(cell, one, 1)) for cell, one in zip(cells, clients, strict=True)),
    )


def _hyper(cells: Sequence[Cell], model: Model) -> Hyper:
    def array(values: Iterable[float]) -> jax.Array:
        return jnp.asarray(list(values), jnp.float32)

    local = {name: array(getattr(cell.local, name) for cell in cells) for name in Hyper._fields if name != "rates"}
    # A person's own architecture takes its settings from its options, and may have rates all the same.
    rates = {name: array(getattr(c.architecture, name, own) for c in cells) for name, own in model.rates.items()}
    return Hyper(**local, rates=rates)


def _corpus_and_model(cell: Cell, texts: Any, weights: Callable, folder: Path) -> tuple[Corpus, Model, dict[str, str]]:
    spec, classes = cell.architecture, len(texts.classes)
    if isinstance(spec, TextCNN | CustomModel):
        corpus = word_corpus(texts, spec.vocabulary_size, spec.max_length, folder)
        sizes = (corpus.vocabulary_size, classes)
        model = _textcnn(spec, *sizes) if isinstance(spec, TextCNN) else _custom_model(spec, *sizes)
        return corpus, model, {"corpus": corpus.fingerprint}
    checkpoint, sizes, frozen = weights(spec.weights)
    if spec.max_length > sizes.positions:
        raise InputError(
            f"models.{cell.model}.max_length must be at most {sizes.positions}, the positions of {spec.weights}, "
            f"got {spec.max_length}; lower it"
        )
    corpus = wordpiece_corpus(texts, checkpoint, spec.max_length, folder)
    options = ("lora_rank", "lora_alpha", *DROPOUT_RATES, "compute_dtype")
    model = transformer(sizes, frozen, classes, **{name: getattr(spec, name) for name in options})
    return corpus, model, {"corpus": corpus.fingerprint, "weights": weights_digest(checkpoint)}


def _textcnn(spec: TextCNN, vocabulary_size: int, classes: int) -> Model:
    if max(spec.widths) > spec.max_length:
        raise InputError(
            f"the widths of a textcnn must be at most its max_length={spec.max_length}, got {max(spec.widths)}; "
            "lower models.<name>.widths or raise models.<name>.max_length"
        )
    sizes = (vocabulary_size, classes, spec.embedding_size, spec.filters, tuple(spec.widths))
    return textcnn(*sizes, spec.dropout, spec.compute_dtype)


def _custom_model(spec: CustomModel, vocabulary_size: int, classes: int) -> Model:
    build = resolve("architecture", spec.architecture, {})
    arguments = {"vocabulary_size": vocabulary_size, "num_classes": classes, **spec.options}
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as error:
        raise InputError(
            f"architecture {spec.architecture!r} cannot be called with {', '.join(arguments)} ({error}); "
            "correct models.<name>.options"
        ) from error
    return build(**arguments)


def divide(cell: Cell, corpus: Corpus | Texts) -> Clients:
    """Which rows each client of a cell trains on and keeps out; needs labels alone.

    Raises:
      InputError: the partition cannot be made, or no client has enough rows to take part.
    """
    make = resolve("partition.kind", cell.partition.kind, split.PARTITIONERS)
    rows = make(
        labels=corpus.train_labels,
        num_clients=cell.num_clients,
        alpha=cell.alpha,
        seed=cell.partition_seed,
        shards_per_client=cell.partition.shards_per_client,
    )
    _check_partition(cell, rows, len(corpus.train_labels))
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


def _check_partition(cell: Cell, partition: Sequence[np.ndarray], rows: int) -> None:
    sound = len(partition) == cell.num_clients and all(
        isinstance(held, np.ndarray) and held.dtype.kind == "i" for held in partition
    )
    every = np.concatenate(partition) if sound else np.zeros(0, np.int64)
    if not sound or len(np.unique(every)) < len(every) or not ((every >= 0) & (every < rows)).all():
        raise InputError(
            f"partition.kind {cell.partition.kind!r} must return num_clients={cell.num_clients} integer arrays "
            f"of distinct rows in 0..{rows - 1}"
        )


def _rule_groups(cells: Sequence[Cell], model: Model) -> list[RuleGroup]:
    members: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for index, cell in enumerate(cells):
        name, numbers = parse_call(cell.rule)
        members.setdefault(name, []).append((index, numbers))
    groups = []
    for name, group in members.items():
        most = max(cell.num_clients for cell in cells)
        build = rule_builder(name, [numbers for _, numbers in group], model.is_adapter, most)
        hyper = {key: np.array([numbers[key] for _, numbers in group], np.float32) for key in group[0][1]}
        groups.append(RuleGroup(build, np.array([index for index, _ in group]), hyper))
    return groups


def rule_builder(
    name: str, calls: Sequence[Mapping[str, float]], is_adapter: Callable, num_clients: int
) -> Callable[..., Rule]:
    """The function of its hyper-parameters that makes a rule; InputError where a call's numbers do not fit.

    A rule that asks for `is_adapter`, or for `num_clients` to keep a state for each client, is given it.
    """
    build = resolve("rule", name, RULES)
    known = {"is_adapter": is_adapter, "num_clients": num_clients}
    build = partial(build, **{key: known[key] for key in known if key in inspect.signature(build).parameters})
    for numbers in calls:
        _check_arguments(name, build, numbers)
    return build


def _check_arguments(name: str, build: Callable, numbers: Mapping[str, float]) -> None:
    wanted = [p for p in inspect.signature(build).parameters if p not in ("is_adapter", "num_clients")]
    if sorted(numbers) != sorted(wanted):
        call = f"{name}({', '.join(f'{p}=0.5' for p in wanted)})" if wanted else name
        raise InputError(f"rule {name!r} takes {wanted or 'no numbers'}, got {sorted(numbers)}; write it as {call}")


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


def sampled(cell: Cell, clients: Clients, round_: int) -> np.ndarray:
    """The clients that take part in a round of a cell, ascending."""
    return schedule.sample_clients(clients.available, cell.participation, cell.seed, round_)
