"""What a reader needs to repeat a run: versions, commit, machine."""

import json
import platform
import subprocess
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import jax

PACKAGES = (
    "fedjax-paradox",
    "datasets",
    "flax",
    "jax",
    "jaxlib",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "tokenizers",
    "transformers",
)


def surroundings() -> dict[str, Any]:
    """Versions of the packages that results depend on, the commit this package is from, and the devices."""
    return {
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "devices": [device.device_kind for device in jax.devices()],
    }


def git_commit() -> str | None:
    """The commit that this package was installed from, `-dirty` where files differ; None if pip knows none.

    PEP 610: pip records where it took a package from. The folder that the package lies in says nothing, a
    virtual environment may lie in anybody's repository.
    """
    origin = json.loads(distribution("fedjax-paradox").read_text("direct_url.json") or "{}")
    if "vcs_info" in origin:
        return origin["vcs_info"]["commit_id"]
    source = Path(unquote(urlparse(origin.get("url", "")).path))
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None  # noqa: S603
    except FileNotFoundError:
        return None
