"""Three cells of a tiny bag of words through the packed engine, three rounds, under any method and objective.

Each engine and each run is made once for all tests. The cells differ in everything that is data: clients, local
numbers, epochs, participation, seeds and the numbers of the method. A client without rows is among those of each, and
not all others take part in a round. In the last cell all clients make equally many steps on unequally many rows.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import compilation_cached

from fedjax_paradox.federated import trainer
from fedjax_paradox.federated.lazy import trainer_of
from fedjax_paradox.federated.local import Local, sgd
from fedjax_paradox.federated.methods import RULES
from fedjax_paradox.federated.objectives import OBJECTIVES
from fedjax_paradox.federated.packing import schedule
from fedjax_paradox.federated.packing.engine import Engine, RuleGroup, build_engine, first_of
from fedjax_paradox.federated.trainer import Data, Training
from fedjax_paradox.federated.types import Hyper, Participants

WORDS, WIDTH, CLASSES, LENGTH, BATCH, CLIENTS, SLOTS, LANES, ROUNDS = 11, 3, 3, 4, 4, 7, 5, 3, 3
GENERATOR = np.random.default_rng(0)
TOKENS = GENERATOR.integers(1, WORDS, (60, LENGTH)).astype(np.int32)  # without padding, which `apply` would read
LABELS = GENERATOR.integers(0, CLASSES, 60).astype(np.int32)
LABELS[40:] %= 2  # so that some clients lack a class
EMBEDDINGS, RANK, SCALE = GENERATOR.normal(size=(WORDS, WIDTH)).astype(np.float32), 2, 1.5


class Cell(NamedTuple):
    sizes: tuple[int, ...]  # train rows of each client
    participation: float
    seed: int
    epochs: int
    drop: bool
    local: tuple[float, float, float, float]  # learning rate, momentum, weight decay, mu

    @property
    def rows(self) -> list[np.ndarray]:
        return np.split(np.arange(sum(self.sizes)), np.cumsum(self.sizes)[:-1])

    @property
    def class_counts(self) -> np.ndarray:
        return np.array([np.bincount(LABELS[rows], minlength=CLASSES) for rows in self.rows], np.float32)

    def start(self, model: str = "bag") -> dict:
        generator = np.random.default_rng(self.seed)
        draw = lambda *shape: generator.normal(size=shape).astype(np.float32)  # noqa: E731
        if model == "bag":
            return {"table": draw(WORDS, WIDTH), "matrix": draw(WIDTH, CLASSES)}
        pair = {"lora_a": draw(WIDTH, RANK), "lora_b": draw(RANK, CLASSES), "base_kernel": draw(WIDTH, CLASSES)}
        return {"layer": pair, "bias": draw(CLASSES)}

    def sampled(self, round_: int) -> np.ndarray:
        return schedule.sample_clients(np.flatnonzero(self.sizes), self.participation, self.seed, round_)

    def batches(self, round_: int, client: int) -> np.ndarray:
        key = {"seed": self.seed, "round_": round_, "client": int(client)}
        return schedule.local_batches(self.rows[client], self.epochs, BATCH, self.drop, **key)


# The rates are large: what a round changes must stand out from the rounding of float32.
CELLS = (
    Cell((9, 1, 0, 14, 5, 20, 7), 0.8, 1, 2, False, (0.5, 0.0, 0.0, 0.1)),
    Cell((3, 16, 9, 0, 12, 1, 11), 0.5, 2, 1, True, (0.3, 0.8, 0.01, 1.0)),
    Cell((8, 5, 7, 6, 0, 5, 8), 0.7, 3, 2, False, (0.4, 0.5, 0.0, 0.0)),
)

Numbers = tuple[tuple[str, tuple[float, ...]], ...]  # name and its value in each cell


@pytest.fixture(scope="module", autouse=True)
def shared_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Methods whose clients do the same share what XLA made of it; a test module imports this fixture."""
    with compilation_cached(tmp_path_factory.getbasetemp() / "packed"):
        yield


def apply(params, frozen, tokens, key=None, rates=None):  # noqa: ARG001
    mean = params["table"][tokens].mean(axis=1)
    if key is not None:
        keep = 1.0 - rates["dropout"]
        mean = jnp.where(jax.random.bernoulli(key, keep, mean.shape), mean / keep, 0.0)
    return mean @ params["matrix"]


def lora_apply(params, frozen, tokens, key=None, rates=None):  # noqa: ARG001
    """A kernel under a LoRA pair, on embeddings that are frozen."""
    pair, mean = params["layer"], jnp.asarray(EMBEDDINGS)[tokens].mean(axis=1)
    kernel = pair["base_kernel"] + SCALE * pair["lora_a"] @ pair["lora_b"]
    return mean @ kernel + params["bias"][None]


APPLY = {"bag": apply, "lora": lora_apply}


def is_adapter(path):
    return path[0].key == "table"


def builder(name):
    """A rule's function of its numbers, as the config knows it; or the given function."""
    given = {"fedavgw": {"is_adapter": is_adapter}}
    of_each = ("afl", "scaffold", "scaffold_i", "feddyn", "ditto", "fedsa_lora", "local_only")
    given |= {each: {"num_clients": CLIENTS} for each in of_each}
    given |= {each: {"lora_scale": SCALE} for each in ("fedex_lora", "flora")}
    return functools.partial(RULES[name], **given.get(name, {})) if isinstance(name, str) else name


def traced(numbers: Numbers) -> dict[str, np.ndarray]:
    return {name: np.array(values, np.float32) for name, values in numbers}


@functools.cache
def engine(rule, rule_numbers: Numbers, objective: str, own: tuple[str, ...], model: str = "bag") -> Engine:
    group = RuleGroup(builder(rule), np.arange(len(CELLS)), traced(rule_numbers))
    local = first_of(group).local
    training = Training(APPLY[model], OBJECTIVES[objective], sgd, own, (), local or Local())
    # One with the sparse table; tests/test_engine.py has it under others.
    return build_engine(trainer_of(training, "table" if objective == "fedprox" else None), APPLY[model], [group])


def numbers_of(own: Numbers, dropout: float) -> Hyper:
    local = np.array([cell.local for cell in CELLS], np.float32).T
    return Hyper(*local, {"dropout": np.full(len(CELLS), dropout, np.float32)}, traced(own))


def jobs_of(round_: int, each: int = 1) -> tuple[list[schedule.Job], Participants]:
    """The round's jobs, so many of each participant, and who fills which slot, on one device."""
    shape = (len(CELLS), SLOTS * each)
    clients = np.full(shape, np.iinfo(np.int32).max, np.int32)
    rows, steps, mask = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, bool)
    counts = np.zeros((*shape, CLASSES), np.float32)
    jobs = []
    for index, cell in enumerate(CELLS):
        for slot, client in enumerate(np.repeat(cell.sampled(round_), each)):
            batches = cell.batches(round_, client)
            jobs.append(schedule.Job(index, index * shape[1] + slot, int(client), cell.seed, batches))
            clients[index, slot], mask[index, slot] = client, True
            rows[index, slot], steps[index, slot] = cell.sizes[client], len(batches)
            counts[index, slot] = cell.class_counts[client]
    return jobs, Participants(clients, rows, counts, mask, steps, np.zeros(shape, np.int32))


def with_start_loss(chosen: Engine, people: Participants, globals_: dict, data: Data) -> Participants:
    batches = np.arange(len(LABELS), dtype=np.int32).reshape(-1, 4)
    asked = np.repeat(np.arange(len(CELLS), dtype=np.int32), len(batches)), np.tile(batches, (len(CELLS), 1))
    losses = np.asarray(chosen.losses(globals_, {}, data, asked), np.float64).reshape(len(CELLS), -1)
    found = np.zeros(people.rows.shape, np.float32)
    for index, cell in enumerate(CELLS):
        for slot in np.flatnonzero(people.mask[index]):
            found[index, slot] = losses[index, cell.rows[people.client[index, slot]]].mean()
    return people._replace(start_loss=found)


def stack(trees: list[dict]) -> dict:
    return jax.tree.map(lambda *each: np.stack(each), *trees)


class Round(NamedTuple):
    """[P, ...] each"""

    before: dict
    states: dict  # the rule's, before the round
    participants: Participants
    after: dict
    served: dict | None  # [P, N, ...], of rules that serve each client a model of its own


@functools.cache
def rounds(
    rule,
    rule_numbers: Numbers = (),
    objective: str = "cross_entropy",
    own: Numbers = (),
    dropout: float = 0.0,
    model: str = "bag",
) -> list[Round]:
    chosen = engine(rule, rule_numbers, objective, tuple(name for name, _ in own), model)
    each = first_of(RuleGroup(builder(rule), np.arange(len(CELLS)), traced(rule_numbers))).jobs
    hyper, data = chosen.replicate(numbers_of(own, dropout)), Data(jnp.asarray(TOKENS), jnp.asarray(LABELS))
    globals_ = chosen.replicate(stack([cell.start(model) for cell in CELLS]))
    states = chosen.init_rules(globals_)
    lanes, buffer = chosen.start(globals_, LANES, len(CELLS) * SLOTS * each)
    seen = []
    for round_ in range(1, ROUNDS + 1):
        jobs, people = jobs_of(round_, each)
        if chosen.needs_start_loss:
            people = with_start_loss(chosen, people, globals_, data)
        buffer, told, unweighable = chosen.begin(globals_, states, buffer, people)
        assert not unweighable.any()
        chex.assert_tree_shape_prefix((told.participants, told.starts, told.messages, told.weights), people.mask.shape)
        inputs = trainer.Round(globals_, hyper, told, {}, data)
        for chunk in schedule.chunks(jobs, LANES, round_):
            lanes, buffer, _ = chosen.advance(lanes, buffer, inputs, chunk)
        after, next_states, outcome = chosen.aggregate(states, buffer, inputs)
        assert outcome.finite.all()
        chex.assert_trees_all_equal_shapes_and_dtypes((after, next_states), (globals_, states))
        chex.assert_shape([outcome.loss, outcome.unweighable], people.mask.shape)
        chex.assert_tree_shape_prefix((outcome.finite, outcome.diagnostics), (len(CELLS),))
        served = None if chosen.serve is None else chosen.serve(after, next_states)
        served = jax.tree.map(lambda leaf: leaf.reshape(len(CELLS), CLIENTS, *leaf.shape[1:]), served)
        seen.append(Round(*jax.tree.map(np.asarray, (globals_, states[0], people, after, served))))
        globals_, states = after, next_states
    return seen


def run(*arguments, **more) -> list[dict]:
    """The first globals, then those after each round, [P, ...]; arguments as of `rounds`."""
    found = rounds(*arguments, **more)
    return [found[0].before, *(each.after for each in found)]
