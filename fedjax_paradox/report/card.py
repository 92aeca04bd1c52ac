"""The card of an exported model, README.md in the hub's format: where it comes from, whom it serves, how to open it."""

from collections.abc import Iterator, Sequence
from typing import Any

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
HEAD = """\
head = load_file(f"{{folder}}/head.safetensors")
tokens = AutoTokenizer.from_pretrained(folder)(texts, max_length={length}, truncation=True, padding=True,
                                               return_tensors="pt")
first = encoder(**tokens).last_hidden_state[:, 0]
hidden = torch.relu(first @ head["pre_classifier.weight"].T + head["pre_classifier.bias"])
logits = hidden @ head["classifier.weight"].T + head["classifier.bias"]"""


def card(cell: Cell, table: pa.Table, *, round_: int, client: int | None, classes: Sequence[str], kind: str) -> str:
    """Markdown under a YAML header.

    Args:
      table: rows of the run, as in `storage.results`; kind: of `OPEN`.
    """
    base = getattr(cell.architecture, "weights", "")
    spreads = _spreads(table, cell.name, round_)
    head = HEAD.format(length=cell.architecture.max_length)
    given = f"folder, texts = {'.'!r}, ['...']\nclasses = {list(classes)!r}"
    source = ", revision=".join(map(repr, filter(None, (base, getattr(cell.architecture, "revision", None)))))
    numbers = {"length": cell.architecture.max_length, "count": len(classes)}
    code = OPEN[kind].format(base=source, head=head, given=given, **numbers)
    whose = "the model that every client is served" if client is None else f"the own model of client {client}"
    local = cell.local.model_dump()
    lines = [
        "---",
        _header(cell, base, kind, spreads),
        "---",
        "",
        f"# {printable(cell.model)} on {printable(cell.corpus.name)}, {printable(cell.rule)}",
        "",
        f"Trained by fedjax_paradox: {whose} after round {round_} of "
        f"{cell.rounds}, {cell.num_clients} clients, alpha {cell.alpha:g}.",
        "",
        "## Whom it serves",
        "",
        *(_accuracies(spreads) if spreads else ["The clients were not scored after this round."]),
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


def _header(cell: Cell, base: str, kind: str, spreads: Sequence[tuple[str, Summary]]) -> str:
    """YAML"""
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
            for protocol, spread in spreads
            for what, value in (("mean over clients", spread.average), ("worst client", spread.worst))
        ],
    ).to_yaml()


def _spreads(table: pa.Table, cell: str, round_: int) -> list[tuple[str, Summary]]:
    """(protocol, spread over clients); empty where clients were not scored after the round."""
    rows = table.filter(pc.and_(pc.equal(table["cell"], cell), pc.equal(table["round"], round_)))
    found = results.counts(rows, ["protocol"])
    return [(key["protocol"], summarise(correct, total)) for key, correct, total in found]


def _accuracies(spreads: Sequence[tuple[str, Summary]]) -> Iterator[str]:
    yield from ("Accuracy in %, the gap in points: mean minus worst.", "")
    yield "| protocol | mean over clients | worst client | gap | which client is worst |"
    yield "|---|--:|--:|--:|--:|"
    for protocol, spread in spreads:
        numbers = " | ".join(f"{100 * value:.1f}" for value in (spread.average, spread.worst, spread.gap))
        yield f"| `{protocol}` | {numbers} | {spread.worst_client} |"


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
