"""Files of the cache folder. A run can do without any of them: none is believed unseen, none is worth a failure."""

import hashlib
import logging
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeVar

from fedjax_paradox.errors import InputError

T = TypeVar("T")

_LOGGER = logging.getLogger(__name__)
_DIGEST = hashlib.sha256().digest_size


def cache_folder() -> Path:
    """Where tokenised corpora, fetched weights and compiled programs stay; FEDJAX_PARADOX_CACHE overrides it."""
    if given := os.environ.get("FEDJAX_PARADOX_CACHE"):
        return Path(given)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "fedjax_paradox"
    try:
        return Path.home() / ".cache" / "fedjax_paradox"
    except RuntimeError as error:
        raise InputError("there is no home folder to keep a cache in; set FEDJAX_PARADOX_CACHE to a folder") from error


def keep(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """What `write` writes goes into the file at `path`, sealed for `kept`.

    A file that cannot be written is done without, with one warning. Nothing partial is left behind.
    """

    def sealed(file: IO[bytes]) -> None:
        file.write(bytes(_DIGEST))
        write(file)
        file.flush()
        file.seek(_DIGEST)
        digest = _digest(path, file)
        file.seek(0)
        file.write(digest)

    try:
        write_atomically(path, sealed)
    except OSError as error:
        _LOGGER.warning("%s cannot be written (%s): the run goes on without it", path, error.strerror or error)


def kept(path: Path, read: Callable[[IO[bytes]], T]) -> T | None:
    """`read` of what `keep` wrote under this very name; None, with a warning, if a byte of it has changed."""
    try:
        with path.open("rb") as file:
            digest = file.read(_DIGEST)
            if _digest(path, file) == digest:
                file.seek(_DIGEST)
                return read(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        _LOGGER.warning("%s cannot be read (%s): it is made again", path, error.strerror or error)
        return None
    _LOGGER.warning("%s is damaged or of an earlier version: it is made again", path)
    return None


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """`write` fills a temporary file in the folder of `path`, which then takes that name in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w+b", dir=path.parent, prefix=path.name, suffix=_suffix(os.getpid()), delete=False
    ) as file:
        try:
            write(file.file)
            file.close()
            Path(file.name).replace(path)
        finally:
            Path(file.name).unlink(missing_ok=True)


def scratch_folder(parent: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder in `parent` that vanishes with its `with` block or, after a kill, with `clear_leftovers`."""
    parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=parent, suffix=_suffix(os.getpid()))


def clear_leftovers(folder: Path) -> None:
    """Removes what killed runs of this machine were writing in a cache folder; that of live ones stays."""
    before, after = _suffix(0).rsplit("0", 1)
    mark = re.compile(re.escape(before) + r"(\d{1,9})" + re.escape(after) + "$")
    for path in folder.glob("*"):  # `reading-`: what earlier versions called the folders in which they read files
        owner = mark.search(path.name)
        if path.name.startswith("reading-") or (owner and not _alive(int(owner[1]))):
            _LOGGER.debug("%s was left by a run that was killed and is removed", path)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):  # of a folder that is read-only: it does no harm there
                    path.unlink()


def _suffix(process: int) -> str:
    # The machine's name: a cache may be shared over a network, and process ids are a machine's own.
    return f".{platform.node()}.{process}.tmp"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's process
        return True
    return True


def _digest(path: Path, file: IO[bytes]) -> bytes:
    """Of the name, so that one file is not taken for another, and of the content from here on."""
    digest = hashlib.file_digest(file, lambda: hashlib.sha256(path.name.encode()))  # type: ignore[arg-type]
    return digest.digest()
