"""The one exception type for a person's mistakes; imports nothing of the package, so every room may raise it."""

import os
import re
from pathlib import Path


class InputError(ValueError):
    """Something the person supplied breaks a rule.

    The message names the rule, the offending value and the remedy. The command line prints it and
    exits with code 2; anything else that is raised is a defect of this package.
    """


def unwritable(path: Path | str, error: Exception) -> InputError:
    """What to tell a person where a file cannot be written: a full disk, no inodes left, a read-only folder."""
    told = str(error).strip().splitlines() or [type(error).__name__]
    # TensorStore says a page, with the number of the system's error at its end.
    number = getattr(error, "errno", None) or next(iter(re.findall(r"os_error_code='(\d+)'", told[0])), None)
    reason = os.strerror(int(number)) if number else f"{told[0]:.200}"
    return InputError(
        f"{path} cannot be written ({reason}); make room there (bytes and inodes) or allow it, then the same command "
        "goes on after the last finished round"
    )
