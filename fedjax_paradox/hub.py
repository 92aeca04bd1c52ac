"""What weights and data sets have in common: a name is a folder or the hub's, and the hub is asked within seconds."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants, errors

from fedjax_paradox.errors import InputError

T = TypeVar("T")

SECONDS = 8.0  # for the hub's first answer; downloads take as long as they take
# HfHubHTTPError derives from the HTTPError of whichever client library the hub package uses.
FAILURES: tuple[type[Exception], ...] = (
    OSError,
    errors.HFValidationError,
    *errors.HfHubHTTPError.__bases__,
)


def local_folder(name: str) -> Path | None:
    """The folder of that name, `~` understood; None where there is none."""
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # longer than a name can be; ~ of nobody; NUL
        return None


def within(call: Callable[[], T]) -> T:
    """`call()`, or TimeoutError: the hub client's own time-outs count per address and exclude name look-up."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except Exception as error:  # raised where the answer is waited for
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result(SECONDS)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {SECONDS:g} s") from error


@contextmanager
def explained(name: str, revision: str | None, section: str, page: str) -> Iterator[None]:
    """InputError where the hub knows `name` and does not give what is asked for.

    Args:
      section: of the config, such as `corpus`; page: of `name` below the hub's address.
    """
    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(
            f"{name} is gated on the Hugging Face hub: accept its conditions at {constants.ENDPOINT}/{page} and log in "
            "with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"{section}.revision must be a commit, branch or tag of {name} on the Hugging Face hub, got {revision!r}; "
            "correct it or leave it out"
        ) from error


def reason(error: Exception) -> str:
    """Why the hub gave nothing, in one line."""
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no public repository has this name; correct it or log in with `hf auth login`"
    return (str(error).splitlines() or [""])[0] or type(error).__name__
