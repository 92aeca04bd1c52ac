"""Data sets that `datasets` reads: of the Hugging Face hub, of the hub's cache, of a folder."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_paradox import hub
from fedjax_paradox.errors import InputError
from fedjax_paradox.text import printable

HUB_ALIASES = {"ag_news": "fancyzhx/ag_news", "sentiment140": "stanfordnlp/sentiment140"}

_LOGGER = logging.getLogger(__name__)
_CONVERSION = "refs/convert/parquet"  # the hub's own copy of data sets that are loading scripts
_CONVERTED = re.compile(r"([^/]+)/[^/]+/[0-9]+\.parquet")  # its files: subset, split, number
_CONVERSIONS = "converted"  # where its subsets are kept in the cache
_COMMIT = re.compile("[0-9a-f]{40}")
_ELSEWHERE = "give local files with corpus.files.train=... corpus.files.test=..."


def load_hub(name: str, subset: str | None, revision: str | None, splits: Sequence[str]) -> list[Any]:
    """A `datasets.Dataset` for each split, all of one commit.

    The hub says which; if it does not answer, the cache of its client. A commit that is in the cache is not asked for.

    Raises:
      InputError: neither has what is asked for, or the hub does not give it to this person.
    """
    library, repository = _library(), HUB_ALIASES.get(name, name)
    read = _reader(library, repository, subset, revision)
    try:
        with _explained(repository, subset, splits):
            loaded = read(split=list(splits))
    except OSError as error:
        raise InputError(
            f"{repository} cannot be kept in the hub's cache ({error}); point HF_HOME to a folder with room, or "
            f"{_ELSEWHERE}"
        ) from error
    # Where the hub breaks off, `datasets` takes what it last read.
    if revision and (commit := commit_of(loaded[0])) != _known_commit(repository, revision):
        raise InputError(
            f"the Hugging Face Hub gave nothing of {repository} at revision {revision}, and its cache has {commit}; "
            "try again, or leave corpus.revision out"
        )
    return loaded


def _reader(library: Any, repository: str, subset: str | None, revision: str | None) -> Callable[..., list[Any]]:
    found = _kept(library, repository, revision)
    named = [kept for kept in found if kept.subset == (subset or "default")]
    if named and _COMMIT.fullmatch(revision or ""):
        return _builder(repository, named[0]).as_dataset
    arguments = _hub_arguments(library, repository, subset, revision)
    if arguments is not None:
        return partial(library.load_dataset, repository, **arguments)
    if not named and subset is None and len({kept.subset for kept in found}) == 1:
        _LOGGER.warning("%s is read from the cache with its subset %s, there is no other", repository, found[0].subset)
        named = found
    if named:
        return _builder(repository, named[0]).as_dataset
    at = f" at revision {revision}" if revision else ""
    others = ", ".join(sorted({kept.subset for kept in found}))
    raise InputError(
        f"the Hugging Face Hub cannot be reached and its cache has no {repository}{at}"
        f"{f', subset {subset}, but {others}; set corpus.subset' if others else ''}: {_ELSEWHERE}, or use "
        "corpus.name=docstrings"
    )


def load_folder(folder: Path, subset: str | None, splits: Sequence[str], scratch: Path) -> list[Any]:
    """A `datasets.Dataset` for each split of a folder of files; `scratch` is where they are kept, and no longer.

    Raises:
      InputError: the folder has no such splits, or its files do not hold what their names say.
      OSError: it cannot be read, or `scratch` cannot be written.
    """
    place = folder.resolve()  # a whole path: `csv` and `json` are names of readers
    with _explained(f"the folder {place}", subset, splits):
        outside = [pattern for pattern in _named_files(place) if _leaves(pattern)]
    if outside:
        raise InputError(
            f"{place} must be read from files of its own, and its card names {outside[0]!r:.200}; put the files into it"
        )
    with _explained(f"the folder {place}", subset, splits):
        return _library().load_dataset(str(place), name=subset, split=list(splits), cache_dir=str(scratch))


def _named_files(folder: Path) -> list[str]:
    """Patterns of files in the card of a folder, where addresses would be followed."""
    from huggingface_hub import DatasetCard

    found: list[Any] = []
    for name in ("README.md", ".huggingface.yaml"):
        path = folder / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        card = DatasetCard(text if name == "README.md" else f"---\n{text}\n---\n", ignore_metadata_errors=False)
        configs = card.data.to_dict().get("configs") or ()
        found += [config.get(key) for config in configs for key in ("data_files", "data_dir")]
    return list(_strings(found))


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _strings(part)


def _leaves(pattern: str) -> bool:
    return "://" in pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts


def commit_of(dataset: Any) -> str | None:
    """The hub's commit that a data set was read at: `datasets` names the folder in its cache by it."""
    names = [Path(file["filename"]).parent.name for file in dataset.cache_files]
    return names[0] if names and _COMMIT.fullmatch(names[0]) else None


@contextmanager
def without_network() -> Iterator[None]:
    """Data sets of the hub are read from its cache alone; InputError where they are not in it."""
    config = _library().config
    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _library() -> Any:
    """`datasets`, imported late because that takes a second, without bars that would break the progress lines."""
    import datasets

    datasets.disable_progress_bars()
    return datasets


@contextmanager
def _explained(told: str, subset: str | None, splits: Sequence[str]) -> Iterator[None]:
    """InputError for what `datasets` raises over somebody's files; OSError where the system refused."""
    from huggingface_hub import errors

    try:
        yield
    except (ConnectionError, errors.HTTPError) as error:
        raise InputError(f"the Hugging Face Hub does not give {told} ({error}): try again, or {_ELSEWHERE}") from error
    except Exception as error:  # of any kind: its readers and their settings meet whatever the files hold
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno:
            raise cause from error
        raise InputError(
            f"cannot read {told}, subset {subset}, splits {tuple(splits)}: {_shortened(cause)}; correct corpus.subset "
            "or corpus.splits"
        ) from error


def _shortened(error: BaseException) -> str:
    words = " ".join(printable(line) for line in str(error).splitlines()) or type(error).__name__
    return f"{words:.400}"


# ---- the hub


def _hub_arguments(library: Any, repository: str, subset: str | None, revision: str | None) -> dict[str, Any] | None:
    """What `load_dataset` needs to find the data on the hub; None if the hub cannot be reached."""
    files = _hub_files(library, repository, revision)
    if files is None:
        return None
    script = f"{repository.split('/')[-1]}.py" in files
    if script and revision:
        raise InputError(
            f"{repository} at corpus.revision={revision} is a script, which is not run: leave the revision out, or "
            f"name {_CONVERSION} or a commit of it"
        )
    if script:
        revision, files = _CONVERSION, _hub_files(library, repository, _CONVERSION) or []
    if not script and not (revision and _subsets(files)):
        return {"name": subset, "revision": revision}
    subsets = _subsets(files)
    chosen = subset or (subsets[0] if len(subsets) == 1 else None)
    if chosen not in subsets:
        raise InputError(
            f"{repository} is a script, read from the hub's parquet conversion, which has no subset "
            f"{subset}; choose one of {subsets} with corpus.subset, or give local files"
        )
    # Under a folder of its own: `datasets` names what it keeps of it by a digest, which nobody finds again.
    cache = Path(library.config.HF_DATASETS_CACHE) / _CONVERSIONS / chosen
    return {"revision": revision, "data_dir": chosen, "cache_dir": str(cache)}


def _subsets(files: Sequence[str]) -> list[str]:
    """Of a parquet conversion; empty if these are not the files of one."""
    found = [_CONVERTED.fullmatch(file) for file in files if not file.startswith(".")]
    return sorted({match[1] for match in found if match}) if all(found) else []


def _hub_files(library: Any, repository: str, revision: str | None) -> list[str] | None:
    """Names of the files of a data set; None if the hub does not answer within seconds, or must not be asked."""
    from huggingface_hub import HfApi, errors

    if library.config.HF_HUB_OFFLINE:
        return None
    api = HfApi()
    try:
        with hub.explained(repository, revision, "corpus", f"datasets/{repository}"):
            info = hub.within(partial(api.dataset_info, repository, revision=revision, timeout=hub.SECONDS))
            if info.gated:  # anybody may list its files
                hub.within(partial(api.auth_check, repository, repo_type="dataset"))
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise InputError(
            f"no public data set {repository!r} on the Hugging Face Hub: correct corpus.name, log in with "
            f"`hf auth login`, or {_ELSEWHERE}"
        ) from error
    except hub.FAILURES as error:
        told = hub.reason(error)
        _LOGGER.warning("the Hugging Face Hub does not answer (%s): looking for %s in its cache", told, repository)
        return None
    return [file.rfilename for file in info.siblings or []]


# ---- its cache


class _Kept(NamedTuple):
    """A data set that was read before."""

    subset: str
    cache: Path  # `cache_dir` of `load_dataset`
    folder: Path  # in it: NAME/CONFIGURATION/VERSION/COMMIT


def _kept(library: Any, repository: str, revision: str | None) -> list[_Kept]:
    """What the cache holds of a data set, the last that was read first.

    `load_dataset` would take any commit, and does not find parquet conversions.
    """
    from datasets.naming import camelcase_to_snakecase

    *owner, last = repository.split("/")
    pattern = f"{'___'.join([*owner, camelcase_to_snakecase(last)])}/*/*/*/dataset_info.json"
    cache = Path(library.config.HF_DATASETS_CACHE)
    found = [_Kept(record.parts[-4], cache, record.parent) for record in cache.glob(pattern)]
    for conversion in cache.glob(f"{_CONVERSIONS}/*"):
        found += [_Kept(conversion.name, conversion, record.parent) for record in conversion.glob(pattern)]
    found.sort(key=lambda kept: kept.folder.stat().st_mtime, reverse=True)
    commit = _known_commit(repository, revision) if revision else None
    return [kept for kept in found if revision is None or kept.folder.name == commit]


def _builder(repository: str, kept: _Kept) -> Any:
    from datasets.packaged_modules.cache.cache import Cache

    name, configuration, version, digest = kept.folder.parts[-4:]
    names: dict[str, Any] = {"repo_id": repository, "dataset_name": name.rpartition("___")[2]}
    return Cache(str(kept.cache), config_name=configuration, version=version, hash=digest, **names)


def _known_commit(repository: str, revision: str) -> str | None:
    """The commit that a branch or tag was when the hub was last asked."""
    from huggingface_hub import constants

    if _COMMIT.fullmatch(revision):
        return revision
    reference = Path(constants.HF_HUB_CACHE) / f"datasets--{repository.replace('/', '--')}" / "refs" / revision
    return reference.read_text().strip() if reference.is_file() else None
