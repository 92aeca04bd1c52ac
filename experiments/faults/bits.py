"""Single flipped bits in every file of an output folder and of the cache: nothing is read as another number.

Most flips are put before the functions that read the file, some hundred of them a child; a share of them before a
whole resumed run, or a report.
"""

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import batches
import server
import study
from outcomes import IDENTICAL, REFUSED, REPAIRED, SILENT, Case, Lab, Result, differing, judged

WIDE = "models.bag.options.width=2000"
FOLDER, EARLIER = "wide, round 3", "wide, round 2"  # arrays large enough for data files of their own
READ, WHOLE, REPORTED, COMPILED = 2000, 150, 40, 40
BATCH = 50

Flip = tuple[str, int]  # (file below the folder, which bit)


def cases(lab: Lab) -> Iterator[Case]:
    generator = random.Random(0)  # noqa: S311  (which bits are flipped)
    folder, cached = lab.folders[FOLDER], [name for name in _files(lab.cache) if name.startswith("tokens-")]
    files = [name for name in _files(folder) if "checkpoints" not in name or "/3/" in name]
    every = _drawn(folder, files, READ, generator) + _drawn(lab.cache, cached, READ // 20, generator)
    for first in range(0, len(every), BATCH):
        yield Case(f"read {first}", read, (every[first : first + BATCH],))
    yield from (Case("resume", resumed, bit) for bit in _drawn(folder, _files(folder), WHOLE, generator))
    tables = [name for name in files if "/" not in name]
    yield from (Case("report", reported, bit) for bit in _drawn(folder, tables, REPORTED, generator))
    compiled = [name for name in _files(lab.cache) if name.startswith("xla/") and name.endswith("-cache")]
    yield from (Case("compiled", recompiled, bit) for bit in _drawn(lab.cache, compiled, COMPILED, generator))


def _files(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]


def _drawn(folder: Path, names: Sequence[str], count: int, generator: random.Random) -> list[Flip]:
    """Every file as often as the others, whatever its size."""
    flips = []
    full = [name for name in names if (folder / name).stat().st_size]
    for number in range(count):
        name = full[number % len(full)]
        flips.append((name, generator.randrange(8 * (folder / name).stat().st_size)))
    return flips


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


# The functions that read


def read(lab: Lab, scratch: Path, flips: Sequence[Flip]) -> Iterator[Result]:
    yield from batches.played(lab, scratch, [(f"{name}, bit {bit}", (name, bit)) for name, bit in flips], _read)


def _read(lab: Lab, scratch: Path, name: str, bit: int) -> tuple[str, str]:
    """One flip, read by the function that reads such a file."""
    folder, cache = scratch / "folder", scratch / "cache"
    shutil.copytree(lab.folders[FOLDER], folder)
    shutil.copytree(lab.cache, cache, ignore=shutil.ignore_patterns("xla"))
    place = cache if name.startswith("tokens-") else folder
    reader = partial(_reader(name), place)
    truth = reader()
    flip(place / name, bit)
    try:
        return _outcome(reader, truth, folder, lab)
    finally:
        shutil.rmtree(scratch)


def _outcome(reader: Callable[[], Any], truth: Any, folder: Path, lab: Lab) -> tuple[str, str]:
    from fedjax_paradox.errors import InputError

    try:
        found = reader()
    except InputError as error:
        return REFUSED, str(error)
    if not (folder / "damaged").exists():
        return (IDENTICAL, "") if found == truth else (SILENT, differing(found, truth))
    earlier = {name: held for name, held in lab.truth[EARLIER].items() if not name.endswith(".parquet")}
    return (REPAIRED, "") if found in (truth, earlier) else (SILENT, differing(found, earlier))


def _reader(name: str) -> Callable[[Path], Any]:
    """What reads a file, given the folder that it lies in."""
    from fedjax_paradox.storage import cells, folder, history, results

    readers: dict[str, Callable[[Path], Any]] = {
        results.FILE: lambda path: results.read(path).to_pydict(),
        history.ROUNDS: lambda path: str(history.read(path).rounds.to_pylist()),  # NaN is not itself
        history.PARTICIPANTS: lambda path: str(history.read(path).participants.to_pylist()),
        cells.FILE: cells.read,
        folder.RECORD: _reported,
        folder.CONFIG: _reported,
    }
    return _tokens if name.startswith("tokens-") else readers.get(name, _states)


def _tokens(cache: Path) -> Any:
    from fedjax_paradox.data.corpus import load_texts, word_corpus

    texts = load_texts("faults", files=(Path("train.csv"), Path("test.csv")), cache=cache)
    found = word_corpus(texts, 20_000, 8, cache)
    return found.train_tokens.tolist(), found.test_tokens.tolist(), found.vocabulary_size


def _reported(folder: Path) -> Any:
    """What a report takes from the config and the record."""
    from fedjax_paradox.analysis.folders import read_folders

    read = read_folders([folder]).folders[0]
    return read.experiment.model_dump(), read.record


def _states(folder: Path) -> dict[str, Any]:
    from fedjax_paradox.storage import cells, checkpoint

    identities = [entry.identity for entry in cells.read(folder).values()]
    held = checkpoint.restore(folder / "checkpoints", identities, folder / "damaged")
    return {identity: [one.round, study.leaves(one.leaves)] for identity, one in held.items()}


# Whole commands


def resumed(lab: Lab, scratch: Path, name: str, bit: int) -> Iterator[Result]:
    """One round more is asked of the damaged folder."""
    out = scratch / "out"
    shutil.copytree(lab.folders[FOLDER], out)
    flip(out / name, bit)
    ended = study.started(lab, out, "rounds=4", WIDE)
    yield Result(f"resume: {name}, bit {bit}", *judged(ended, lab.truth["wide, round 4"]))


def recompiled(lab: Lab, scratch: Path, name: str, bit: int) -> Iterator[Result]:
    """A new run with a damaged cache of compiled programs."""
    cache = scratch / "cache"
    shutil.copytree(lab.cache, cache)
    flip(cache / name, bit)
    ended = study.started(lab, scratch / "out", WIDE, cache=cache)
    yield Result(f"compiled: {name}, bit {bit}", *judged(ended, lab.truth[FOLDER]))


def reported(lab: Lab, scratch: Path, name: str, bit: int) -> Iterator[Result]:
    """`report` of the folder before and after."""
    out, environment = scratch / "out", {"FEDJAX_PARADOX_CACHE": str(lab.cache)}
    shutil.copytree(lab.folders[FOLDER], out)
    before = server.call(_report, out, cwd=lab.study, environment=environment)
    flip(out / name, bit)
    ended = server.call(_report, out, cwd=lab.study, environment=environment)
    yield Result(f"report: {name}, bit {bit}", *judged(ended, before.value))


def _report(out: Path) -> tuple[int, Any]:
    code, _ = server.command("report", str(out))
    texts = [path for path in sorted((out / "report").rglob("*")) if path.suffix in (".md", ".tex", ".csv")]
    return code, {path.name: path.read_text() for path in texts}
