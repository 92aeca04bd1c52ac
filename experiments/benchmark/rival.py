"""The loop that a researcher writes today: PyTorch, transformers and PEFT, one client after another.

It trains the same rows in the same batches as our engine and predicts the same rows, with dropout on and the
same hyper-parameters; its weights and dropout masks are its own. A batch is as long as its longest row (dynamic
padding).
"""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional

from fedjax_paradox.sweep.program import Program
from fedjax_paradox.sweep.rounds import plan_round

Weights = dict[str, torch.Tensor]
SHORTEST = 5


class Client(NamedTuple):
    rows: int  # n_k
    steps: Sequence[torch.Tensor]  # i64[<= B] each


class TextCNN(nn.Module):
    """Kim's TextCNN. tokens: i64[B, T] -> logits [B, C]."""

    def __init__(self, vocabulary: int, classes: int, spec) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, spec.embedding_size, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(spec.embedding_size, spec.filters, w) for w in spec.widths)
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(spec.filters * len(spec.widths), classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens).transpose(1, 2)
        features = [functional.relu(convolution(x).max(dim=2).values) for convolution in self.convolutions]
        return self.classifier(self.dropout(torch.cat(features, dim=1)))


class Classifier(nn.Module):
    """DistilBERT with PEFT's LoRA and a trained head. tokens: i64[B, T], 0 is padding -> logits [B, C]."""

    def __init__(self, folder: Path, classes: int, spec) -> None:
        super().__init__()
        rates = {"dropout": spec.dropout, "attention_dropout": spec.attention_dropout}
        base = transformers.DistilBertForSequenceClassification.from_pretrained(
            folder, num_labels=classes, seq_classif_dropout=spec.head_dropout, **rates
        )
        lora = LoraConfig(
            task_type="SEQ_CLS",
            r=spec.lora_rank,
            lora_alpha=spec.lora_alpha,
            lora_dropout=spec.lora_dropout,
            target_modules=["q_lin", "v_lin"],
            modules_to_save=["pre_classifier", "classifier"],
        )
        self.peft = get_peft_model(base, lora)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.peft(input_ids=tokens, attention_mask=(tokens != 0).long()).logits


def build(program: Program) -> nn.Module:
    """The model of a program's cells, with random or the checkpoint's weights; sets PyTorch to all cores."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    # What XLA does with float32 on a GPU unless told otherwise; without effect on a CPU.
    torch.set_float32_matmul_precision("high")
    spec, classes = program.cells[0].architecture, len(program.corpus.classes)
    if hasattr(spec, "filters"):
        return TextCNN(program.corpus.vocabulary_size, classes, spec)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # PEFT asks for a property by its old name.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    return Classifier(Path(spec.weights), classes, spec)


def rounds(program: Program, module: nn.Module, device: str, bfloat16: bool) -> Iterator[float]:
    """Trains and predicts every round of the program's only cell; yields each round's seconds."""
    module.to(device)
    tokens, labels = (torch.tensor(np.asarray(array), dtype=torch.long, device=device) for array in program.data)
    predicted = torch.tensor(program.predicted, dtype=torch.long, device=device)
    batches = predicted.split(program.engine.predict_batch)
    autocast = partial(torch.autocast, device, dtype=torch.bfloat16, enabled=bfloat16)
    weights = _copy(module)
    for number in range(1, program.cells[0].rounds + 1):
        people = clients(program, number, device)
        began = time.monotonic()
        weights = train(module, weights, people, (tokens, labels), optimizer(program), autocast)
        predict(module, tokens, batches, autocast)  # ends with a transfer, so the device is idle after it
        yield time.monotonic() - began


def clients(program: Program, number: int, device: str) -> list[Client]:
    """The round's clients with the very batches of our schedule, without its padding."""
    jobs, _ = plan_round(program, number)
    return [
        Client(
            len(program.clients[0].train[job.client]),
            [torch.tensor(step[step >= 0], dtype=torch.long, device=device) for step in job.steps],
        )
        for job in jobs
    ]


def optimizer(program: Program) -> Callable[..., torch.optim.Optimizer]:
    """PyTorch's fused optimizers, its fastest on CPUs too."""
    local = program.cells[0].local
    shared = {"lr": local.learning_rate, "weight_decay": local.weight_decay, "fused": True}
    if local.optimizer == "adamw":
        return partial(torch.optim.AdamW, **shared)
    return partial(torch.optim.SGD, momentum=local.momentum, **shared)


def train(
    module: nn.Module,
    weights: Weights,
    people: Sequence[Client],
    data: tuple[torch.Tensor, torch.Tensor],
    make_optimizer: Callable[..., torch.optim.Optimizer],
    autocast: Callable,
) -> Weights:
    """Every client in turn from the global weights, then FedAvg: the mean weighted by n_k. Loads and returns it."""
    total = sum(client.rows for client in people)
    mean = {name: torch.zeros_like(leaf) for name, leaf in weights.items()}
    module.train()
    for client in people:
        module.load_state_dict(weights, strict=False)
        local = make_optimizer([leaf for leaf in module.parameters() if leaf.requires_grad])
        local_update(module, client.steps, data, local, autocast)
        for name, leaf in _trainable(module).items():
            mean[name].add_(leaf.detach(), alpha=client.rows / total)
    module.load_state_dict(mean, strict=False)
    return mean


def local_update(
    module: nn.Module,
    steps: Sequence[torch.Tensor],
    data: tuple[torch.Tensor, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    autocast: Callable = nullcontext,
) -> None:
    """One client's steps."""
    module.train()
    tokens, labels = data
    for rows in steps:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss = functional.cross_entropy(module(as_long_as_needed(tokens[rows])), labels[rows])
        loss.backward()
        optimizer.step()


@torch.inference_mode()
def predict(
    module: nn.Module, tokens: torch.Tensor, batches: Sequence[torch.Tensor], autocast: Callable = nullcontext
) -> np.ndarray:
    """i64[rows], the predicted class of every row."""
    module.eval()
    with autocast():
        classes = [module(as_long_as_needed(tokens[rows])).argmax(dim=1) for rows in batches]
    return torch.cat(classes).cpu().numpy()


def as_long_as_needed(tokens: torch.Tensor) -> torch.Tensor:
    """A batch without the places that are padding in all rows; a TextCNN needs those of its widest window."""
    longest = int((tokens != 0).sum(dim=1).max())
    return tokens[:, : max(longest, SHORTEST)]


def _trainable(module: nn.Module) -> Weights:
    return {name: leaf for name, leaf in module.named_parameters() if leaf.requires_grad}


def _copy(module: nn.Module) -> Weights:
    return {name: leaf.detach().clone() for name, leaf in _trainable(module).items()}


def matrix_rates(shapes: Sequence[tuple[int, int, int]], precision: str, device: str, count: int) -> Iterator[float]:
    """GFLOP/s of the best shape (m, k, n), on all cores, measured anew each time."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for _ in range(count):
        yield max(_matrix_rate(shape, getattr(torch, precision), device) for shape in shapes)


def _matrix_rate(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> float:
    m, k, n = shape
    a, b = (torch.full(size, 0.5, dtype=dtype, device=device) for size in ((m, k), (k, n)))
    (a @ b).sum().item()
    times = max(3, int((2e13 if device == "cuda" else 1e11) / (2 * m * k * n)))
    began = time.monotonic()
    for _ in range(times):
        last = a @ b
    last.sum().item()
    return 2e-9 * m * k * n * times / (time.monotonic() - began)
