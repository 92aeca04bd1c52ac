"""Bad configs and bad corpora: refused with one line, or read as what they say. `configs` and `corpora` make them."""

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import batches
import server
from outcomes import IDENTICAL, REFUSED, SILENT, Case, Lab, Result, judged

MEMORY = 16 * 1024**3  # of addresses, of which JAX takes several
BATCH = 20
WHOLE = 20  # one config of so many goes through the command line as well


def configs(_: Lab) -> Iterator[Case]:
    """All through the function that reads them, some through `run --dry-run`."""
    import configs as generated

    every = [(case.name, case.content, tuple(case.overrides)) for case in generated.cases()]
    for first in range(0, len(every), BATCH):
        yield Case(f"configs {first}", some_configs, (every[first : first + BATCH],))
    yield from (Case(f"dry run of {case[0]}", dry_run, case) for case in every[::WHOLE])


def some_configs(lab: Lab, scratch: Path, some: Sequence[tuple[str, bytes, Sequence[str]]]) -> Iterator[Result]:
    yield from batches.played(lab, scratch, [(name, rest) for name, *rest in some], _load)


def _load(_: Lab, scratch: Path, content: bytes, overrides: Sequence[str]) -> tuple[str, str]:
    from fedjax_paradox.config import cells, load
    from fedjax_paradox.errors import InputError

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    (scratch / "study.yaml").write_bytes(content)
    try:
        cells(load(scratch / "study.yaml", list(overrides)))
    except InputError as error:
        return REFUSED, str(error)
    return SILENT, "accepted"


def dry_run(lab: Lab, scratch: Path, name: str, content: bytes, overrides: Sequence[str]) -> Iterator[Result]:
    (scratch / "study.yaml").write_bytes(content)
    ended = server.call(_dry, overrides, cwd=scratch, environment={"FEDJAX_PARADOX_CACHE": str(lab.cache)})
    ending, told = judged(ended, None)
    yield Result(f"dry run of {name}", *((SILENT, "accepted") if ending == IDENTICAL else (ending, told)))


def _dry(overrides: Sequence[str]) -> tuple[int, None]:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    return server.command("run", "--dry-run", "study.yaml", "--", *overrides)


def corpora(_: Lab) -> Iterator[Case]:
    """Each through the function that reads own files."""
    import corpora as generated

    every = list(generated.cases(0))
    for first in range(0, len(every), BATCH):
        yield Case(f"corpora {first}", corpus, (every[first : first + BATCH],))


def corpus(lab: Lab, scratch: Path, some: Sequence[tuple]) -> Iterator[Result]:
    yield from batches.played(lab, scratch, [(name, (files, truth)) for name, files, truth in some], _read)


def _read(_: Lab, scratch: Path, files: dict[str, bytes], truth: list[tuple[str, str]] | None) -> tuple[str, str]:
    from fedjax_paradox.data.corpus import load_texts
    from fedjax_paradox.errors import InputError

    for name, content in files.items():
        (scratch / name).write_bytes(content)
    file = scratch / next(iter(files))
    try:
        texts = load_texts("bad", files=(file, file), cache=scratch / "cache")
    except InputError as error:
        return REFUSED, str(error)
    labels = [texts.classes[label] for label in texts.train_labels]
    if truth is not None and list(zip(texts.train_texts, labels, strict=True)) == list(map(tuple, truth)):
        return IDENTICAL, ""
    return SILENT, f"{len(labels)} rows instead of {truth and len(truth)}"
