"""The tensors of a checkpoint: one safetensors file, or the shards that its index names."""

import json
import re
from collections.abc import Iterator, KeysView
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from safetensors import SafetensorError, safe_open

from fedjax_paradox.errors import InputError
from fedjax_paradox.text import printable

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# A file beside the index: the hub's cache links to files elsewhere, so that the name is what can be judged.
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")


class Tensors(NamedTuple):
    """Open files as one; answers what `safetensors.safe_open` answers of a single file."""

    files: dict[str, Any]  # tensor -> the open file that holds it

    def keys(self) -> KeysView[str]:
        return self.files.keys()

    def get_tensor(self, name: str) -> Any:
        return self.files[name].get_tensor(name)

    def get_slice(self, name: str) -> Any:
        return self.files[name].get_slice(name)


def weight_files(folder: Path) -> list[Path]:
    """model.safetensors or, where there is none, all shards, by name.

    Raises:
      FileNotFoundError: one of them is not there.
      InputError: the index is unreadable, or names something else than files beside it.
    """
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    names = shard_names(folder)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FileNotFoundError(f"no {' and no '.join(missing[:3])}{more} in {folder}")
    return [folder / name for name in names]


def shard_names(folder: Path) -> list[str]:
    """Of the files that the index of a folder names; raises as `weight_files`."""
    return sorted(set(_weight_map(folder).values()))


@contextmanager
def open_weights(folder: Path) -> Iterator[Tensors]:
    """The tensors of a checkpoint, as `jax.Array`s once they are read.

    Raises:
      InputError: a file is missing or damaged, a tensor stands in two files, or not where the index says.
    """
    with ExitStack() as stack:
        try:
            paths = weight_files(folder)
            opened = {path.name: stack.enter_context(_opened(path)) for path in paths}
            yield Tensors(_placed(folder, opened))
        except (SafetensorError, OSError) as error:
            raise InputError(f"the weights in {folder} cannot be read ({error}). Download them again.") from error


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="flax")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}). Download it again.") from error


def _placed(folder: Path, opened: dict[str, Any]) -> dict[str, Any]:
    """Tensor -> open file."""
    placed: dict[str, str] = {}
    for path, file in opened.items():
        for name in file.keys():  # noqa: SIM118  (not a dict)
            if placed.setdefault(name, path) != path:
                _refuse(folder, f"{name} is in {placed[name]} and in {path}")
    if WHOLE not in opened:
        for name, path in _weight_map(folder).items():
            if placed.get(name) != path:
                _refuse(folder, f"{INDEX} has {name} in {path}, which does not hold it")
    return {name: opened[path] for name, path in placed.items()}


def _refuse(folder: Path, problem: str) -> NoReturn:
    raise InputError(
        f"the shards in {folder} are not of one checkpoint: {printable(problem):.300}. Download them again."
    )


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor -> name of the shard."""
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"no {WHOLE} and no {INDEX} in {folder}")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error!s:.200}). Download it again.") from error
    found = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path} must say under weight_map which file holds each tensor. Download it again.")
    for name in found.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise InputError(
                f"{path}: a shard must be a .safetensors file in the same folder, got {name!r:.80}. Download it again."
            )
    return found
