"""Writes docs/cli.md from the functions behind the commands: python docs/write_cli.py > docs/cli.md"""

import inspect
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, get_args, get_type_hints

from typer.models import ArgumentInfo

from fedjax_paradox.cli import app

INTRODUCTION = """# Command line

Written by `docs/write_cli.py`. `python -m fedjax_paradox` is the same command. `--help` after any command says what
stands here, `--version` alone names the version, and `--install-completion` makes the shell complete commands and
options.

A CONFIG is a YAML file of the [keys](keys.md); `KEY=VALUE` changes one of them, with YAML on the right of the sign.
Exit codes:

| code | means |
|--:|---|
| 0 | done |
| 2 | a mistake, or a full disk: one line says what helps |
| 3 | a cell diverged; the others are finished |
| 130 | stopped by Ctrl-C; the same command goes on |
"""


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(line for command in app.registered_commands for line in _section(command))])


def commands() -> dict[str, Callable[..., Any]]:
    """Name -> the function behind it."""
    return {command.name or command.callback.__name__: command.callback for command in app.registered_commands}


def _section(command: Any) -> Iterator[str]:
    hints = get_type_hints(command.callback, include_extras=True)
    defaults = inspect.signature(command.callback).parameters
    told = [_row(name, hints[name], defaults[name].default) for name in defaults]
    shown = " ".join(["fedjax-paradox", command.name or command.callback.__name__, *(row[0] for row in told if row[1])])
    yield f"## `{shown}`\n"
    yield f"{inspect.getdoc(command.callback)}\n"
    yield "| argument or option | meaning | default |\n|---|---|---|"
    yield from (f"| `{shape}` | {meaning} | {default} |" for shape, _, meaning, default in told)
    yield ""


def _row(name: str, hint: Any, default: Any) -> tuple[str, bool, str, str]:
    """(how it is written, whether it is an argument, meaning, default)"""
    kind, info = get_args(hint)
    meaning = info.help or "Changes of keys, in the order given."
    plain = "" if default in (None, False, inspect.Parameter.empty) else f"`{default}`"
    if isinstance(info, ArgumentInfo):
        shape = info.metavar or name.upper()
        shape = shape if default is inspect.Parameter.empty or shape.startswith("[") else f"[{shape}]"
        return shape, True, meaning, plain
    # Inside Annotated the first name is taken for the default.
    names = [text for text in (info.default, *(info.param_decls or ())) if isinstance(text, str)]
    flag = names[0] if names else f"--{name.replace('_', '-')}"
    return (flag if kind is bool else f"{flag} {_value(kind)}"), False, meaning, plain


def _value(kind: Any) -> str:
    """`PATH`, `INT`, or the values that there are."""
    (chosen,) = [part for part in get_args(kind) or (kind,) if part is not type(None)]
    if issubclass(chosen, Enum):
        return " or ".join(member.value for member in chosen)
    return {"str": "TEXT"}.get(chosen.__name__, chosen.__name__.upper())


if __name__ == "__main__":
    sys.stdout.write(page())
