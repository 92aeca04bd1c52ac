"""A file and its overrides -> `Experiment`, and back to YAML."""

import itertools
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from fedjax_paradox.config.dialect import (
    Dumper,
    flat_grid,
    joined,
    leaves,
    merge,
    nest,
    parse_override,
    read_yaml,
    refuse_twice,
)
from fedjax_paradox.config.grid import cells
from fedjax_paradox.config.schema import Experiment
from fedjax_paradox.config.validation import validated
from fedjax_paradox.errors import InputError
from fedjax_paradox.text import printable


def load(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """The YAML file at `path` under `key=value` overrides (values are YAML), every cell checked; or InputError."""
    return experiment_of(read_yaml(Path(path)), overrides, str(path))


def experiment_of(data: Any, overrides: Sequence[str] = (), path: str = "the mapping") -> Experiment:
    """As `load`, of what a file says, nested or by dotted keys."""
    if not isinstance(data, Mapping):
        raise InputError(f"{path} must hold `key: value` lines, such as `name: study` (got {data!r:.80})")
    lines = list(itertools.starmap(_nested, data.items()))
    keys = [key for line in lines for top, value in line.items() for key, _ in leaves(value, top)]
    refuse_twice(keys, path)
    assignments = [parse_override(text) for text in overrides]
    experiment = validated(reduce(merge, [*lines, *itertools.starmap(_nested, assignments)], {}), path)
    _refuse_masked(assignments, experiment.grid)
    cells(experiment)
    return experiment


def _nested(key: str, value: Any) -> dict[str, Any]:
    """A line of the file or an override as nested mappings, axes of the grid by their one dotted key."""
    data = nest(key, value)
    return {"grid": flat_grid(data["grid"])} if data.get("grid") is not None else data


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
            key, value, axis = (printable(str(part)[:80]) for part in (key, value, axis))
            remedy = f"write grid.{axis}=[{value}], or drop the axis: grid.{axis}=null"
            raise InputError(f"the override {key}={value} has no effect, the grid sweeps {axis}; {remedy}")
