"""From cells to programs: what all cells of one compiled program share, and what is each cell's own.

Everything a person can get wrong about data, weights and names comes to light here, before any training.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_paradox.config import Cell, Transformer, parse_call, structure
from fedjax_paradox.data.corpus import Corpus
from fedjax_paradox.errors import InputError
from fedjax_paradox.evaluation.protocols import PROTOCOLS, Protocol, View
from fedjax_paradox.federated.lazy import trainer_of
from fedjax_paradox.federated.packing.engine import Engine, build_engine
from fedjax_paradox.federated.packing.schedule import local_batches
from fedjax_paradox.federated.trainer import Data, Trainer, Training
from fedjax_paradox.federated.types import Hyper, Local, Rule, Size, Tree
from fedjax_paradox.models.base import Model
from fedjax_paradox.models.download import commit_of, find_checkpoint
from fedjax_paradox.models.pretrained import load_checkpoint
from fedjax_paradox.sweep.architectures import corpus_and_model
from fedjax_paradox.sweep.cell_rules import RuleCall, owning, rule_calls, rule_groups, trainable_shapes
from fedjax_paradox.sweep.checks import check_counts, check_objective, check_optimizer
from fedjax_paradox.sweep.clients import Clients, attending, divide, read_texts
from fedjax_paradox.sweep.extensions import is_alone, objective_builder, optimizer_builder, protocol_of
from fedjax_paradox.sweep.identities import hashed
from fedjax_paradox.sweep.sizes import PLACES_STEP, batch_needs, fullest, row_needs, step_sizes

# Settings of `local` that are numbers of `Hyper`.
LOCAL_NUMBERS = ("learning_rate", "momentum", "weight_decay", "mu")


class Twin(NamedTuple):
    """A cell that is the same run as one of a program's cells by construction: it is not trained, but reported."""

    cell: Cell
    identity: str
    of: int  # the cell's index


class Program(NamedTuple):
    """Cells that share one compiled program, with all they need. Axes: P cells, K slots."""

    cells: tuple[Cell, ...]
    identities: tuple[str, ...]  # of every cell: hash of all that decides its numbers
    twins: tuple[Twin, ...]
    corpus: Corpus
    clients: tuple[Clients, ...]
    model: Model
    trainer: Trainer
    rules: tuple[RuleCall, ...]  # of every cell
    engine: Engine
    hyper: Hyper  # f32[P] each
    data: Data
    protocols: dict[str, Protocol]
    predicted: np.ndarray  # i32[rows], rows of `data` that the protocols read
    inputs: dict[str, str]  # content hashes of corpus and weights
    commits: dict[str, str]  # of those that are from the hub
    slots: int

    def initial(self) -> tuple[Tree, Tree]:
        """(global leaves [P, ...] from the cells' seeds, frozen leaves)."""
        # Stream 0 of a seed; the streams of rounds start at 1.
        keys = jnp.stack([jax.random.fold_in(jax.random.key(cell.seed), 0) for cell in self.cells])
        return jax.vmap(self.model.init, out_axes=(0, None))(keys)


def prepare(cells: Sequence[Cell], cache_folder: Path, backend: str | None = None) -> list[Program]:
    """Groups cells by structure and loads what each group needs; the order of `cells` changes nothing.

    Args:
      backend: of the devices that it is to be compiled for; None: those that are here.

    Raises:
      InputError: anything wrong with corpus, partition, weights, or a name in the config.
    """
    texts = cache(partial(read_texts, cache_folder))
    weights = cache(
        lambda name, revision: (folder := find_checkpoint(name, cache_folder, revision), *load_checkpoint(folder))
    )
    groups: dict[Any, list[Cell]] = {}
    # The order of jobs decides the last bits of a sum, so a grid written in another order must have them alike.
    for cell in sorted(cells, key=_order):
        rule, numbers = parse_call(cell.rule)
        # What is sent may come from a state of each client, whose size is structure.
        alone = (rule, cell.num_clients) if is_alone(rule, numbers) else ""
        groups.setdefault((*structure(cell), alone), []).append(cell)
    on_cpu = (backend or jax.default_backend()) == "cpu"
    return _distinct([_program(tuple(group), texts, weights, cache_folder, on_cpu) for group in groups.values()])


def _distinct(programs: list[Program]) -> list[Program]:
    """The programs with identities that differ: one run of 10 and one of 20 rounds in one grid are two.

    Raises:
      InputError: two cells differ in the places of their files alone.
    """
    every = [identity for p in programs for identity in (*p.identities, *(twin.identity for twin in p.twins))]
    repeated = {identity for identity in every if every.count(identity) > 1}

    def told(cell: Cell, identity: str) -> str:
        return f"{identity}-{cell.rounds}" if identity in repeated else identity

    found = [
        program._replace(
            identities=tuple(map(told, program.cells, program.identities)),
            twins=tuple(twin._replace(identity=told(twin.cell, twin.identity)) for twin in program.twins),
        )
        for program in programs
    ]
    names: dict[str, str] = {}
    for program in found:
        own = [(c.name, i) for c, i in zip(program.cells, program.identities, strict=True)]
        for name, run in own + [(twin.cell.name, twin.identity) for twin in program.twins]:
            other = names.setdefault(run, name)
            if other != name:
                raise InputError(f"cells {other!r} and {name!r} are the same run; remove one from the grid")
    return found


def _order(cell: Cell) -> tuple:
    numbers = (cell.alpha, cell.num_clients, cell.partition_seed, cell.seed)
    return cell.model, cell.corpus.name, cell.rule, *numbers, cell.name


def _program(cells: tuple[Cell, ...], texts: Callable, weights: Callable, cache_folder: Path, on_cpu: bool) -> Program:
    shared = cells[0]
    corpus, model, inputs = corpus_and_model(shared, texts(shared.corpus), weights, cache_folder)
    clients = tuple(divide(cell, corpus) for cell in cells)
    model = owning(shared, model)
    rules = rule_calls(cells, model, len(corpus.classes))
    needs = row_needs(corpus.train_tokens, model.trailing)
    sizes = _sizes(cells, clients, [rule for rule, _ in rules], needs, on_cpu) if model.packs else ()
    trainer = _trainer(shared, model, rules[0][0].rule, len(corpus.classes), sizes)
    tokens, labels = (
        np.concatenate(pair).astype(np.int32)
        for pair in ((corpus.train_tokens, corpus.test_tokens), (corpus.train_labels, corpus.test_labels))
    )
    whole = Program(
        cells=cells,
        identities=tuple(hashed(cell, inputs) for cell in cells),
        twins=(),
        corpus=corpus,
        clients=clients,
        model=model,
        trainer=trainer,
        rules=tuple(rule for rule, _ in rules),
        engine=build_engine(trainer, model.apply, rule_groups([rule for rule, _ in rules])),
        hyper=_hyper(cells, model),
        data=Data(tokens, labels),
        protocols=_protocols(shared, corpus, clients),
        predicted=np.zeros(0, np.int32),
        inputs=inputs,
        commits=_commits(shared, texts, weights),
        slots=0,
    )
    first: dict[Any, int] = {}
    of = [first.setdefault(_alike(whole, index, text), index) for index, (_, text) in enumerate(rules)]
    trained = sorted(set(of))
    twins = [Twin(cells[i], whole.identities[i], trained.index(of[i])) for i in range(len(cells)) if of[i] != i]
    data = whole.engine.replicate(whole.data)
    return part(whole._replace(data=data), trained)._replace(twins=tuple(twins))


def _sizes(
    cells: Sequence[Cell], clients: Sequence[Clients], rules: Sequence[RuleCall], needs: np.ndarray, on_cpu: bool
) -> tuple[Size, ...]:
    """`step_sizes`, from the first epoch of all first local updates, and from the longest rows of each client."""
    size, found, most = cells[0].local.batch_size, [], PLACES_STEP
    for cell, one, call in zip(cells, clients, rules, strict=True):
        first = attending(cell, one, call.rule.pooled, 1)
        for each in first:
            drop = cell.local.drop_ragged
            batches = local_batches(each.rows, 1, size, drop, seed=cell.seed, round_=1, client=each.client)
            found.append(batch_needs(needs, batches))
        most = max(most, fullest(needs[:, 0], [each.rows for each in first] if call.rule.pooled else one.train, size))
    length = int(needs[:, 1].max())
    whole = Size(min(-(-most // PLACES_STEP) * PLACES_STEP, size * length), length)
    return step_sizes(np.concatenate(found), whole, on_cpu)


def _commits(shared: Cell, texts: Callable, weights: Callable) -> dict[str, str]:
    found, spec = {"corpus": texts(shared.corpus).commit}, shared.architecture
    if isinstance(spec, Transformer):
        found["weights"] = commit_of(spec.weights, weights(spec.weights, spec.revision)[0])
    return {name: commit for name, commit in found.items() if commit}


def _trainer(shared: Cell, model: Model, rule: Rule, classes: int, sizes: tuple[Size, ...]) -> Trainer:
    """How the clients of cells that share a program train."""
    name, numbers = parse_call(shared.local.objective)
    objective = objective_builder(name, numbers)
    check_objective(name, objective, list(numbers), trainable_shapes(model), classes)
    named, others = parse_call(shared.local.optimizer)
    optimizer = optimizer_builder(named, others)
    check_optimizer(named, optimizer, list(others), trainable_shapes(model))
    own, method = tuple(sorted(numbers)), rule.local or Local()
    table = model.table if rule.start is None else None  # a lazy table starts from the globals
    return trainer_of(Training(model.apply, objective, optimizer, own, tuple(sorted(others)), method, sizes), table)


def part(program: Program, chosen: Sequence[int]) -> Program:
    """Some cells of a program, as a program; its twins are left out."""
    cells, clients = tuple(program.cells[i] for i in chosen), tuple(program.clients[i] for i in chosen)
    rules = tuple(program.rules[i] for i in chosen)
    engine = build_engine(program.trainer, program.model.apply, rule_groups(rules))
    hyper = jax.tree.map(lambda values: np.asarray(values)[np.array(chosen)], program.hyper)
    return program._replace(
        cells=cells,
        identities=tuple(program.identities[i] for i in chosen),
        twins=(),
        clients=clients,
        rules=rules,
        engine=engine,
        hyper=engine.replicate(hyper),
        predicted=_predicted_rows(program.protocols, clients, program.corpus),
        slots=max(
            call.rule.jobs * len(attending(cell, one, call.rule.pooled, 1))
            for cell, one, call in zip(cells, clients, rules, strict=True)
        ),
    )


def _alike(program: Program, index: int, rule: str) -> Any:
    """What a cell's numbers follow from beside what its program shares: cells where it is equal are one run."""
    cell, clients = program.cells[index], program.clients[index]
    rows = hashlib.sha256()
    for held in (*clients.train, *clients.holdout, clients.available):
        rows.update(len(held).to_bytes(8, "little") + np.asarray(held, np.int64).tobytes())
    numbers = {
        name: float(values[index]) for name, values in program.hyper._asdict().items() if name in Hyper._fields[:4]
    }
    if parse_call(cell.local.optimizer)[0] == "adamw":
        del numbers["momentum"]  # which it does not read
    named = (program.hyper.rates, program.hyper.own, program.hyper.optimizer)
    rates = [{name: float(values[index]) for name, values in each.items()} for each in named]
    how = (cell.num_clients, cell.participation, cell.seed, cell.local.epochs, cell.local.drop_ragged)
    return how, rows.hexdigest(), rule, json.dumps([numbers, rates], sort_keys=True)


def _protocols(cell: Cell, corpus: Corpus, clients: Sequence[Clients]) -> dict[str, Protocol]:
    protocols = {name: protocol_of(*parse_call(name)) for name in cell.protocols}
    train, test, classes = corpus.train_labels, corpus.test_labels, len(corpus.classes)
    nothing = np.zeros(len(train), bool), np.zeros(len(test), bool)
    views = [View(*nothing, train, test, *one.rows_of_scored(), classes) for one in clients]
    for name, view in itertools.product(set(protocols) - set(PROTOCOLS), views):
        check_counts(name, protocols[name].counts, view)
    return protocols


def _hyper(cells: Sequence[Cell], model: Model) -> Hyper:
    def array(values: Iterable[float]) -> Any:
        return np.array(list(values), np.float32)

    local = {name: array(getattr(cell.local, name) for cell in cells) for name in LOCAL_NUMBERS}

    def named(call: str) -> dict[str, Any]:
        calls = [parse_call(getattr(cell.local, call))[1] for cell in cells]
        return {name: array(numbers[name] for numbers in calls) for name in calls[0]}

    # A person's own architecture takes its settings from its options, and may have rates all the same.
    rates = {name: array(getattr(c.architecture, name, own) for c in cells) for name, own in model.rates.items()}
    return Hyper(**local, rates=rates, own=named("objective"), optimizer=named("optimizer"))


def _predicted_rows(protocols: Mapping[str, Protocol], clients: Sequence[Clients], corpus: Corpus) -> np.ndarray:
    train = len(corpus.train_labels)
    needed = np.zeros(train + len(corpus.test_labels), bool)
    needed[train:] = True
    reads = {kind for protocol in protocols.values() for kind in protocol.reads}
    for one in clients:
        held = dict(zip(("train", "holdout"), one.rows_of_scored(), strict=True))
        for kind in reads:
            for rows in held[kind]:
                needed[rows] = True
    return np.flatnonzero(needed).astype(np.int32)
