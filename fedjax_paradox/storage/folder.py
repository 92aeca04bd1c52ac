"""The output folder: whose it is, and one writer at a time."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedjax_paradox.errors import InputError

RECORD = "experiment.json"


@contextmanager
def claim(folder: Path, record: Mapping[str, Any], config: str) -> Iterator[None]:
    """Makes `folder` this experiment's, or goes on in it where it already is.

    Args:
      record: facts about the run; `hash` and `inputs` decide whose folder it is.
      config: the resolved config as YAML.

    Raises:
      InputError: the folder cannot be written, holds another experiment or other files, or is in use.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_owner(folder, record)  # before anything is put into a folder that may be another's
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"--out {folder} cannot be written ({error.strerror}); choose another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"--out {folder} is in use by a run that has not ended; wait for it") from error
        _check_owner(folder, record)  # again: another run may have ended since
        if not (folder / RECORD).exists():
            _write(folder / "config.yaml", config)
            _write(folder / RECORD, json.dumps(record, indent=2) + "\n")
        yield


def _check_owner(folder: Path, record: Mapping[str, Any]) -> None:
    path = folder / RECORD
    if not path.exists():
        foreign = sorted(p.name for p in folder.iterdir() if p.name != "config.yaml" and not p.name.startswith("."))
        if foreign:
            raise InputError(f"--out {folder} holds files of something else ({', '.join(foreign[:3])}); choose another")
        return
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); choose another --out or remove the folder") from error
    if not isinstance(owner, dict):
        raise InputError(f"{path} is damaged (no JSON object); choose another --out or remove the folder")
    for what in ("hash", "inputs"):
        if owner.get(what) != record[what]:
            raise InputError(
                f"--out {folder} holds another experiment: its {what} is {owner.get(what)}, this one's is "
                f"{record[what]}; choose another --out, or run the config in {folder / 'config.yaml'}"
            )


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
