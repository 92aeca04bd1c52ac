"""Several processes, one program: joining them, and leaving the output folder to one of them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from fedjax_paradox.errors import InputError


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes; before anything else asks JAX for a device.

    Args:
      coordinator: host:port of process 0, the same for all. Without any of the three, what Slurm, Open MPI or the
        TPU pod says is taken.

    Raises:
      InputError: the three do not fit together, or the others do not answer.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise InputError(
            "--coordinator, --num-processes and --process-id belong together, got "
            f"{coordinator}, {num_processes} and {process_id}; give all three, or on Slurm or a TPU pod --distributed"
        )
    if process_id is not None and num_processes is not None and not 0 <= process_id < num_processes:
        raise InputError(f"--process-id must be 0 to {num_processes - 1}, got {process_id}")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the processes could not join ({reason}); check --coordinator and that all were started"
        ) from error


def is_writer() -> bool:
    """Whether this process writes results and speaks to the person."""
    return jax.process_index() == 0


@contextmanager
def written_by_one(claim: AbstractContextManager[None]) -> Iterator[None]:
    """Enters `claim` in the writer alone; the others go on once it holds, or stop with it."""
    if jax.process_count() == 1:
        with claim:
            yield
        return
    with ExitStack() as held:
        refused = None
        if is_writer():
            try:
                held.enter_context(claim)
            except InputError as error:
                refused = error
        if multihost_utils.broadcast_one_to_all(np.int32(refused is not None)):
            raise refused or InputError("process 0 refused the output folder; its message says why")
        yield
