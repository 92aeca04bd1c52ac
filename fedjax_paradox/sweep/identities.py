"""What decides a cell's numbers, as one hash: settings, contents, and the source of a person's own functions."""

import hashlib
import json
from collections.abc import Mapping

from fedjax_paradox.config import Cell, identity, parse_call
from fedjax_paradox.registry import source_digest


def hashed(cell: Cell, inputs: Mapping[str, str]) -> str:
    """32 hex digits: settings, contents of corpus and weights, and source of a person's own functions."""
    decisive = json.dumps([identity(cell), inputs, own_code(cell)], sort_keys=True)
    return hashlib.sha256(decisive.encode()).hexdigest()[:32]


def own_code(cell: Cell) -> dict[str, str]:
    """Name -> digest of every `module:function` that decides a cell's numbers."""
    return {name: source_digest(name) for name in own_names(cell)}


def own_names(cell: Cell) -> list[str]:
    """Every `module:function` that a cell names; nothing is imported."""
    local, kind, architecture = cell.local, cell.partition.kind, cell.architecture.architecture
    calls = (cell.rule, local.objective, local.optimizer, kind, architecture, *cell.protocols)
    return [name for name, _ in map(parse_call, calls) if ":" in name]
