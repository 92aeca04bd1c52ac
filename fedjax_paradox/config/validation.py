"""Pydantic's errors in the words of a person who writes YAML."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ValidationError

from fedjax_paradox.config.schema import Experiment
from fedjax_paradox.errors import InputError
from fedjax_paradox.text import printable

_LINES = 12  # keys told of, and rules of one key
_OF_ONE = {"int_type", "float_type", "string_type", "literal_error", "bool_type"}


def validated(data: Mapping[str, Any], source: str) -> Experiment:
    """`data` as an Experiment, or InputError with a line `key: rule (got value)` for every key that is wrong."""
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        items = error.errors(include_url=False)
    rules: dict[str, list[str]] = {}
    for item in items:
        key = _dotted(item["loc"], data)
        rules.setdefault(key, []).append(_rule(item, key))
    # The members of a union report one by one.
    lines = [_line(key, list(dict.fromkeys(found))) for key, found in rules.items()]
    told = [*lines[:_LINES], *([f"and {len(lines) - _LINES} more"] if len(lines) > _LINES else [])]
    raise InputError(f"{source} is not a valid experiment:\n  " + "\n  ".join(told))


def _line(key: str, rules: list[str]) -> str:
    several = [f"and {len(rules) - _LINES} more"] if len(rules) > _LINES else []
    return ": ".join(filter(None, [printable(key[:80]), ", or ".join(rules[:_LINES] + several)]))


def _dotted(location: Sequence[Any], data: Any) -> str:
    """Pydantic's location without what is no key: indices of lists, members of unions."""
    keys = []
    for part in location:
        if isinstance(data, Mapping) and part in data:
            keys.append(str(part))
            data = data[part]
    return ".".join(keys)


def _rule(item: Any, key: str) -> str:
    """Pydantic's message in the words of a person who writes YAML."""
    if item["type"] == "missing":
        return f"{item['loc'][-1]} is required"
    message = item["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list").replace("Tuple", "List")
    if item["type"] == "value_error" and isinstance(item["input"], Mapping):
        return message
    got = f"{message} (got {item['input']!r:.80})"
    # One value is wanted, and no item of a list.
    swept = isinstance(item["input"], list) and item["type"] in _OF_ONE and int not in map(type, item["loc"])
    return f"{got}; for a run of each, write grid.{printable(key[:80])}=[...]" if swept else got
