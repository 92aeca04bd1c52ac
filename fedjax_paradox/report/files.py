"""A report's files on the disk: whole ones only, and none of an earlier report that is no longer made."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from fedjax_paradox.errors import InputError

LIST = ".report.json"  # name -> SHA-256 of what a report wrote, so that nothing else is ever removed
_OURS = re.compile(r"(figures|tables)/[A-Za-z0-9-]+\.(svg|pdf|tex)")


def put(out: Path, files: Mapping[str, bytes]) -> None:
    """Writes all files, and only then puts them in place of an earlier report's, the last one last.

    Raises:
      InputError: `out` cannot be written, or is or holds a link, which may lead anywhere.
    """
    for folder in (out, out / "figures", out / "tables"):
        if folder.is_symlink():
            raise InputError(f"--out {out}: {folder} is a link, and a report writes through none; remove it")
    listed = json.dumps({name: _digest(data) for name, data in files.items()}, indent=0).encode()
    temporaries = {name: (out / name).with_name(f".{Path(name).name}.tmp") for name in (LIST, *files)}
    try:
        earlier = _earlier(out)
        try:
            for name, data in {LIST: listed, **files}.items():
                _write(temporaries[name], data)
            for name, temporary in temporaries.items():
                temporary.replace(out / name)
        finally:
            for temporary in temporaries.values():
                if temporary.parent.is_dir():
                    temporary.unlink(missing_ok=True)
        for name, digest in earlier.items():
            if name not in files and _is_unchanged(out / name, digest):
                (out / name).unlink()
    except OSError as error:
        raise InputError(
            f"--out {out} cannot be written ({error.strerror}); make room for it, or choose another folder"
        ) from error


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(data)


def _earlier(out: Path) -> dict[str, str]:
    """Figures and tables of the report before; a list that says anything else is somebody else's."""
    try:
        listed = json.loads((out / LIST).read_bytes()) if (out / LIST).is_file() else {}
        return {name: str(digest) for name, digest in listed.items() if _OURS.fullmatch(name)}
    except (ValueError, AttributeError, RecursionError):
        return {}


def _is_unchanged(path: Path, digest: str) -> bool:
    return path.is_file() and not path.is_symlink() and _digest(path.read_bytes()) == digest


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
