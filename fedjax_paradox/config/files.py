"""A file and its overrides -> `Experiment`, and back to YAML."""

import itertools
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from fedjax_paradox.config.dialect import Dumper, axes, joined, leaves, merge, nest, parse_override, parse_yaml
from fedjax_paradox.config.grid import cells
from fedjax_paradox.config.schema import Experiment
from fedjax_paradox.config.validation import validated
from fedjax_paradox.errors import InputError


def load(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """The YAML file at `path` under `key=value` overrides (values are YAML), every cell checked; or InputError."""
    try:
        data = parse_yaml(Path(path).read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}; give the path of a UTF-8 text file") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold `key: value` lines, such as `name: study` (got {data!r:.80})")
    data["grid"] = axes(data.get("grid"))
    assignments = [parse_override(text) for text in overrides]
    lines = [(str(key), value) for key, value in data.items()]
    experiment = validated(reduce(merge, itertools.starmap(nest, lines + assignments), {}), str(path))
    _refuse_masked(assignments, experiment.grid)
    cells(experiment)
    return experiment


def to_yaml(experiment: Experiment) -> str:
    """The whole configuration, defaults included, as YAML that `load` reads back to an equal Experiment."""
    data = experiment.model_dump(mode="json")
    # A default that is written out would hide the layers below.
    data["local"] = experiment.local.model_dump(exclude_unset=True)
    for name, model in experiment.models.items():
        data["models"][name]["local"] = model.local.model_dump(exclude_unset=True)
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def _refuse_masked(assignments: Sequence[tuple[str, Any]], grid: Mapping[str, Any]) -> None:
    """An override of a swept key would have no effect."""
    found = [leaf for key, value in assignments for leaf in leaves(value, key)]
    for (key, value), axis in itertools.product(found, grid):
        if any(f"{key}.".startswith(f"{swept}.") for swept in joined(axis)):
            remedy = f"write grid.{axis}=[{value}], or drop the axis: grid.{axis}=null"
            raise InputError(f"the override {key}={value} has no effect, the grid sweeps {axis}; {remedy}")
