"""Many small cases in one child; where one ends the child, it is at fault and another child goes on."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import server
from outcomes import TRACEBACK, Lab, Result, wrong

Check = Callable[..., tuple[str, str]]


def played(
    lab: Lab,
    scratch: Path,
    items: Sequence[tuple[str, tuple]],
    check: Check,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Result]:
    """`check(lab, folder, *arguments)` -> (ending, told) of every (name, arguments), each in an empty folder."""
    told = scratch / "told"
    while items:
        told.write_text("")
        ended = server.call(_all, lab, scratch, items, check, cwd=lab.study, environment=environment)
        found: list[Any] = [json.loads(line) for line in told.read_text().splitlines()]
        if len(found) < len(items):
            found.append(wrong(ended) or (TRACEBACK, f"exit code {ended.code}"))
        for (name, _), result in zip(items, found, strict=False):
            yield Result(name, *result)
        items = items[len(found) :]


def _all(lab: Lab, scratch: Path, items: Sequence[tuple[str, tuple]], check: Check) -> tuple[int, None]:
    logging.disable()
    with (scratch / "told").open("a") as told:
        for number, (_, arguments) in enumerate(items):
            folder = scratch / f"{os.getpid()}-{number}"
            folder.mkdir()
            told.write(json.dumps(_one(check, lab, folder, arguments)) + "\n")
            told.flush()
    return 0, None


def _one(check: Check, lab: Lab, folder: Path, arguments: tuple) -> tuple[str, str]:
    try:
        return check(lab, folder, *arguments)
    except Exception as error:  # what a person would see as a traceback
        return TRACEBACK, f"{type(error).__name__}: {error}"[:300]
