"""From cells to audits: reads labels, divides them as a run would, and asks what follows. Nothing is trained."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_paradox.config import Cell, TextCNN, parse_call
from fedjax_paradox.data.corpus import Texts
from fedjax_paradox.data.partition import class_counts
from fedjax_paradox.data.published import without_network
from fedjax_paradox.evaluation.audit import Finding, Weights, audit_partition, audit_protocol, with_own_models
from fedjax_paradox.evaluation.mixtures import Setting
from fedjax_paradox.federated.methods import RULES
from fedjax_paradox.federated.types import Participants
from fedjax_paradox.storage import cells as stored
from fedjax_paradox.storage import folder
from fedjax_paradox.sweep.clients import divide, read_texts
from fedjax_paradox.sweep.extensions import rule_builder, serves_own_models

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
    "evaluate_clients",
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


def audit(cells: Sequence[Cell], cache_folder: Path, own_code: bool = True) -> list[Audit]:
    """Every partition of the cells once, in the order of their first cell; apart for rules that serve each client a
    model of its own.

    Args:
      own_code: False for cells of an output folder, which may be somebody else's: what they name as
        `module:function` is neither imported nor called (see `not_run`), and a corpus is read from files and from
        the cache of the hub alone, never over the network.

    Raises:
      InputError: anything wrong with corpus, partition or rule. Weights and tokenizers are not looked at.
    """
    texts = cache(partial(read_texts, cache_folder))
    groups: dict[tuple[str, bool], list[Cell]] = {}
    for cell in cells:
        if own_code or not _is_own(cell.partition.kind):
            name, numbers = parse_call(cell.rule)
            own_models = (own_code or not _is_own(name)) and serves_own_models(name, numbers)
            groups.setdefault((cell.model_dump_json(include=_SHARED), own_models), []).append(cell)
    with nullcontext() if own_code else without_network():
        return [
            _audit(group, texts(group[0].corpus), own_code, own_models) for (_, own_models), group in groups.items()
        ]


def not_run(cells: Sequence[Cell]) -> list[str]:
    """What an audit without `own_code` leaves out, a sentence for each function."""
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        rule, _ = parse_call(cell.rule)
        told = {f"partition.kind {cell.partition.kind}": "no audit of", f"rule {rule}": "its weights are not known in"}
        for function, lost in told.items():
            if _is_own(function):
                found.setdefault(f"{function} is the folder's own code and was not run; {lost} ", {})[cell.name] = None
    return [f"{sentence}{_listed(names)}." for sentence, names in found.items()]


def _listed(names: Iterable[str], most: int = 5) -> str:
    every = list(names)
    return "; ".join(every[:most]) + (f" and {len(every) - most} more cells" if len(every) > most else "")


def in_output_folder(config: Path) -> bool:
    """Whether a config is a run's, not one that a person wrote: beside a run's records, or with their first line."""
    if any((place / name).exists() for place in _places(config) for name in (folder.RECORD, stored.FILE)):
        return True
    header = folder.with_header("").partition("sha256")[0].encode()
    if not config.is_file():
        return False
    with config.open("rb") as file:
        return file.read(len(header)) == header


def _places(config: Path) -> tuple[Path, Path]:
    return config.parent, config.resolve().parent


def _is_own(name: str) -> bool:
    return ":" in name


def shares_one_model(rule: str) -> bool:
    """Whether all clients are scored with one model; False for a person's own rule, which is not asked.

    Raises:
      InputError: an unknown rule.
    """
    name, numbers = parse_call(rule)
    return not _is_own(name) and not serves_own_models(name, numbers)


def _audit(cells: Sequence[Cell], texts: Texts, own_code: bool, own_models: bool) -> Audit:
    setting = _setting(cells[0], texts)
    # Only TextCNN is known to have no adapters without building the model.
    adapters = not all(isinstance(cell.architecture, TextCNN) for cell in cells)
    rules = dict.fromkeys(cell.rule for cell in cells)
    weights = {rule: rule_weights(rule, setting, adapters) if own_code or not _is_own(rule) else None for rule in rules}
    protocols = {n: audit_protocol(n, setting, texts.classes, weights) for n in cells[0].protocols}
    return Audit(
        cells=tuple(cell.name for cell in cells),
        corpus=texts.name,
        classes=texts.classes,
        setting=setting,
        weights=weights,
        partition=audit_partition(setting, texts.classes, weights),
        protocols={n: with_own_models(found) for n, found in protocols.items()} if own_models else protocols,
    )


def _setting(cell: Cell, texts: Texts) -> Setting:
    clients, classes = divide(cell, texts), len(texts.classes)
    return Setting(
        train=clients.class_counts,
        holdout=class_counts(clients.holdout, texts.train_labels, classes),
        test=np.bincount(texts.test_labels, minlength=classes),
        available=np.isin(np.arange(cell.num_clients), clients.available),
        scored=np.isin(np.arange(cell.num_clients), clients.scored),
    )


def rule_weights(rule: str, setting: Setting, adapters: bool) -> Weights | None:
    """The weights f[K] that a rule of `RULES` gives the clients if all of them take part, by group of leaves.

    None where losses or leaves decide them or nobody is weighed, and for a person's own rule, which may expect the
    leaves of a real model.

    Raises:
      InputError: an unknown rule, or numbers that do not fit it.
    """
    name, numbers = parse_call(rule)
    given = {"is_adapter": lambda path: path[0].key == ADAPTERS, "num_clients": len(setting.train), "lora_scale": 1.0}
    build, (numbers,) = rule_builder(name, [numbers], given)
    built = build(**{key: np.float32(value) for key, value in numbers.items()}) if name in RULES else None
    if built is None or built.weights is None or not built.ahead or built.needs_start_loss or built.pooled:
        return None
    known = built.weights
    clients, train = len(setting.train), setting.train.astype(np.float32)
    # A weighting reads rows and classes; how many steps they take is left open.
    nothing = np.zeros(clients, np.int32)
    everybody = Participants(np.arange(clients), train.sum(axis=1), train, setting.available, nothing, nothing)
    groups = dict.fromkeys((ADAPTERS, OTHERS) if adapters else (OTHERS,), np.zeros((), np.float32))
    found = known(everybody, groups, built.init(groups))
    weights = {group: np.asarray(weight, np.float64) for group, weight in found.items()}
    first = next(iter(weights.values()))
    alike = all(np.array_equal(first, weight) for weight in weights.values())
    return {"all leaves": first} if alike else weights
