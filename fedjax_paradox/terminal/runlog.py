"""run.log of an output folder: what was called when, and each line that a run said."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fedjax_paradox.errors import unwritable
from fedjax_paradox.text import printable

FILE = "run.log"


@contextmanager
def logged(folder: Path, writes: bool = True) -> Iterator[Callable[[str], None]]:
    """A function that appends a line with its time; those of earlier runs stay.

    Args:
      writes: whether it does; another of several processes says nothing, nor a run that finds all finished.

    Raises:
      InputError: there is no room.
    """

    def write(text: str) -> None:
        if not writes:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with (folder / FILE).open("a", encoding="utf-8") as file:
                file.writelines(f"{now} {printable(line)}\n" for line in text.splitlines())
        except OSError as error:
            raise unwritable(folder / FILE, error) from error

    write(f"started: {shlex.join(sys.argv)}")
    try:
        yield write
    except BaseException as error:
        write(f"stopped: {str(error) or type(error).__name__}")
        raise
    write("ended")
