"""What was run, folder by folder: settings, machine, how far every cell is and how it ended."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fedjax_paradox.analysis.folders import Folder, Reading
from fedjax_paradox.config import cells, to_yaml
from fedjax_paradox.report.findings import train_rows
from fedjax_paradox.report.tables import number
from fedjax_paradox.storage.cells import NOBODY, Entry


class Run(NamedTuple):
    """One folder, for the section on what was run."""

    title: str
    facts: dict[str, str]
    told: dict[str, list[str]]  # what is to be known of single cells, by heading
    config: str  # YAML


def runs(reading: Reading) -> list[Run]:
    """One for each folder, in their order."""
    corpora = dict(zip(reading.origin.values(), (label["corpus"] for label in reading.labels.values()), strict=True))
    return [
        _run(
            f"{index + 1}. {folder.experiment.name} ({folder.path})",
            folder,
            {name: corpus for (owner, name), corpus in corpora.items() if owner == index},
        )
        for index, folder in enumerate(reading.folders)
    ]


def _run(title: str, folder: Folder, corpora: Mapping[str, str]) -> Run:
    reached: dict[str, list[str]] = {}
    for cell, (done, wanted) in folder.unfinished.items():
        reached.setdefault(f"round {done} of {wanted}", []).append(cell)
    current = {cell.name for cell in cells(folder.experiment)}
    told = {
        "Unfinished, shown as far as they are": [f"{far}: {'; '.join(names)}" for far, names in reached.items()],
        "Diverged": [f"{name}: {_end(entry)}" for name, entry in folder.diverged().items()],
        "The same run by construction, trained once": [
            f"{name} is {entry.same_as}" for name, entry in folder.entries.items() if entry.same_as
        ],
        "No longer in the config, with the settings that they had": [
            cell.name for cell in folder.cells if cell.name not in current
        ],
    }
    told = {heading: lines for heading, lines in told.items() if lines}
    return Run(title, _facts(folder, corpora), told, to_yaml(folder.experiment))


def _facts(folder: Folder, corpora: Mapping[str, str]) -> dict[str, str]:
    return _settings(folder, corpora) | _parameters(folder) | _scored(folder) | _surroundings(folder)


def _settings(folder: Folder, corpora: Mapping[str, str]) -> dict[str, str]:
    swept = {"corpus": [corpora.get(cell.name, cell.corpus.name) for cell in folder.cells]} | {
        name: [getattr(cell, name) for cell in folder.cells]
        for name in ("model", "rule", "alpha", "num_clients", "rounds", "partition_seed", "seed")
    }
    return {name.replace("_", " "): ", ".join(map(number, dict.fromkeys(values))) for name, values in swept.items()}


def _parameters(folder: Folder) -> dict[str, str]:
    """Of every model; cells may have vocabularies of their own, and so other numbers."""
    counts: dict[str, dict[str, None]] = {}
    for cell in folder.cells:
        entry = folder.entries.get(cell.name)
        if entry and entry.parameters:
            told = f"{entry.trainable_parameters:,} of {entry.parameters:,}"
            counts.setdefault(cell.model, {})[told] = None
    models = [f"{model} {' or '.join(found)}" for model, found in counts.items()]
    return {"parameters trained": ", ".join(models)} if models else {}


def _scored(folder: Folder) -> dict[str, str]:
    draws = dict.fromkeys(
        str(cell.evaluate_clients)
        for cell in folder.cells
        if cell.evaluate_clients and cell.evaluate_clients < cell.num_clients
    )
    rows = sorted({int(clients.sum()) for clients in train_rows(folder.table).values()})
    counts = " to ".join(f"{count:,}" for count in dict.fromkeys((*rows[:1], *rows[-1:])))
    if draws:
        return {"clients scored": f"a draw of {', '.join(draws)}", "train rows of those scored": counts}
    return {"train rows": counts}


def _surroundings(folder: Folder) -> dict[str, str]:
    record = folder.record
    packages = record.get("packages")
    versions = packages.items() if isinstance(packages, Mapping) else ()
    protocols = dict.fromkeys(protocol for cell in folder.cells for protocol in cell.protocols)
    return {
        "cells": str(len(folder.cells)),
        "protocols": ", ".join(protocols),
        "config hash": _told(record, "hash"),
        "commit": _told(record, "git_commit"),
        "machine": f"{_told(record, 'devices')}; {_told(record, 'platform')}",
        "versions": ", ".join([f"Python {_told(record, 'python')}", *(f"{name} {v}" for name, v in versions)]),
    }


def _end(entry: Entry) -> str:
    who = "the rule's result was" if entry.diverged_client == NOBODY else f"client {entry.diverged_client} was"
    last = entry.diverged_round - 1
    counts = f"it counts with round {last}" if last else "it has no round to count with"
    return f"status diverged, in round {entry.diverged_round}, where {who} not finite; {counts}"


def _told(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if isinstance(value, list):
        kinds = dict.fromkeys(map(str, value))
        return ", ".join(f"{value.count(kind)} × {kind}" for kind in kinds)
    return "not recorded" if value is None else str(value)
