"""Output folders of runs that nobody trained: real partitions, made-up recalls, so that a report has much to show."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedjax_paradox.config import Cell, cells, identity, load, to_yaml
from fedjax_paradox.evaluation.mixtures import EVALUATIONS, Setting
from fedjax_paradox.storage import cells as stored
from fedjax_paradox.storage import folder, results
from fedjax_paradox.sweep.audits import audit

CLASSES = ("World", "Sports", "Business", "Sci/Tech")

CONFIG = """
name: made-up
corpus: {{name: news, files: {{train: {place}/train.csv, test: {place}/test.csv}}}}
rounds: 4
partition: {{holdout_fraction: 0.1}}
protocols: [train_rows, label_filtered, label_matched, holdout, global]
grid:
  model: [textcnn, distilbert]
  alpha: [0.1, 1.0]
  rule: [fedavg, fedavgw(beta=0.5)]
  partition_seed: [42, 43, 44]
"""

RECORD = {
    "hash": "0123456789abcdef",
    "inputs": [{"corpus": "c0ffee"}],
    "git_commit": "f" * 40,
    "python": "3.11.7",
    "packages": {"fedjax-paradox": "0.1.0", "jax": "0.10.2"},
    "platform": "Linux-made-up",
    "devices": ["cpu"],
}


def write_corpus(place: Path, rows: int = 2000) -> None:
    """train.csv and test.csv: as many rows of every class, all with the same text."""
    place.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", rows), ("test", rows // 4)):
        lines = [f"a word,{CLASSES[row % len(CLASSES)]}" for row in range(count)]
        (place / f"{name}.csv").write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")


def write_run(
    place: Path,
    out: Path,
    *overrides: str,
    rounds: int | None = None,
    record: dict = RECORD,
    diverged: Mapping[str, tuple[int, int]] = {},
    same: Mapping[str, str] = {},
    sizes: Mapping[str, tuple[int, int]] = {},
    earlier: bool = False,
) -> Path:
    """An output folder `out` on the corpus of `place`; with `rounds`, stopped after so many.

    Args:
      diverged: cell -> the round and the client; same: cell -> the cell that it is by construction.
      sizes: model -> its parameters that are trained, and all.
      earlier: as versions before the list of cells wrote it.
    """
    out.mkdir(parents=True)
    (place / "config.yaml").write_text(CONFIG.format(place=place), encoding="utf-8")
    experiment = load(place / "config.yaml", overrides)
    every = cells(experiment)
    settings = {name: one.setting for one in audit(every, place / "cache") for name in one.cells}
    numbers = {cell.name: number for number, cell in enumerate(every)}
    tables = [
        table
        for cell in every
        for table in _cell(
            cell,
            settings[cell.name],
            np.random.default_rng(numbers[same.get(cell.name, cell.name)]),
            diverged[cell.name][0] - 1 if cell.name in diverged else rounds or cell.rounds,
        )
    ]
    results.write(out, tables)
    if not earlier:
        entries = [_entry(cell, diverged.get(cell.name), same.get(cell.name, "")) for cell in every]
        of = {cell.name: sizes.get(cell.model, (0, 0)) for cell in every}
        stored.write(out, [e._replace(trainable_parameters=of[e.cell][0], parameters=of[e.cell][1]) for e in entries])
    write_record(out, record, earlier)
    write_config(out, to_yaml(experiment), earlier)
    return out


def write_record(out: Path, record: dict, earlier: bool = False) -> None:
    (out / "experiment.json").write_text(json.dumps(record) if earlier else folder.sealed(record), encoding="utf-8")


def write_config(out: Path, config: str, earlier: bool = False) -> None:
    (out / "config.yaml").write_text(config if earlier else folder.with_header(config), encoding="utf-8")


def _entry(cell: Cell, diverged: tuple[int, int] | None, same_as: str) -> stored.Entry:
    digest = hashlib.sha256(json.dumps(identity(cell), sort_keys=True).encode()).hexdigest()[:32]
    entry = stored.Entry(cell.name, digest, cell.model_dump_json(), "{}", same_as)
    if diverged is None:
        return entry
    return entry._replace(status=stored.DIVERGED, diverged_round=diverged[0], diverged_client=diverged[1])


def _cell(cell: Cell, setting: Setting, generator: np.random.Generator, rounds: int) -> Sequence:
    """Recalls rise with the rounds, those of the last class slowest; every count is one that a run could have."""
    names = ("model", "rule", "alpha", "num_clients", "partition_seed", "seed")
    facts = {"cell": cell.name, "corpus": cell.corpus.name, **{name: getattr(cell, name) for name in names}}
    slow = 0.25 if cell.model == "textcnn" else 0.45
    tables, who = [], np.flatnonzero(setting.scored)
    for round_ in range(1, rounds + 1):
        lack = np.array([0.1, 0.05, 0.15, slow]) / round_**0.5 + generator.uniform(0, 0.08, len(CLASSES))
        counts = {}
        for protocol in cell.protocols:
            evaluation = EVALUATIONS[protocol](setting)
            total = evaluation.rows[who].sum(axis=1)
            correct = evaluation.mixture[who] @ (1 - lack) * total
            counts[protocol] = (correct if protocol == "label_matched" else np.floor(correct), total)
        tables.append(results.records({**facts, "round": round_}, setting.train[who].sum(axis=1), counts, who))
    return tables
