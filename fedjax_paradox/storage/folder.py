"""The output folder: whose it is, and one writer at a time."""

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedjax_paradox.errors import InputError, unwritable
from fedjax_paradox.storage import cells

log = logging.getLogger(__name__)

RECORD, CONFIG, ASIDE = "experiment.json", "config.yaml", "damaged"
_HEADER = "# fedjax-paradox: resolved config, sha256 "
# What another version or device of the same run may change: the last bits of its numbers.
_BITS = ("python", "packages", "devices")


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Makes `folder` this program's, or goes on in one that is; nothing in it is changed.

    Raises:
      InputError: the folder cannot be written, holds other files or a config of somebody's own, or is in use.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_ours(folder)  # before anything is put into a folder that may be another's
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"--out {folder} cannot be written ({error.strerror}); choose another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"--out {folder} is in use by a run that has not ended; wait for it") from error
        _check_ours(folder)  # again: another run may have ended since
        yield


TABLES = ("clients.parquet", "rounds.parquet", "participants.parquet")


def _check_ours(folder: Path) -> None:
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    for name in {RECORD, CONFIG, cells.FILE, *TABLES, ".lock"}:
        if (folder / name).exists() and not (folder / name).is_file():  # a pipe would be waited for
            raise InputError(f"{folder / name} is no regular file; remove it, or choose another --out")
    if names and not names & {RECORD, cells.FILE}:
        foreign = ", ".join(sorted(names)[:3])
        raise InputError(f"--out {folder} holds files of something else ({foreign}); choose another")
    if cells.FILE not in names and "clients.parquet" in names:
        raise InputError(
            f"--out {folder} has results without {cells.FILE}: an earlier version wrote them, or the file is lost; "
            "restore it from a copy, or choose another --out"
        )
    if cells.FILE not in names and RECORD in names:
        unsealed(folder / RECORD)  # or somebody else's
    config = folder / CONFIG
    if config.exists() and not config.read_bytes().startswith(_HEADER.encode()):
        raise InputError(f"{config} was not written by a run and would be lost; move it, or choose another --out")


def describe(folder: Path, record: Mapping[str, Any], config: str) -> None:
    """Writes what runs in a claimed folder. What a person changed in it, or what was damaged, is set aside.

    Args:
      record: facts about the run, as JSON; kept from the run that made the folder, but for what decides no bit.
      config: the resolved config as YAML.
    """
    _write(folder / RECORD, sealed(_continued(folder, record)))
    path = folder / CONFIG
    if path.exists():
        before = path.read_text(encoding="utf-8", errors="replace")
        if before != with_header(before.partition("\n")[2]):
            _keep(path, "has been edited or damaged")
    _write(path, with_header(config))


def _continued(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the run that made the folder, with what this run reads; says where the two may differ in bits."""
    path = folder / RECORD
    if not path.exists():
        return dict(record)
    try:
        before = unsealed(path)
    except InputError:
        _keep(path, "is damaged")
        return dict(record)
    changed = [told for name in _BITS for told in _changes(name, before.get(name), record.get(name))]
    if changed:
        log.warning("%s goes on under another environment, last bits may differ: %s", folder, "; ".join(changed))
    read = ("hash", "inputs", "commits")
    return {**before, **{name: value for name, value in record.items() if name in read}}


def _keep(path: Path, problem: str) -> None:
    """A copy, since a killed process must not leave a folder without the file."""
    aside = path.parent / ASIDE
    try:
        aside.mkdir(exist_ok=True)
        target = free(aside, path.name)
        shutil.copyfile(path, target)
    except OSError as error:
        raise unwritable(aside, error) from error
    log.warning("%s %s: kept as %s and written anew", path, problem, target)


def free(folder: Path, name: str) -> Path:
    """A path in `folder` that nothing has."""
    number, target = 2, folder / name
    while target.exists():
        number, target = number + 1, folder / f"{name}-{number}"
    return target


def _changes(name: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return [f"{key} {before.get(key)} is now {now[key]}" for key in now if before.get(key) != now[key]]
    return [] if before == now else [f"{name} {before} is now {now}"]


def sealed(record: Mapping[str, Any]) -> str:
    """A record as JSON with the digest of its other entries."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return json.dumps({**rest, "sha256": _digest(json.dumps(rest, sort_keys=True))}, indent=2) + "\n"


def unsealed(path: Path) -> dict[str, Any]:
    """The record at `path`; InputError where it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        rest = {name: value for name, value in record.items() if name != "sha256"}
        if record.get("sha256") != _digest(json.dumps(rest, sort_keys=True)):
            raise ValueError("its contents have changed")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged or of something else ({error}); restore it from a copy, or choose another --out"
        ) from error
    return rest


def with_header(config: str) -> str:
    """A config with a first line that tells this program's from others, and says when it was edited."""
    return f"{_HEADER}{_digest(config)}\n{config}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    """In one atomic step, and only where something changes."""
    if path.exists() and path.read_bytes() == text.encode():
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error
