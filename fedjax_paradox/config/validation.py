"""Pydantic's errors in the words of a person who writes YAML."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ValidationError

from fedjax_paradox.config.schema import Experiment
from fedjax_paradox.errors import InputError


def validated(data: Mapping[str, Any], source: str) -> Experiment:
    """`data` as an Experiment, or InputError with a line `key: rule (got value)` for every key that is wrong."""
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        items = error.errors(include_url=False)
    rules: dict[str, list[str]] = {}
    for item in items:
        rules.setdefault(_dotted(item["loc"], data), []).append(_rule(item))
    # The members of a union report one by one.
    lines = [": ".join(filter(None, [key, ", or ".join(dict.fromkeys(found))])) for key, found in rules.items()]
    raise InputError(f"{source} is not a valid experiment:\n  " + "\n  ".join(lines))


def _dotted(location: Sequence[Any], data: Any) -> str:
    """Pydantic's location without what is no key: indices of lists, members of unions."""
    keys = []
    for part in location:
        if isinstance(data, Mapping) and part in data:
            keys.append(str(part))
            data = data[part]
    return ".".join(keys)


def _rule(item: Any) -> str:
    """Pydantic's message in the words of a person who writes YAML."""
    if item["type"] == "missing":
        return f"{item['loc'][-1]} is required"
    message = item["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list").replace("Tuple", "List")
    of_section = item["type"] == "value_error" and isinstance(item["input"], Mapping)
    return message if of_section else f"{message} (got {item['input']!r:.80})"
