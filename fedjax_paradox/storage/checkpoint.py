"""Checkpoints of (globals, rule states) after every round: the only place that knows Orbax.

Saving is asynchronous and atomic: a round that was cut short leaves no checkpoint. Frozen weights, data
and schedules are never in it; they are recomputed or reloaded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from fedjax_paradox.errors import InputError


@contextmanager
def checkpoints(folder: Path, keep: int) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints of one program, the last `keep` rounds of them; waits for open saves at the end."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    manager = ocp.CheckpointManager(folder.absolute(), options=options)
    try:
        yield manager
        manager.wait_until_finished()
    finally:
        manager.close()


def save(manager: ocp.CheckpointManager, round_: int, state: Any) -> None:
    """Starts to save `state` (a tree of arrays) as what stands after `round_`."""
    manager.save(round_, args=ocp.args.StandardSave(state))


def restore(manager: ocp.CheckpointManager, like: Any) -> tuple[int, Any]:
    """The last finished round and its state; (0, like) where there is none.

    Args:
      like: a tree with the structure, shapes, types and devices to restore to.

    Raises:
      InputError: the newest checkpoint is damaged or holds another tree.
    """
    round_ = manager.latest_step()
    if round_ is None:
        return 0, like
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    try:
        return round_, manager.restore(round_, args=ocp.args.StandardRestore(abstract))
    except Exception as error:  # whatever Orbax, TensorStore or the file system says of a bad folder
        raise InputError(
            f"checkpoint {manager.directory / str(round_)} is damaged or not of this experiment "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}); "
            "remove that folder to go on from the round before, or start with another --out"
        ) from error
