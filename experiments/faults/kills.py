"""SIGKILL before every rename, mkdir, unlink and fsync; the same command again must end with the same bytes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import study
from outcomes import Case, Lab, Result, judged, wrong
from server import CREATE, FSYNC, MKDIR, RENAME, UNLINK, WRITE, Fault

STEPS = RENAME | MKDIR | UNLINK | FSYNC
# Flow -> (what a run begins with, which calls, in which folder); torn files come from kills before a write.
FLOWS = {
    "new": ("", STEPS, ""),
    "resumed": ("round 1", STEPS, ""),
    "extended": ("round 3", STEPS, ""),
    "cold cache": ("", STEPS, "cache"),
    "writes": ("", WRITE | CREATE, "out"),
}


def cases(lab: Lab) -> Iterator[Case]:
    """One for every call that an undisturbed run makes."""
    for flow in FLOWS:
        out, cache = _begin(lab, lab.work / f"counted-{flow}", flow)
        ended = study.started(lab, out, *_rounds(flow), cache=cache, fault=_fault(out, cache, flow, 0))
        if ended.code != 0:
            raise RuntimeError(f"an undisturbed run fails: {ended.errors}")
        yield from (Case(f"{flow}, call {at}", killed, (flow, at)) for at in range(1, ended.seen + 1))


def killed(lab: Lab, scratch: Path, flow: str, at: int) -> Iterator[Result]:
    name = f"{flow}, call {at}"
    out, cache = _begin(lab, scratch, flow)
    first = study.started(lab, out, *_rounds(flow), cache=cache, fault=_fault(out, cache, flow, at))
    if first.code != -9 and (failure := wrong(first)):
        yield Result(name, *failure)
        return
    ending, told = judged(study.started(lab, out, *_rounds(flow), cache=cache), lab.truth[_truth(flow)])
    # A person who was killed has damaged nothing: neither message nor refusal is due.
    yield Result(name, ending, told)


def _rounds(flow: str) -> tuple[str, ...]:
    return ("rounds=4",) if flow == "extended" else ()


def _truth(flow: str) -> str:
    return "round 4" if flow == "extended" else "round 3"


def _begin(lab: Lab, scratch: Path, flow: str) -> tuple[Path, Path]:
    """(output folder, cache) as the flow finds them."""
    before, _, _ = FLOWS[flow]
    out = scratch / "out"
    if before:
        shutil.copytree(lab.folders[before], out)
    return out, scratch / "cache" if flow == "cold cache" else lab.cache


def _fault(out: Path, cache: Path, flow: str, at: int) -> Fault:
    _, kinds, where = FLOWS[flow]
    return Fault(kinds, at, below={"": "", "out": str(out), "cache": str(cache)}[where])
