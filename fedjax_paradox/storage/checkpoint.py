"""Checkpoints of (globals, rule states) after every round: the only place that knows Orbax.

A checkpoint holds the cells of one program as they stand, stacked, and beside the arrays what they are: the cells'
identities and rounds, a digest of every array, and a digest of that list. Saving is atomic: a round that was cut short
leaves no checkpoint. Frozen weights, data and schedules are never in it; they are recomputed or reloaded.
"""

import glob
import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from fedjax_paradox.errors import InputError, unwritable
from fedjax_paradox.storage.folder import free

log = logging.getLogger(__name__)

Leaves = dict[str, np.ndarray]


class Member(NamedTuple):
    """One cell of a checkpoint; its place along the globals' first axis is its place among the members."""

    identity: str
    round: int  # how far it is: behind the checkpoint's round where it has diverged
    rule: int  # which of the stacked rule states holds its own
    place: int  # its place along that state's first axis


@contextmanager
def checkpoints(folder: Path, keep: int | None = None) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints of one group of cells, the last `keep` rounds of them."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=False
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    with _plain(folder) as path, closing(ocp.CheckpointManager(path, options=options)) as manager:
        yield manager


@contextmanager
def _plain(folder: Path) -> Iterator[Path]:
    """A path of the folder that is no pattern: Orbax would look for what brackets and stars match."""
    if glob.escape(str(folder.absolute())) == str(folder.absolute()):
        yield folder.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="fedjax-paradox-") as scratch:
        link = Path(scratch) / "checkpoints"
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link


def group_name(identities: Sequence[str]) -> str:
    """The name of the folder in which these cells' checkpoints lie."""
    return hashlib.sha256("\n".join(sorted(identities)).encode()).hexdigest()[:16]


def flat(tree: Any) -> dict[str, Any]:
    """A tree's leaves by name: `globals.conv_3.kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def save(
    manager: ocp.CheckpointManager, round_: int, globals_: Any, rules: Sequence[Any], members: Sequence[Member]
) -> None:
    """Saves the cells as they stand after `round_`; when it returns, they are on the disk.

    Args:
      globals_: [P, ...] leaves; rules: a state [G, ...] of every group of cells.

    Raises:
      InputError: there is no room; the rounds before are still there.
    """
    leaves = {name: np.asarray(leaf) for name, leaf in flat({"globals": globals_, "rules": list(rules)}).items()}
    about = {
        "round": round_,
        "members": [list(member) for member in members],
        "leaves": {name: _digest(leaf) for name, leaf in leaves.items()},
    }
    about["sha256"] = _told(about)
    what = ocp.args.Composite(state=ocp.args.StandardSave(leaves), about=ocp.args.JsonSave(about))
    try:
        manager.save(round_, args=what, force=True)
    except Exception as error:  # whatever Orbax, TensorStore or the file system says of a full disk
        raise unwritable(manager.directory / str(round_), error) from error


def _digest(leaf: np.ndarray) -> str:
    about = f"{leaf.dtype}{leaf.shape}".encode()
    return hashlib.sha256(about + np.ascontiguousarray(leaf).tobytes()).hexdigest()


def _told(about: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in about.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


class Stored(NamedTuple):
    """One cell as its newest sound checkpoint has it."""

    round: int
    leaves: Leaves  # by the names that `flat` gives ({"globals": ..., "rule": ...}), without the cells' axis


def restore(root: Path, identities: Sequence[str], aside: Path) -> dict[str, Stored]:
    """The newest sound state of every cell that has one, from all checkpoints below `root`.

    A checkpoint that cannot be read, whose arrays are not those that were written, or that is not where it was written
    is moved to `aside`, with one line, and the one before is taken.
    """
    found: dict[str, Stored] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []:
        for step in _steps(folder):
            held = _read(folder, step, identities, aside)
            for identity, stored in held.items():
                if identity not in found or stored.round > found[identity].round:
                    found[identity] = stored
            if held:
                break  # older rounds of the same cells
    return found


def _steps(folder: Path) -> list[int]:
    """The rounds of finished saves, newest first."""
    return sorted((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), reverse=True)


def _read(folder: Path, step: int, wanted: Sequence[str], aside: Path) -> dict[str, Stored]:
    try:
        with checkpoints(folder) as manager:
            return _sound(folder, manager, step, wanted)
    except Exception as error:  # whatever Orbax, TensorStore or the file system says of a bad folder
        _set_aside(folder / str(step), aside, error)
        return {}


def _sound(folder: Path, manager: ocp.CheckpointManager, step: int, wanted: Sequence[str]) -> dict[str, Stored]:
    """The wanted cells of one checkpoint; raises where it is damaged."""
    members, digests = _about(folder, manager, step)
    if not {member.identity for member in members} & set(wanted):
        return {}
    leaves = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore())).state
    _check({name: _digest(leaf) for name, leaf in leaves.items()} == digests, "its numbers have changed")
    return {
        member.identity: Stored(member.round, _row(leaves, index, member))
        for index, member in enumerate(members)
        if member.identity in wanted
    }


def _about(folder: Path, manager: ocp.CheckpointManager, step: int) -> tuple[list[Member], dict[str, str]]:
    """(cells of a checkpoint, digests of its leaves)"""
    about = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
    members = [Member(*entry) for entry in about["members"]]
    _check(about["sha256"] == _told(about), "the list of its contents has changed")
    _check(about["round"] == step, f"it is of round {about['round']}")
    _check(group_name([m.identity for m in members]) == folder.name, "it is of other cells")
    return members, about["leaves"]


def rounds_at_hand(root: Path, identity: str) -> dict[int, Path]:
    """Round -> the checkpoint that holds the cell as it stood after it, ascending. Nothing is moved or changed.

    Raises:
      InputError: a checkpoint cannot be read.
    """
    found: dict[int, Path] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []:
        for step in _steps(folder):
            with _only_reading(folder / str(step)) as manager:
                members, _ = _about(folder, manager, step)
            found |= {member.round: folder / str(step) for member in members if member.identity == identity}
    return dict(sorted(found.items()))


def read(path: Path, identity: str) -> Stored:
    """A cell from the checkpoint that `rounds_at_hand` says; InputError where it is damaged."""
    with _only_reading(path) as manager:
        return _sound(path.parent, manager, int(path.name), [identity])[identity]


@contextmanager
def _only_reading(path: Path) -> Iterator[ocp.CheckpointManager]:
    """Of the folder that `path` lies in, in which a run may be at work."""
    options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)  # that a manager only reads is told as a warning
    try:
        with _plain(path.parent) as folder, closing(ocp.CheckpointManager(folder, options=options)) as manager:
            yield manager
    except Exception as error:  # whatever Orbax, TensorStore or the file system says of a bad folder
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"checkpoint {path} is damaged ({told[0]:.200}); the run's own command sets it aside and computes it again"
        ) from error
    finally:
        logger.setLevel(before)


def _check(sound: bool, problem: str) -> None:
    if not sound:
        raise ValueError(problem)


def _row(leaves: Leaves, index: int, member: Member) -> Leaves:
    state = f"rules.{member.rule}"
    own = {name: leaf[index] for name, leaf in leaves.items() if name.split(".")[0] == "globals"}
    rule = {n: leaf for n, leaf in leaves.items() if n == state or n.startswith(f"{state}.")}
    return own | {f"rule{name.removeprefix(state)}": leaf[member.place] for name, leaf in rule.items()}


def _set_aside(path: Path, aside: Path, error: Exception) -> None:
    told = str(error).strip().splitlines() or [type(error).__name__]
    target = free(aside, f"{path.parent.name}-{path.name}")
    if jax.process_index() == 0:
        aside.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        log.warning("checkpoint %s is damaged or not of this run (%.200s): moved to %s", path, told[0], target)
    ocp.multihost.sync_global_processes("set-aside")


def stacked(cells: Sequence[Leaves], like: Any) -> Any:
    """The cells' leaves by name, stacked into a tree like `like` (whose leaves are [P, ...]).

    Raises:
      InputError: names, shapes or types are others.
    """
    names = list(flat(like))
    for name, leaf in flat(like).items():
        for cell in cells:
            if name not in cell or (cell[name].shape, cell[name].dtype) != (leaf.shape[1:], leaf.dtype):
                raise InputError(
                    f"a checkpoint does not hold {name} as {leaf.dtype}{list(leaf.shape[1:])}: another version "
                    "of the package wrote it; start with another --out"
                )
    return jax.tree.unflatten(jax.tree.structure(like), [np.stack([cell[name] for cell in cells]) for name in names])
