"""The card of an exported model, README.md in the hub's format: where it comes from, whom it serves, how to open it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from huggingface_hub import EvalResult, ModelCardData

from fedjax_paradox.config import Cell
from fedjax_paradox.evaluation.fairness import Summary, summarise
from fedjax_paradox.storage import results
from fedjax_paradox.text import printable

# How each kind of folder is opened.
OPEN = {
    "adapter": """\
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

{given}
model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels={count}).eval()
tokens = AutoTokenizer.from_pretrained(folder)(texts, max_length={length}, truncation=True, padding=True,
                                               return_tensors="pt")
logits = model(**tokens).logits""",
    "merged": """\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

{given}
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
tokens = AutoTokenizer.from_pretrained(folder)(texts, max_length={length}, truncation=True, padding=True,
                                               return_tensors="pt")
logits = model(**tokens).logits""",
    "encoder adapter": """\
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

{given}
encoder = PeftModel.from_pretrained(AutoModel.from_pretrained({base}), folder).eval()
{head}""",
    "merged encoder": """\
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

{given}
encoder = AutoModel.from_pretrained(folder).eval()
{head}""",
    "from scratch": """\
import fedjax_paradox as fp

{given}
probabilities = fp.open_model(folder).predict(texts)""",
}
_COLUMNS = ("mean over clients", "worst client", "gap", "which client is worst")
HEAD = """\
head = load_file(f"{{folder}}/head.safetensors")
tokens = AutoTokenizer.from_pretrained(folder)(texts, max_length={length}, truncation=True, padding=True,
                                               return_tensors="pt")
first = encoder(**tokens).last_hidden_state[:, 0]
hidden = torch.relu(first @ head["pre_classifier.weight"].T + head["pre_classifier.bias"])
logits = hidden @ head["classifier.weight"].T + head["classifier.bias"]"""


class _Score(NamedTuple):
    """Under one protocol."""

    protocol: str
    clients: Summary  # of all clients, each with the model that it is served
    own: float  # in [0, 1], of the client whose model it is; NaN where there is none or it has no accuracy


def card(cell: Cell, table: pa.Table, *, round_: int, client: int | None, classes: Sequence[str], kind: str) -> str:
    """Markdown under a YAML header.

    Args:
      table: rows of the run, as in `storage.results`; client: whose own model it is; kind: of `OPEN`.
    """
    base = getattr(cell.architecture, "weights", "")
    rows = table.filter(pc.and_(pc.equal(table["cell"], cell.name), pc.equal(table["round"], round_)))
    scores = _scores(rows, client)
    head = HEAD.format(length=cell.architecture.max_length)
    given = f"folder, texts = {'.'!r}, ['...']\nclasses = {list(classes)!r}"
    source = ", revision=".join(map(repr, filter(None, (base, getattr(cell.architecture, "revision", None)))))
    numbers = {"length": cell.architecture.max_length, "count": len(classes)}
    code = OPEN[kind].format(base=source, head=head, given=given, **numbers)
    whose = "the model that every client is served" if client is None else f"the own model of client {client}"
    local = cell.local.model_dump()
    lines = [
        "---",
        _header(cell, client, base, kind, scores),
        "---",
        "",
        f"# {printable(cell.model)} on {printable(cell.corpus.name)}, {printable(cell.rule)}",
        "",
        f"Trained by fedjax_paradox: {whose} after round {round_} of "
        f"{cell.rounds}, {cell.num_clients} clients, alpha {cell.alpha:g}.",
        "",
        "## Whom it serves",
        "",
        *(_accuracies(cell, client, scores) if scores else ["The clients were not scored after this round."]),
        "",
        "## How to open it",
        "",
        "```python",
        code,
        "```",
        "",
        "## How it was trained",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| `{key}` | {_cell(value)} |" for key, value in _settings(cell)),
        *(f"| `local.{key}` | {_cell(value)} |" for key, value in local.items()),
        "",
    ]
    return "\n".join(lines)


def _header(cell: Cell, client: int | None, base: str, kind: str, scores: Sequence[_Score]) -> str:
    """YAML"""
    values = [
        (protocol, what, value)
        for protocol, clients, own in scores
        for what, value in (
            (("mean over clients", clients.average), ("worst client", clients.worst))
            if client is None
            else (("its client", own),)
        )
        if np.isfinite(value)
    ]
    library = {"adapter": "peft", "encoder adapter": "peft", "from scratch": "fedjax_paradox"}.get(kind, "transformers")
    hub_name = base if base and not base.startswith((".", "/", "~")) else None
    return ModelCardData(
        model_name=f"{cell.model}, {cell.rule}, alpha {cell.alpha:g}",
        library_name=library,
        base_model=hub_name,
        datasets=[cell.corpus.name],
        metrics=["accuracy"],
        pipeline_tag="text-classification",
        tags=["federated-learning", "fairness"],
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type=cell.corpus.name,
                dataset_name=f"{cell.corpus.name}, {protocol}",
                metric_type="accuracy",
                metric_name=f"{what} ({protocol})",
                metric_value=round(value, 4),
            )
            for protocol, what, value in values
        ],
    ).to_yaml()


def _scores(rows: pa.Table, client: int | None) -> list[_Score]:
    """One for each protocol; empty where clients were not scored after the round."""
    scores = []
    for key, correct, total in results.counts(rows, ["protocol"]):
        own = correct[client] / total[client] if client in np.flatnonzero(total) else np.nan
        scores.append(_Score(key["protocol"], summarise(correct, total), float(own)))
    return scores


def _accuracies(cell: Cell, client: int | None, scores: Sequence[_Score]) -> Iterator[str]:
    yield "Accuracy in %, the gap in points: mean minus worst."
    if cell.evaluate_clients and cell.evaluate_clients < cell.num_clients:
        yield f"Scored: a draw of {cell.evaluate_clients} clients."
    if client is not None:
        yield f"Every client is scored with a model of its own; this one serves client {client} alone."
    own = [] if client is None else [f"client {client}"]
    yield from ("", f"| {' | '.join(['protocol', *own, *_COLUMNS])} |", "|---" + "|--:" * len([*own, *_COLUMNS]) + "|")
    for protocol, clients, accuracy in scores:
        first = [accuracy] if own else []
        numbers = [f"{100 * value:.1f}" for value in (*first, clients.average, clients.worst, clients.gap)]
        yield f"| {' | '.join([f'`{protocol}`', *numbers, str(clients.worst_client)])} |".replace("nan", "–")


def _settings(cell: Cell) -> list[tuple[str, Any]]:
    names = ("rule", "alpha", "num_clients", "participation", "rounds", "partition_seed", "seed")
    corpus = cell.corpus.model_dump(include={"name", "subset", "revision", "train_rows", "test_rows", "seed"})
    model = cell.architecture.model_dump(exclude={"local"})
    return [
        *((name, getattr(cell, name)) for name in names),
        *((f"corpus.{key}", value) for key, value in corpus.items() if value is not None),
        ("partition.kind", cell.partition.kind),
        *((f"models.{cell.model}.{key}", value) for key, value in model.items()),
    ]


def _cell(value: Any) -> str:
    return printable(str(value)).replace("|", "\\|")
