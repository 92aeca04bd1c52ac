"""Optimizer steps, FedProx and whole rounds against a plain PyTorch loop: client after client, batch by batch.

The two sides share initial weights, rows and the order of each epoch. How an epoch is cut into batches,
losses, gradients, optimizers and the mean over clients are PyTorch's, or written here from the paper.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpoints import random_checkpoint
from flax import traverse_util

from fedjax_paradox.federated import rules
from fedjax_paradox.federated.lazy import trainer_of
from fedjax_paradox.federated.local import OPTIMIZERS, Learner, local_step, optimizer_of
from fedjax_paradox.federated.objectives import cross_entropy, fedprox
from fedjax_paradox.federated.packing import schedule
from fedjax_paradox.federated.packing.engine import RuleGroup, build_engine
from fedjax_paradox.federated.trainer import Data, Round, Training
from fedjax_paradox.federated.types import Client, Hyper, Participants
from fedjax_paradox.models.base import Model
from fedjax_paradox.models.distilbert import transformer
from fedjax_paradox.models.pretrained import load_checkpoint
from fedjax_paradox.models.textcnn import textcnn

torch = pytest.importorskip("torch", reason="parity with PyTorch needs the extra `parity`")
peft = pytest.importorskip("peft", reason="parity with PEFT needs the extra `parity`")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

Leaves = dict[str, np.ndarray]  # "/"-joined path -> leaf in this package's layout

WORDS, LENGTH, CLASSES = 60, 12, 4
SEED, ROUND = 3, 2


def flat(tree: dict) -> Leaves:
    return {name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()}


def nested(leaves: Leaves) -> dict:
    return traverse_util.unflatten_dict({name: jnp.asarray(leaf) for name, leaf in leaves.items()}, sep="/")


def random_start(model: Model) -> Leaves:
    """Every trainable leaf at random, LoRA's B too: where it is zero no gradient reaches A."""
    rng = np.random.default_rng(5)
    shapes = traverse_util.flatten_dict(jax.eval_shape(model.init, jax.random.key(0))[0], sep="/")
    return {name: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32) for name, leaf in shapes.items()}


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b|| / ||b||, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def assert_trained_alike(got: Leaves, expected: Leaves, start: Leaves, change: float) -> None:
    """Each leaf agrees to 1e-4, and what training changed in it agrees to `change`, both as norms.

    The first alone would forgive an error of a per cent in what a round changes.
    """
    assert got.keys() == expected.keys() == start.keys()
    for name, wanted in expected.items():
        assert got[name].shape == wanted.shape, name
        assert relative(got[name], wanted) <= 1e-4, name
        assert relative(got[name] - start[name], wanted - start[name]) <= change, name


# Optimizers

SCALES = {"ordinary": 1.0, "large": 1e3, "near_epsilon": 1e-8}
STEPS = 10


def random_leaves(rng: np.random.Generator, scales: dict[str, float]) -> Leaves:
    return {name: (scale * rng.standard_normal((5, 7))).astype(np.float32) for name, scale in scales.items()}


# near_epsilon has gradients as small as AdamW's eps, so that eps is seen.
@pytest.mark.parametrize(
    ("name", "numbers", "reference"),
    [
        ("sgd", (0.01, 0.9, 0.0, 0.0), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
        ("sgd", (0.01, 0.9, 0.1, 0.0), lambda p: torch.optim.SGD(p, 0.01, 0.9, weight_decay=0.1)),
        ("sgd", (0.1, 0.0, 0.0, 0.0), lambda p: torch.optim.SGD(p, lr=0.1)),
        ("adamw", (5e-3, 0.0, 0.01, 0.0), lambda p: torch.optim.AdamW(p, lr=5e-3, weight_decay=0.01)),
    ],
    ids=["momentum", "momentum_and_weight_decay", "plain", "adamw"],
)
def test_optimizer_steps_are_pytorchs(name: str, numbers: tuple, reference: Callable) -> None:
    rng = np.random.default_rng(0)
    start = random_leaves(rng, dict.fromkeys(SCALES, 1.0))
    gradients = [random_leaves(rng, SCALES) for _ in range(STEPS)]

    parameters = {key: torch.nn.Parameter(torch.tensor(leaf)) for key, leaf in start.items()}
    theirs = reference(list(parameters.values()))
    ours = OPTIMIZERS[name](Hyper(*jnp.asarray(numbers, jnp.float32)))
    params = nested(start)
    state = ours.init(params)
    for gradient in gradients:
        for key, parameter in parameters.items():
            parameter.grad = torch.tensor(gradient[key])
        theirs.step()
        # Optax's Adam raises a Python float to an int32 power, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = ours.update(nested(gradient), state, params)
        params = optax.apply_updates(params, updates)
    # A step rounds a leaf by at most 2^-24 = 6e-8 of its size, or a few times that: ten steps stay below 1e-6.
    for key, parameter in parameters.items():
        assert relative(np.asarray(params[key]), parameter.detach().numpy()) <= 1e-6, key


# FedProx


def bag_of_words(params: dict, tokens: jax.Array, key: jax.Array) -> jax.Array:  # noqa: ARG001
    return params["table"][tokens].mean(axis=1) @ params["matrix"]


PROXIMAL = Learner(bag_of_words, fedprox(), OPTIMIZERS["sgd"])
FEDPROX_STEP = jax.jit(partial(local_step, PROXIMAL))


@pytest.mark.parametrize("mu", [0.01, 1.0])
def test_fedprox_steps_are_the_gradient_of_the_penalised_loss(mu: float) -> None:
    rng = np.random.default_rng(1)
    start = {
        "table": rng.standard_normal((WORDS, 6)).astype(np.float32),
        "matrix": rng.standard_normal((6, CLASSES)).astype(np.float32),
    }
    anchor = {key: torch.tensor(leaf) for key, leaf in start.items()}
    theirs = {key: leaf.clone().requires_grad_() for key, leaf in anchor.items()}
    sgd = torch.optim.SGD(theirs.values(), lr=0.1, momentum=0.9)
    hyper = Hyper(*jnp.asarray((0.1, 0.9, 0.0, mu), jnp.float32))
    client = Client(jnp.zeros(()), jnp.zeros(()), jnp.zeros(CLASSES), nested(start), (), hyper)
    state = (nested(start), optimizer_of(PROXIMAL, client).init(nested(start)))
    for _ in range(STEPS):
        tokens, labels = rng.integers(0, WORDS, (8, LENGTH)), rng.integers(0, CLASSES, 8)
        logits = theirs["table"][torch.tensor(tokens)].mean(dim=1) @ theirs["matrix"]
        distance = sum(((theirs[key] - anchor[key]) ** 2).sum() for key in anchor)
        sgd.zero_grad()
        (torch.nn.functional.cross_entropy(logits, torch.tensor(labels)) + mu / 2 * distance).backward()
        sgd.step()
        batch = (tokens.astype(np.int32), labels.astype(np.int32), np.ones(8, bool))
        state, _ = FEDPROX_STEP(state, batch, jax.random.key(0), client)
    expected = {key: leaf.detach().numpy() for key, leaf in theirs.items()}
    # The change is read off the leaves, which float32 keeps to 6e-8 of their size; here leaves change by some
    # per cent, so that rounding is some 1e-6 of the change. Without the penalty it is off by 1e-2 at mu = 0.01.
    assert_trained_alike(flat(state[0]), expected, start, change=1e-5)


# Whole rounds

# A round changes every leaf here by 0.4 % of its size or more; float32 keeps a leaf to 6e-8 of its size, which
# is 1.5e-5 of that change. Adam's corrections 1 - 0.999^t, in float32, add as much again.
CHANGE = 1e-4


class Local(NamedTuple):
    """What both sides of a round are told."""

    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    epochs: int
    batch_size: int
    drop_ragged: bool


class Texts(NamedTuple):
    tokens: np.ndarray  # i32[N, T], 0 after the end of a row's text
    labels: np.ndarray  # i32[N]
    clients: list[np.ndarray]


def random_texts(sizes: Sequence[int], shortest: int) -> Texts:
    rng = np.random.default_rng(7)
    total = sum(sizes)
    tokens = rng.integers(1, WORDS, (total, LENGTH))
    tokens[np.arange(LENGTH)[None] >= rng.integers(shortest, LENGTH + 1, total)[:, None]] = 0
    labels = rng.integers(0, CLASSES, total)
    clients = np.split(rng.permutation(total), np.cumsum(sizes)[:-1])
    return Texts(tokens.astype(np.int32), labels.astype(np.int32), clients)


def our_round(
    model: Model,
    start: Leaves,
    frozen: dict,
    texts: Texts,
    local: Local,
    recipes: Sequence[RuleGroup],
    lanes: int,
) -> list[Leaves]:
    """One round of one cell per recipe, all through the packed engine."""
    cells, slots = len(recipes), len(texts.clients)
    table = model.table if local.optimizer == "sgd" else None
    trainer = trainer_of(Training(model.apply, cross_entropy, OPTIMIZERS[local.optimizer]), table)
    engine = build_engine(trainer, model.apply, recipes)
    globals_ = nested({name: np.stack([leaf] * cells) for name, leaf in start.items()})
    numbers = (local.learning_rate, local.momentum, local.weight_decay, 0.0)
    hyper = Hyper(*jnp.asarray([numbers] * cells, jnp.float32).T)
    settings = (local.epochs, local.batch_size, local.drop_ragged)
    batches = [
        schedule.local_batches(rows, *settings, seed=SEED, round_=ROUND, client=client)
        for client, rows in enumerate(texts.clients)
    ]
    jobs = [
        schedule.Job(cell, cell * slots + client, client, SEED, steps)
        for cell in range(cells)
        for client, steps in enumerate(batches)
    ]
    data = Data(jnp.asarray(texts.tokens), jnp.asarray(texts.labels))
    sizes = np.array([len(rows) for rows in texts.clients], np.float32)
    people = Participants(
        np.tile(np.arange(slots, dtype=np.int32), (cells, 1)),
        np.tile(sizes, (cells, 1)),
        np.zeros((cells, slots, CLASSES), np.float32),
        np.ones((cells, slots), bool),
        np.tile(np.array([len(steps) for steps in batches], np.float32), (cells, 1)),
        np.zeros((cells, slots), np.int32),
    )
    state, results = engine.start(globals_, lanes, len(jobs))
    rule_states = engine.init_rules(globals_)
    results, told, _ = engine.begin(globals_, rule_states, results, people)
    round_ = Round(globals_, hyper, told, frozen, data)
    with jax.numpy_dtype_promotion("standard"):  # for optax's Adam, as above
        for chunk in schedule.chunks(jobs, lanes, ROUND):
            state, results, _ = engine.advance(state, results, round_, chunk)
    new, _, _ = engine.aggregate(rule_states, results, round_)
    return [{name: leaf[cell] for name, leaf in flat(new).items()} for cell in range(cells)]


def pytorch_client(
    logits: Callable, parameters: Iterable, make_optimizer: Callable, texts: Texts, local: Local, client: int
) -> None:
    """The published local update, on parameters that are changed in place."""
    rows = texts.clients[client]
    optimizer = make_optimizer(list(parameters))
    # One batch as large as the client: nothing but the order in which an epoch visits the rows.
    epochs = schedule.local_batches(rows, local.epochs, len(rows), False, seed=SEED, round_=ROUND, client=client)
    drop_last = local.drop_ragged and len(rows) >= local.batch_size
    for order in epochs:
        for batch in torch.utils.data.BatchSampler(order.tolist(), local.batch_size, drop_last):
            tokens = torch.tensor(texts.tokens[batch], dtype=torch.long)
            labels = torch.tensor(texts.labels[batch], dtype=torch.long)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits(tokens), labels).backward()
            optimizer.step()


def mean(results: Sequence[Leaves], weights: Callable[[str], np.ndarray]) -> Leaves:
    """sum_k w_k x_k / sum_k w_k leaf by leaf, in float64."""
    return {
        name: np.average([each[name].astype(np.float64) for each in results], axis=0, weights=weights(name))
        for name in results[0]
    }


# TextCNN

WIDTHS = (3, 4, 5)


class PyTorchTextCNN(torch.nn.Module):  # type: ignore[name-defined]
    def __init__(self, embedding: int, filters: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(WORDS, embedding, padding_idx=0)
        self.convolutions = torch.nn.ModuleList(torch.nn.Conv1d(embedding, filters, width) for width in WIDTHS)
        self.classifier = torch.nn.Linear(filters * len(WIDTHS), CLASSES)

    def forward(self, tokens: Any) -> Any:
        x = self.embedding(tokens).transpose(1, 2)
        features = [torch.relu(convolution(x)).max(dim=2).values for convolution in self.convolutions]
        return self.classifier(torch.cat(features, dim=1))

    def leaves(self) -> dict[str, tuple]:
        """Our name -> (parameter, axes that turn its layout into ours)."""
        named: dict[str, tuple] = {"embedding": (self.embedding.weight, (0, 1))}
        for width, convolution in zip(WIDTHS, self.convolutions, strict=True):
            named[f"conv_{width}/kernel"] = (convolution.weight, (2, 1, 0))
            named[f"conv_{width}/bias"] = (convolution.bias, (0,))
        named["classifier/kernel"] = (self.classifier.weight, (1, 0))
        named["classifier/bias"] = (self.classifier.bias, (0,))
        return named


def write(leaves: dict[str, tuple], values: Leaves) -> None:
    assert leaves.keys() == values.keys()
    with torch.no_grad():
        for name, (parameter, axes) in leaves.items():
            parameter.copy_(torch.tensor(values[name].transpose(np.argsort(axes))))


def read(leaves: dict[str, tuple]) -> Leaves:
    return {name: parameter.detach().numpy().copy().transpose(axes) for name, (parameter, axes) in leaves.items()}


def test_textcnn_round() -> None:
    local = Local("sgd", 0.01, 0.9, 0.0, epochs=5, batch_size=16, drop_ragged=True)
    texts = random_texts((37, 9, 70), shortest=1)
    model = textcnn(WORDS, CLASSES, embedding_size=8, filters=6, widths=WIDTHS, dropout=0.0)
    start = random_start(model)
    start["embedding"][0] = 0.0  # the padding row, in both

    module = PyTorchTextCNN(embedding=8, filters=6)
    leaves, results = module.leaves(), []
    assert {id(parameter) for parameter, _ in leaves.values()} == set(map(id, module.parameters()))
    for client in range(len(texts.clients)):
        write(leaves, start)
        sgd = partial(torch.optim.SGD, lr=local.learning_rate, momentum=local.momentum)
        pytorch_client(module, module.parameters(), sgd, texts, local, client)
        results.append(read(leaves))
    expected = mean(results, lambda name: np.array([37.0, 9.0, 70.0]))  # noqa: ARG005

    recipes = [RuleGroup(rules.fedavg, np.array([0]), {})]
    (got,) = our_round(model, start, {}, texts, local, recipes, lanes=2)
    assert_trained_alike(got, expected, start, change=CHANGE)


# DistilBERT with LoRA


def pytorch_distilbert(folder: Path) -> Any:
    base = transformers.DistilBertForSequenceClassification.from_pretrained(
        folder,
        num_labels=CLASSES,
        attn_implementation="eager",
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
    )
    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=8,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules=["q_lin", "v_lin"],
        modules_to_save=["pre_classifier", "classifier"],
    )
    return peft.get_peft_model(base, config).train()


def distilbert_leaves(module: Any) -> dict[str, tuple]:
    """Our name -> (parameter, axes that turn its layout into ours)."""
    base = module.base_model.model
    named: dict[str, tuple] = {}
    for number, layer in enumerate(base.distilbert.transformer.layer):
        for name in ("q_lin", "v_lin"):
            linear = getattr(layer.attention, name)
            named[f"layer_{number}/attention/{name}/lora_a"] = (linear.lora_A["default"].weight, (1, 0))
            named[f"layer_{number}/attention/{name}/lora_b"] = (linear.lora_B["default"].weight, (1, 0))
    for name in ("pre_classifier", "classifier"):
        linear = getattr(base, name).modules_to_save["default"]
        named[f"{name}/kernel"] = (linear.weight, (1, 0))
        named[f"{name}/bias"] = (linear.bias, (0,))
    return named


# PEFT 0.21 still asks transformers 5.23 for a property by its old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning:transformers")
def test_distilbert_lora_round_under_fedavg_and_fedavgw(tmp_path: Path) -> None:
    sizes = np.array([37.0, 9.0, 70.0])
    # Twenty times the published rate: at that one, rounding would be 3e-4 of what the round changes.
    local = Local("adamw", 1e-3, 0.0, 0.01, epochs=1, batch_size=16, drop_ragged=False)
    texts = random_texts(sizes.astype(int).tolist(), shortest=2)
    checkpoint, frozen = load_checkpoint(random_checkpoint(tmp_path))
    rates = dict.fromkeys(("lora_dropout", "dropout", "attention_dropout", "head_dropout"), 0.0)
    model = transformer(checkpoint, frozen, CLASSES, lora_rank=8, lora_alpha=16.0, **rates)
    start = random_start(model)

    # In float64: AdamW magnifies the rounding of small gradients, and PyTorch's own would count as ours.
    module = pytorch_distilbert(tmp_path).double()
    leaves, results = distilbert_leaves(module), []
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter, _ in leaves.values()} == set(map(id, trained))
    for client in range(len(texts.clients)):
        write(leaves, start)
        pytorch_client(
            lambda tokens: module(input_ids=tokens, attention_mask=(tokens != 0).long()).logits,
            trained,
            partial(torch.optim.AdamW, lr=local.learning_rate, weight_decay=local.weight_decay),
            texts,
            local,
            client,
        )
        results.append(read(leaves))

    recipes = [
        RuleGroup(rules.fedavg, np.array([0]), {}),
        RuleGroup(partial(rules.fedavgw, is_adapter=model.is_adapter), np.array([1]), {"beta": np.array([0.5])}),
    ]
    fedavg, fedavgw = our_round(model, start, frozen, texts, local, recipes, lanes=4)
    for got, weigh in (
        (fedavg, lambda name: sizes),  # noqa: ARG005
        (fedavgw, lambda name: sizes**-0.5 if "lora" in name else sizes),
    ):
        assert_trained_alike(got, mean(results, weigh), start, change=CHANGE)
