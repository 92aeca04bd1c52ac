"""YAML as configs are written in it, `key=value` overrides, and dotted keys of nested mappings."""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from functools import reduce
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from fedjax_paradox.errors import InputError
from fedjax_paradox.text import printable

# A text can stand for far more than it shows: aliases double with every line, 1:00:00:... is a number to base 60.
MOST_BYTES, MOST_NODES, MOST_LEVELS, MOST_DIGITS = 2**20, 20_000, 30, 100
UNSWEPT = {"grid", "name", "lanes", "checkpoints_kept", "max_cells"}
_FLOAT = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Safe YAML of text, numbers, booleans, null, lists and mappings, within bounds.

    It reads 5e-5 as a number, and refuses tags, merged keys, and keys that are repeated or no text.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.level = 0
        self.sizes: dict[int, tuple[int, int]] = {}  # of a finished node: nodes and levels in it, aliases spelt out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "tag", None) not in (None, "!"):
            raise _problem(event, f"the tag {event.tag!r:.80} has no meaning in a config; leave it out")
        self.level += 1
        self._check(event, 1, 1)  # before going deeper
        node: Any = super().compose_node(parent, index)
        if id(node) not in self.sizes and isinstance(event, yaml.AliasEvent):
            raise _problem(event, f"the alias *{event.anchor:.80} stands within what it stands for; write it out")
        self.sizes[id(node)] = size = self._size(node)
        self._check(event, *size)
        self.level -= 1
        return node

    def _size(self, node: yaml.Node) -> tuple[int, int]:
        pairs = isinstance(node, yaml.MappingNode)
        inner = [part for pair in node.value for part in pair] if pairs else node.value
        sizes = [] if isinstance(node, yaml.ScalarNode) else [self.sizes[id(part)] for part in inner]
        return 1 + sum(nodes for nodes, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)

    def _check(self, event: yaml.Event, nodes: int, levels: int) -> None:
        if max(nodes, len(self.sizes)) > MOST_NODES:
            raise _problem(event, f"this stands for more than {MOST_NODES:,} values, aliases spelt out; write fewer")
        if self.level - 1 + levels > MOST_LEVELS:
            raise _problem(event, f"values are nested more than {MOST_LEVELS} levels deep; nest them less")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        for key, _ in node.value:
            if key.tag == f"{_TAG}merge":
                raise _problem(key, "merged keys (<<) hide which value counts; write the keys out")
            if key.tag != f"{_TAG}str":
                told = f"the key {key.value!r}" if isinstance(key, yaml.ScalarNode) else "a list or mapping as a key"
                raise _problem(key, f"{told:.80} is no text; put it in quotes")
        key, count = Counter(key.value for key, _ in node.value).most_common(1)[0] if node.value else ("", 1)
        if count > 1:
            raise _problem(node, f"the key {key!r:.80} is written twice; keep one of them")
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        if len(node.value) > MOST_DIGITS:
            raise _problem(
                node, f"a number of more than {MOST_DIGITS} digits; write a shorter one, or put it in quotes"
            )
        integer = node.tag == f"{_TAG}int"
        return self.construct_yaml_int(node) if integer else self.construct_yaml_float(node)

    def construct_other(self, node: yaml.Node) -> Any:
        kind = node.tag.removeprefix(_TAG)
        raise _problem(node, f"{node.value!r:.80} reads as a {kind}, which no key takes; put it in quotes")


def _problem(place: Any, problem: str) -> ConstructorError:
    return ConstructorError(None, None, problem, place.start_mark)


class Dumper(yaml.SafeDumper): ...


for _kind in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _Loader.construct_number)
for _kind in ("timestamp", "value"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _Loader.construct_other)
# YAML 1.1 wants a point and a signed exponent, so it reads 5e-5 as text.
for _dialect in (_Loader, Dumper):
    _dialect.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))


def read_yaml(path: Path) -> Any:
    """What a file holds; InputError where it cannot be read, is too large, or is no YAML of this dialect."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8") if len(content) <= MOST_BYTES else ""
    except (OSError, ValueError) as error:  # a ValueError: a path that holds a NUL, or text that is no UTF-8
        raise InputError(f"cannot read {path}: {error}; give the path of a UTF-8 text file") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path} is larger than {MOST_BYTES:,} bytes, so it is no config; give the path of one")
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        told = "\n".join(map(printable, str(error).splitlines()))  # it quotes the file
        raise InputError(f"{source} is not valid YAML: {told}") from error


def parse_override(text: str) -> tuple[str, Any]:
    """`local.epochs=3` -> `("local.epochs", 3)`; the value is YAML."""
    key, equals, value = text.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise InputError(f"an override must be key=value, such as rounds=3 or local.epochs=1 (got {text!r:.80})")
    return key.strip(), parse_yaml(value, f"the value of the override {text!r:.80}")


def nest(key: str, value: Any) -> dict[str, Any]:
    """`("a.b", 1)` -> `{"a": {"b": 1}}`; below grid, keys stay dotted."""
    _refuse_deep(key)
    parts = key.split(".", 1 if key.startswith("grid.") else -1)
    return reduce(lambda inner, part: {part: inner}, reversed(parts), value)


def _refuse_deep(key: str) -> None:
    if key.count(".") > MOST_LEVELS:
        raise InputError(f"no key is more than {MOST_LEVELS} levels deep (got {key!r:.80}); correct it")


def merge(base: Any, over: Any) -> Any:
    """`over` laid upon `base`, mapping by mapping."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    return {**base, **{key: merge(base.get(key), value) for key, value in over.items()}}


def leaves(data: Any, prefix: str) -> list[tuple[str, Any]]:
    """The dotted key and the value of everything in `data` that is no mapping."""
    if not isinstance(data, Mapping):
        return [(prefix, data)]
    return [leaf for key, value in data.items() for leaf in leaves(value, f"{prefix}.{key}")]


def refuse_twice(keys: Iterable[str], source: str) -> None:
    """Of two values for one key, or for a section and a key in it, neither may win silently."""
    keys = list(keys)
    for key in keys:
        _refuse_deep(key)
    sections = {part for key in keys for part in list(accumulate(key.split("."), "{}.{}".format))[:-1]}
    for key, count in Counter(keys).items():
        if count > 1 or key in sections:
            raise InputError(f"{source} sets {key!r:.80} twice{', whole and in parts' if count == 1 else ''}; keep one")


def flat_grid(grid: Any) -> dict[str, Any]:
    """A grid with nested or dotted keys -> dotted key: values."""
    found = leaves({} if grid is None else grid, "grid")
    for key, values in found:
        swept = {name.split(".")[0] for name in joined(key.removeprefix("grid."))}
        if key == "grid" or swept & UNSWEPT:
            told = printable(key[:80])
            raise InputError(f"{told} cannot be swept; write grid.KEY=[...] with another KEY (got {values!r:.80})")
    axes = [(",".join(joined(key.removeprefix("grid."))), values) for key, values in found]
    refuse_twice((f"grid.{axis}" for axis, _ in axes), "the grid")
    return dict(axes)


def axes(grid: Any) -> dict[str, Any]:
    """A grid with nested or dotted keys -> dotted key: values, without the axes that are null."""
    found = {axis: values for axis, values in flat_grid(grid).items() if values is not None}
    refuse_twice((f"grid.{key}" for axis in found for key in joined(axis)), "the grid")
    return found


def joined(axis: str) -> list[str]:
    """The keys that an axis sweeps together: `seed`, or `partition_seed, seed` with a list of pairs."""
    return [key.strip() for key in axis.split(",")]
