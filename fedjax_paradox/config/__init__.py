"""The schema of an experiment: YAML plus `key=value` overrides -> `Experiment` -> the cells of its grid.

Defaults are those of arXiv:2605.08992. Local training: published < `models.NAME.local` < `local` < `grid`.
Every mistake is an `InputError`. Paths are relative to the working directory.
"""

from fedjax_paradox.config.calls import format_call, parse_call
from fedjax_paradox.config.files import experiment_of, load, to_yaml
from fedjax_paradox.config.grid import cells, content_hash, identity, structure
from fedjax_paradox.config.schema import (
    DROPOUT_RATES,
    Cell,
    Corpus,
    CustomModel,
    Experiment,
    Local,
    Partition,
    TextCNN,
    Transformer,
)

__all__ = [
    "DROPOUT_RATES",
    "Cell",
    "Corpus",
    "CustomModel",
    "Experiment",
    "Local",
    "Partition",
    "TextCNN",
    "Transformer",
    "cells",
    "content_hash",
    "experiment_of",
    "format_call",
    "identity",
    "load",
    "parse_call",
    "structure",
    "to_yaml",
]
