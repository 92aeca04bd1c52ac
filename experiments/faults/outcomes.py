"""Cases, how they end, and the table of them."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from server import Ended

IDENTICAL, REFUSED, REPAIRED = "identical", "refused", "repaired"
SILENT, HANG, TRACEBACK = "silent difference", "hang", "traceback"
ENDINGS = (IDENTICAL, REFUSED, REPAIRED, SILENT, HANG, TRACEBACK)
NEVER = (SILENT, HANG, TRACEBACK)
SHOWN = 20  # of a section's results that may not be


class Lab(NamedTuple):
    """What all cases share and none may change."""

    work: Path
    study: Path  # the study's files, where commands run
    cache: Path  # tokens and compiled programs
    truth: dict[str, Any]  # by rounds and setting: the numbers of an undisturbed run
    folders: dict[str, Path]  # output folders of undisturbed runs


class Result(NamedTuple):
    """How a case ended."""

    name: str
    ending: str
    told: str = ""  # the message, the last line of the traceback, what differs


class Case(NamedTuple):
    """`play(lab, scratch, *arguments)` gives the results; scratch is an empty folder."""

    name: str
    play: Callable[..., Iterable[Result]]
    arguments: tuple = ()


def wrong(ended: Ended) -> tuple[str, str] | None:
    """(ending, what was told) of a call that may not end so; None for one that may."""
    if ended.hung:
        return HANG, ended.errors[-300:]
    if "Traceback (most recent call last)" in ended.errors or ended.code not in (0, 2, 3, 130):
        lines = ended.errors.strip().splitlines() or [""]
        return TRACEBACK, f"exit code {ended.code}: {lines[-1]:.300}"
    if ended.code == 2 and len(re.findall(r"^error: |^│ ", ended.errors, re.MULTILINE)) != 1:
        return TRACEBACK, f"exit code 2 without one message: {ended.errors[-300:]}"
    return None


def judged(ended: Ended, truth: Any) -> tuple[str, str]:
    """(ending, what was told) of a call whose value should be `truth`."""
    if failure := wrong(ended):
        return failure
    if ended.code == 2:
        return REFUSED, message(ended)
    if ended.value != truth:
        return SILENT, f"{differing(ended.value, truth)}; {ended.errors[-200:]}"
    notes = [line for line in ended.errors.splitlines() if re.search("damaged|moved to|not readable", line)]
    return (REPAIRED, notes[0]) if notes else (IDENTICAL, "")


def message(ended: Ended) -> str:
    lines = [line for line in ended.errors.splitlines() if line.startswith(("error: ", "│ "))]
    return lines[0].removeprefix("error: ")[:300]


def differing(found: Any, truth: Any) -> str:
    """The names of what differs."""
    if not isinstance(found, Mapping) or not isinstance(truth, Mapping):
        return f"{found!r:.80} instead of {truth!r:.80}"
    return ", ".join(sorted(str(key) for key in {*found, *truth} if found.get(key) != truth.get(key)))[:200]


def chosen(cases: Sequence[Case], share: float) -> list[Case]:
    """An evenly spread share of the cases, always the same, one at least."""
    count = max(1, round(len(cases) * share))
    return [cases[int(number * len(cases) / count)] for number in range(count)] if cases else []


def as_json(results: Mapping[str, Sequence[Result]], bars: Mapping[str, bool], about: Mapping[str, Any]) -> str:
    told = {name: [list(result) for result in found] for name, found in results.items()}
    return json.dumps({**about, "bars": bars, "counts": counts(results), "results": told}, indent=1) + "\n"


def counts(results: Mapping[str, Sequence[Result]]) -> dict[str, dict[str, int]]:
    return {name: dict(Counter(result.ending for result in found)) for name, found in results.items()}


def markdown(results: Mapping[str, Sequence[Result]], bars: Mapping[str, bool], about: Mapping[str, Any]) -> str:
    """The table, the bars, and the first results that a bar forbids."""
    lines = ["| section | cases | " + " | ".join(ENDINGS) + " |", "|---|" + "---:|" * (len(ENDINGS) + 1)]
    for name, found in counts(results).items():
        numbers = [len(results[name]), *(found.get(ending, 0) for ending in ENDINGS)]
        lines.append(f"| {name} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
    lines += ["", *(f"{name}: {value}" for name, value in about.items()), ""]
    lines += [f"- {'met' if met else 'NOT MET'}: {bar}" for bar, met in bars.items()]
    for name, found in results.items():
        bad = [result for result in found if result.ending in NEVER]
        lines += ["", *(f"- {name}: {one.name}: {one.ending}: {' '.join(one.told.split())}" for one in bad[:SHOWN])]
        lines += [f"- {name}: {len(bad) - SHOWN} more in faults.json"] if len(bad) > SHOWN else []
    return "\n".join(lines).rstrip() + "\n"
