"""Calls in processes of their own that import nothing anew: a fork of this one each, with a fault armed in it.

This process must never start a JAX backend: a fork after that may hang.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

RENAME, MKDIR, UNLINK, FSYNC, WRITE, CREATE = 1, 2, 4, 8, 16, 32
KILL = 0
SECONDS = 90.0  # of a call that takes two on a fast machine


class Fault(NamedTuple):
    """What happens from the `at`-th call of `kinds` on, as in shim.c."""

    kinds: int
    at: int = 0  # 0 counts only
    error: int = KILL
    below: str = ""
    once: bool = False


NOTHING = Fault(0)


class Ended(NamedTuple):
    """How a call ended."""

    code: int  # exit code, or minus the signal
    hung: bool
    output: str
    errors: str
    value: Any  # what the function returned beside its exit code
    seen: int  # calls of the fault's kinds


def preload(folder: Path) -> None:
    """Starts this program again with the shim in front of the C library; returns in that second life.

    Raises:
      SystemExit: there is no C compiler.
    """
    library = str(folder.absolute() / "shim.so")
    if os.environ.get("LD_PRELOAD") == library:
        return
    source = Path(__file__).with_name("shim.c")
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-o", library, str(source), "-ldl"]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"the campaign needs a C compiler ({error}); install one, or name it in CC") from error
    # Every program is kept, however quickly it compiles: a call then costs its own work alone.
    kept = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    kept |= {"JAX_PLATFORMS": "cpu", "COLUMNS": "200", "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | kept | {"LD_PRELOAD": library})  # noqa: S606


def command(*arguments: str) -> tuple[int, None]:
    """(exit code, nothing) of the command line, as its entry point runs it."""
    from fedjax_paradox import cli

    sys.argv = ["fedjax-paradox", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None), None
    return 0, None


def disarm() -> int:
    """In a child: the fault strikes no more; returns the calls that it saw."""
    return ctypes.CDLL(None).faults_disarm()


def call(
    function: Callable[..., tuple[int, Any]],
    *arguments: Any,
    cwd: Path,
    fault: Fault = NOTHING,
    environment: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
) -> Ended:
    """`function(*arguments)` -> (exit code, value as JSON), in a child."""
    with tempfile.TemporaryDirectory(prefix="faults-call-") as name:
        logs = Path(name)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _live(lambda: function(*arguments), logs, cwd, fault, environment or {})
        status, hung = _wait(child, seconds)
        output, errors, told = (_text(logs / file) for file in ("output", "errors", "told"))
    value, seen = json.loads(told) if told else (None, 0)
    return Ended(os.waitstatus_to_exitcode(status), hung, output, errors, value, seen)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _live(
    work: Callable[[], tuple[int, Any]], logs: Path, cwd: Path, fault: Fault, environment: Mapping[str, str]
) -> NoReturn:
    """The child's life."""
    code = 1
    try:
        os.setsid()
        for number, name in ((1, "output"), (2, "errors")):
            os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.chdir(cwd)
        tempfile.tempdir = None  # of this environment
        os.environ.update(environment)
        below = os.path.realpath(fault.below).encode() if fault.below else b""
        shim = ctypes.CDLL(None)
        shim.faults_arm(fault.kinds, ctypes.c_long(fault.at), fault.error, int(fault.once), below)
        code, value = work()
        sys.stdout.flush()
        (logs / "told").write_text(json.dumps([value, disarm()]))
    except BaseException:
        disarm()
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def _wait(child: int, seconds: float) -> tuple[int, bool]:
    """(status, whether time was up)."""
    end = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status, False
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1], True
        time.sleep(0.01)
