"""From cells to audits: reads labels, divides them as a run would, and asks what follows. Nothing is trained."""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_paradox.config import Cell, TextCNN, parse_call
from fedjax_paradox.data.corpus import Texts
from fedjax_paradox.data.partition import class_counts
from fedjax_paradox.evaluation.audit import Finding, Weights, audit_partition, audit_protocol
from fedjax_paradox.evaluation.mixtures import Setting
from fedjax_paradox.extensions import rule_builder
from fedjax_paradox.federated.rules import RULES
from fedjax_paradox.federated.types import Participants
from fedjax_paradox.program import divide, read_texts

ADAPTERS, OTHERS = "adapter leaves", "other leaves"
# Cells that agree in these have one and the same clients and evaluation rows.
_SHARED = {
    "corpus",
    "partition",
    "num_clients",
    "alpha",
    "partition_seed",
    "min_participant_rows",
    "protocols",
}


class Audit(NamedTuple):
    """One partition and what follows from it."""

    cells: tuple[str, ...]  # names of the cells that have this partition
    corpus: str
    classes: tuple[str, ...]
    setting: Setting
    weights: dict[str, Weights | None]  # by rule
    partition: list[Finding]  # under any protocol
    protocols: dict[str, list[Finding]]


def audit(cells: Sequence[Cell], cache_folder: Path) -> list[Audit]:
    """Every partition of the cells once, in the order of their first cell.

    Raises:
      InputError: anything wrong with corpus, partition or rule. Weights and tokenizers are not looked at.
    """
    texts = cache(partial(read_texts, cache_folder))
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.model_dump_json(include=_SHARED), []).append(cell)
    return [_audit(group, texts(group[0].corpus)) for group in groups.values()]


def _audit(cells: Sequence[Cell], texts: Texts) -> Audit:
    setting = _setting(cells[0], texts)
    # Only TextCNN is known to have no adapters without building the model.
    adapters = not all(isinstance(cell.architecture, TextCNN) for cell in cells)
    weights = {rule: rule_weights(rule, setting, adapters) for rule in dict.fromkeys(cell.rule for cell in cells)}
    return Audit(
        cells=tuple(cell.name for cell in cells),
        corpus=texts.name,
        classes=texts.classes,
        setting=setting,
        weights=weights,
        partition=audit_partition(setting, texts.classes, weights),
        protocols={n: audit_protocol(n, setting, texts.classes, weights) for n in cells[0].protocols},
    )


def _setting(cell: Cell, texts: Texts) -> Setting:
    clients, classes = divide(cell, texts), len(texts.classes)
    return Setting(
        train=clients.class_counts,
        holdout=class_counts(clients.holdout, texts.train_labels, classes),
        test=np.bincount(texts.test_labels, minlength=classes),
        available=np.isin(np.arange(cell.num_clients), clients.available),
    )


def rule_weights(rule: str, setting: Setting, adapters: bool) -> Weights | None:
    """The weights f[K] that a rule of `RULES` gives the clients if all of them take part, by group of leaves.

    None where losses or leaves decide them, and for a person's own rule, which may expect the leaves of a real model.

    Raises:
      InputError: an unknown rule, or numbers that do not fit it.
    """
    name, numbers = parse_call(rule)
    build, (numbers,) = rule_builder(name, [numbers], lambda path: path[0].key == ADAPTERS, len(setting.train))
    built = build(**{key: np.float32(value) for key, value in numbers.items()}) if name in RULES else None
    if built is None or built.weights is None or not built.ahead:
        return None
    known = built.weights
    clients, train = len(setting.train), setting.train.astype(np.float32)
    everybody = Participants(np.arange(clients), train.sum(axis=1), train, setting.available, np.zeros(clients))
    groups = (ADAPTERS, OTHERS) if adapters else (OTHERS,)
    weights = {group: np.asarray(w, np.float64) for group, w in known(everybody, dict.fromkeys(groups, 0.0)).items()}
    alike = all(np.array_equal(weights[groups[0]], weight) for weight in weights.values())
    return {"all leaves": weights[groups[0]]} if alike else weights
