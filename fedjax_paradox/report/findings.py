"""What the audit says of the partitions that a report's runs had, where their corpus can still be read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedjax_paradox.analysis.folders import Folder, Reading
from fedjax_paradox.errors import InputError
from fedjax_paradox.report.tables import Table, number
from fedjax_paradox.storage.folder import CONFIG
from fedjax_paradox.sweep.audits import Audit, audit, not_run, shares_one_model

ZERO_GAP = "gap-zero-by-construction"
ANY = "any"  # the protocol of findings that hold under all of them


class Audits(NamedTuple):
    """Verified audits and why the others are missing."""

    by_cell: dict[str, Audit]  # cell of the merged table -> its partition
    missing: list[str]  # a sentence for every folder without


def audit_folders(reading: Reading, cache_folder: Path) -> Audits:
    """Divides every folder's corpus again, and keeps what gives the clients of the stored table.

    A corpus that has changed since (other files, another Python's docstrings) says nothing about the run. A folder may
    be somebody else's: nothing that it names is run, the network is not used, and no message quotes what is in files.
    """
    audits = Audits({}, [])
    rows = train_rows(reading.table)
    for index, folder in enumerate(reading.folders):
        audits.missing.extend(f"{folder.path}: {sentence}" for sentence in not_run(folder.cells))
        try:
            found = audit(folder.cells, cache_folder, own_code=False)
        except (InputError, OSError):
            audits.missing.append(f"No audit of {folder.path}, its corpus cannot be read{_why(folder)}.")
            continue
        by_name = {name: one for one in found for name in one.cells}
        owned = {name: origin for name, (owner, origin) in reading.origin.items() if owner == index and name in rows}
        ours = {name: by_name[origin] for name, origin in owned.items() if origin in by_name}
        if all(
            np.array_equal(one.setting.train.sum(axis=1)[one.setting.scored], rows[name]) for name, one in ours.items()
        ):
            audits.by_cell.update(ours)
        else:
            audits.missing.append(
                f"No audit of {folder.path}: its corpus, read again, gives the clients other numbers of rows than "
                "the run had. It has changed since."
            )
    return audits


def _why(folder: Folder) -> str:
    """Without what a reader of files says, since that may quote them."""
    files = (file for cell in folder.cells for file in (cell.corpus.files.train, cell.corpus.files.test) if file)
    if gone := next((file for file in files if not file.is_file()), None):
        return f": no such file: {gone}"
    return f" here, without the network; `fedjax-paradox audit {folder.path / CONFIG}` says more"


def fixed(reading: Reading, audits: Mapping[str, Audit]) -> dict[str, set[str]]:
    """Cell -> protocols under which its partition alone makes all accuracies equal; none where clients have models of
    their own.

    From the audits, and from the numbers of evaluation rows in the table, which a corpus that cannot be read has left
    there: a client that is scored on as many test rows as there are is scored on all of them. What was right in them is
    not looked at.
    """
    rules = {name: reading.folders[owner].cell(origin).rule for name, (owner, origin) in reading.origin.items()}
    sharing = {rule for rule in set(rules.values()) if _shares_one_model(rule)}
    found = _all_rows(reading.table)
    for name, one in audits.items():
        found.setdefault(name, set()).update(protocol for protocol, code in _codes(one) if code == ZERO_GAP)
    return {name: protocols for name, protocols in found.items() if rules[name] in sharing}


def _shares_one_model(rule: str) -> bool:
    try:
        return shares_one_model(rule)
    except InputError:  # a rule of another version, of which nothing can be said
        return False


def _all_rows(table: pa.Table) -> dict[str, set[str]]:
    """Cell -> protocols under which all clients that have an accuracy are scored on all test rows, or only one has
    any."""
    held = table.filter(pc.and_(pc.greater(table["train_rows"], 0), pc.greater(table["total"], 0)))
    scored = held.group_by(["cell", "protocol", "client"], use_threads=False).aggregate([("total", "min")])
    totals: dict[str, dict[str, list[int]]] = {}
    for row in scored.to_pylist():
        totals.setdefault(row["cell"], {}).setdefault(row["protocol"], []).append(row["total_min"])
    found: dict[str, set[str]] = {}
    for cell, by_protocol in totals.items():
        every = set(by_protocol.get("global", []))
        alike = {"global"} | ({"label_filtered"} if set(by_protocol.get("label_filtered", [])) == every else set())
        found[cell] = {name for name, rows in by_protocol.items() if len(rows) == 1 or name in alike}
    return found


def train_rows(table: pa.Table) -> dict[str, np.ndarray]:
    """Cell -> i[S], train rows of the clients that are scored."""
    first = table.group_by(["cell", "client"], use_threads=False).aggregate([("train_rows", "min")])
    found: dict[str, dict[int, int]] = {}
    for row in first.to_pylist():
        found.setdefault(row["cell"], {})[row["client"]] = row["train_rows_min"]
    return {cell: np.array([rows[client] for client in sorted(rows)]) for cell, rows in found.items()}


def overview(audits: Sequence[tuple[Mapping[str, Any], Audit]]) -> Table:
    """In how many partitions of each condition each finding holds.

    Args:
      audits: a partition's columns corpus, num_clients, alpha and partition_seed, and its audit. Several of the same
        partition, from folders that share it, count once.
    """
    found: dict[tuple, dict[int, set[tuple[str, str]]]] = {}
    for told, one in audits:
        partitions = found.setdefault((told["corpus"], told["num_clients"], told["alpha"]), {})
        partitions.setdefault(told["partition_seed"], set()).update(_codes(one))
    keys = sorted(found)
    several = [len({key[part] for key in keys}) > 1 for part in (0, 1)]
    codes = sorted({code for key in keys for one in found[key].values() for code in one})
    return Table(
        name="audit",
        caption="What the partitions alone decide, before any training: in how many of them each finding holds.",
        columns=["protocol", "finding", *(_heading(key, several) for key in keys)],
        numeric=[False, False, *(True for _ in keys)],
        rows=[[*code, *(_share(code, found[key]) for key in keys)] for code in codes],
    )


def _share(code: tuple[str, str], partitions: Mapping[int, set[tuple[str, str]]]) -> str:
    return f"{sum(code in one for one in partitions.values())} of {len(partitions)}"


def _codes(one: Audit) -> set[tuple[str, str]]:
    groups = {ANY: one.partition, **one.protocols}
    return {(protocol, finding.code) for protocol, findings in groups.items() for finding in findings}


def _heading(key: tuple, several: Sequence[bool]) -> str:
    corpus, clients, alpha = key
    shown = [corpus] * several[0] + [f"K={clients}"] * several[1] + [f"α={number(alpha)}"]
    return ", ".join(shown)
