"""YAML as configs are written in it, `key=value` overrides, and dotted keys of nested mappings."""

import re
from collections.abc import Hashable, Mapping
from functools import reduce
from typing import Any

import yaml

from fedjax_paradox.errors import InputError

_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 5e-5 as a number and refuses a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value]
        if repeated := [name for name in names if names.count(name) > 1]:
            problem = f"the key {repeated[0]!r} is written twice; keep one of them"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper): ...


# YAML 1.1 wants a point and a signed exponent, so it reads 5e-5 as text.
for _dialect in (_Loader, Dumper):
    _dialect.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_yaml(text: str, source: str) -> Any:
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{source} is not valid YAML: {error}") from error


def parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise InputError(f"an override must be key=value, such as rounds=3 or local.epochs=1 (got {text!r})")
    return key.strip(), parse_yaml(value, f"the value of the override {text!r}")


def nest(key: str, value: Any) -> dict[str, Any]:
    """`("a.b", 1)` -> `{"a": {"b": 1}}`; below grid, keys stay dotted."""
    parts = key.split(".", 1 if key.startswith("grid.") else -1)
    return reduce(lambda inner, part: {part: inner}, reversed(parts), value)


def merge(base: Any, over: Any) -> Any:
    """`over` laid upon `base`, mapping by mapping."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    return {**base, **{key: merge(base.get(key), value) for key, value in over.items()}}


def leaves(data: Any, prefix: str) -> list[tuple[str, Any]]:
    if not isinstance(data, Mapping):
        return [(prefix, data)]
    return [leaf for key, value in data.items() for leaf in leaves(value, f"{prefix}.{key}")]


def axes(grid: Any) -> dict[str, Any]:
    """A grid with nested or dotted keys -> dotted key: values, without the axes that are null."""
    found = leaves({} if grid is None else grid, "grid")
    for key, values in found:
        swept = {name.split(".")[0] for name in joined(key.removeprefix("grid."))}
        if key == "grid" or swept & {"grid", "name", "lanes", "checkpoints_kept"}:
            raise InputError(f"{key} cannot be swept; write grid.KEY=[...] with another KEY (got {values!r:.80})")
    return {",".join(joined(key.removeprefix("grid."))): values for key, values in found if values is not None}


def joined(axis: str) -> list[str]:
    """The keys that an axis sweeps together: `seed`, or `partition_seed, seed` with a list of pairs."""
    return [key.strip() for key in axis.split(",")]
