"""A disk that is full, has no inodes left, cannot be written or fails.

The run must end with one message, or do without its cache; with room again, the same command must end with the same
bytes.
"""

import errno
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import study
from outcomes import NEVER, REFUSED, TRACEBACK, Case, Lab, Result, judged, wrong
from server import CREATE, FSYNC, MKDIR, RENAME, UNLINK, WRITE, Ended, Fault

# What fails, and how: from some call on, for good.
FAILURES = {
    "full": (WRITE | CREATE | MKDIR, errno.ENOSPC),
    "no inodes": (CREATE | MKDIR, errno.ENOSPC),
    "quota": (WRITE, errno.EDQUOT),
    "read-only": (WRITE | CREATE | MKDIR | RENAME | UNLINK, errno.EROFS),
    "no permission": (CREATE | MKDIR | RENAME | UNLINK, errno.EACCES),
    "failing": (FSYNC | WRITE, errno.EIO),
}
KIB = (4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512)
INODES = (2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 21, 24, 28, 32, 36, 40, 45, 50, 60, 70)
# The calls from which on the disk fails; a run makes some 200 below its output folder.
EARLY = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)
ALL = (*range(1, 10), *range(10, 220, 10))


def cases(lab: Lab) -> Iterator[Case]:
    """The output folder's disk."""
    yield from _failing("out", ALL)
    if _mounts(lab.work / "tried"):
        yield from (Case("tmpfs", filled, (f"size={size}k",)) for size in KIB)
        yield from (Case("tmpfs", filled, (f"size=64m,nr_inodes={number}",)) for number in INODES)


def cache_cases(_: Lab) -> Iterator[Case]:
    """The disk of the cache."""
    yield from _failing("cache", EARLY)


def scratch_cases(_: Lab) -> Iterator[Case]:
    """The disk of temporary files."""
    yield from _failing("scratch", EARLY[:5])


def _failing(where: str, calls: Iterable[int]) -> Iterator[Case]:
    for at in calls:
        yield from (Case(failure, failing, (failure, where, at)) for failure in FAILURES)


def _run(lab: Lab, place: Path, fault: Fault) -> Ended:
    for name in ("out", "cache", "scratch"):
        (place / name).mkdir(parents=True, exist_ok=True)
    shutil.copytree(lab.cache, place / "warm", dirs_exist_ok=True)
    cold = fault.below.endswith("cache")
    return study.started(
        lab, place / "out", cache=place / ("cache" if cold else "warm"), fault=fault, scratch=place / "scratch"
    )


def failing(lab: Lab, scratch: Path, failure: str, where: str, at: int) -> Iterator[Result]:
    """A run on a disk that fails, and the same command on one that does not."""
    kinds, error = FAILURES[failure]
    ended = _run(lab, scratch, Fault(kinds, at, error, str(scratch / where)))
    yield from _then_again(lab, scratch, f"{where} {failure} from call {at}", ended)


def filled(lab: Lab, scratch: Path, options: str) -> Iterator[Result]:
    """A run in a file system of a given size, and the same command after it has grown."""
    (scratch / "out").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", scratch / "out"], check=True)  # noqa: S607
    try:
        ended = _run(lab, scratch, Fault(0))
        grow = ["mount", "-o", "remount,size=1g,nr_inodes=100000", scratch / "out"]
        subprocess.run(grow, check=True)
        yield from _then_again(lab, scratch, f"tmpfs of {options}", ended)
    finally:
        subprocess.run(["umount", "-l", scratch / "out"], check=True)  # noqa: S607


def _then_again(lab: Lab, place: Path, name: str, ended: Ended) -> Iterator[Result]:
    """The first ending counts where it is wrong, or a refusal; the second must be the undisturbed one."""
    truth = lab.truth["round 3"]
    first = judged(ended, truth)
    again = judged(_run(lab, place, Fault(0)), truth)
    if again[0] == REFUSED:
        yield Result(name, TRACEBACK, f"not resumed with room again: {again[1]}")
    else:
        yield Result(name, *(again if not wrong(ended) and again[0] in NEVER else first))


def _mounts(folder: Path) -> bool:
    """Whether this process may mount a file system."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)  # noqa: S607
    if mounted.returncode == 0:
        subprocess.run(["umount", folder], check=True)  # noqa: S607
    return mounted.returncode == 0
