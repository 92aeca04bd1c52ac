"""A person's own functions: finding what `module:function` names, and what it is made of."""

import difflib
import hashlib
import importlib
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any

from fedjax_paradox.errors import InputError


def resolve(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """The table's entry of that name, or what `module:function` points to.

    Raises:
      InputError: neither; names the nearest entry.
    """
    if name in table:
        return table[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        near = difflib.get_close_matches(name, table, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(table))}"
        raise InputError(f"unknown {what} {name!r}: {hint}; your own goes in as module:function")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a person's module raises while it is imported
        raise InputError(
            f"{what} {name!r} cannot be imported ({first_line(error)}); it must be module:function, the module in the "
            "working directory or on PYTHONPATH"
        ) from error
    if not callable(found):
        raise InputError(f"{what} {name!r} must be module:function, but {attribute} is of type {type(found).__name__}")
    return found


def source_digest(name: str) -> str:
    """SHA-256 of the source of `module:function`, and of what it uses of its own module."""
    digest = hashlib.sha256()
    for text in _sources(resolve("function", name, {}), set()):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _sources(found: Any, seen: set[int]) -> Iterator[str]:
    """Source of a function or class, then of the functions, classes and plain values of its module that it names."""
    module = inspect.getmodule(found)
    if id(found) in seen or module is None:
        return
    seen.add(id(found))
    try:
        yield inspect.getsource(found)
    except (OSError, TypeError):  # made by a call, such as functools.partial: its module stands for it
        yield inspect.getsource(module)
        return
    for name in sorted(_names(found)):
        value = vars(module).get(name)
        if isinstance(value, types.FunctionType | type) and value.__module__ == module.__name__:
            yield from _sources(value, seen)
        elif isinstance(value, int | float | str | bool | tuple):
            yield f"{name} = {value!r}"


def _names(found: Any) -> set[str]:
    """Every name that the code of a function or class reads, inner functions included."""
    codes = (
        [found.__code__]
        if hasattr(found, "__code__")
        else [f.__code__ for f in vars(found).values() if hasattr(f, "__code__")]
    )
    names: set[str] = set()
    while codes:
        code = codes.pop()
        names |= set(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return names


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.300}" if lines else type(error).__name__
