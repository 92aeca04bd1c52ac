"""The fault campaign: one command, a table of how every case ended. See README.md."""

import argparse
import importlib
import logging
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bits
import checkpoints
import disk
import inputs
import kills
import outcomes
import pretrained
import server
import study
import surroundings
from outcomes import Case, Lab, Result

SECTIONS = {
    "kills": kills.cases,
    "bit flips": bits.cases,
    "disk": disk.cases,
    "cache": disk.cache_cases,
    "temporary files": disk.scratch_cases,
    "surroundings": surroundings.cases,
    "run checkpoints": checkpoints.cases,
    "encoders": pretrained.cases,
    "configs": inputs.configs,
    "corpora": inputs.corpora,
}
# Where an undisturbed end is owed: nothing that a person has is damaged.
OWED = ("kills", "cache")
# Imported once, before any child; the package itself imports them late.
MODULES = (
    *("cli", "terminal.display", "terminal.audit", "report.page", "data.corpus", "models.pretrained"),
    *("sweep.hosts", "sweep.plan", "sweep.program", "sweep.run", "sweep.audits", "storage.checkpoint"),
)


def main() -> None:
    options = parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    server.preload(options.out)
    for module in MODULES:
        importlib.import_module(f"fedjax_paradox.{module}")
    logging.root.handlers.clear()  # a command line that starts has none
    began, work = time.monotonic(), options.out.absolute() / "work"
    shutil.rmtree(work, ignore_errors=True)
    lab = prepared(work)
    results: dict[str, list[Result]] = {}
    for name in options.only or SECTIONS:
        cases = outcomes.chosen(list(SECTIONS[name](lab)), options.share)
        results[name] = list(played(lab, name, cases, options.jobs))
        about = {
            "share": options.share,
            "seconds": round(time.monotonic() - began),
            "cores": len(os.sched_getaffinity(0)),
        }
        bars = judged(results)
        (options.out / "faults.json").write_text(outcomes.as_json(results, bars, about), encoding="utf-8")
        (options.out / "faults.md").write_text(outcomes.markdown(results, bars, about), encoding="utf-8")
    print((options.out / "faults.md").read_text(encoding="utf-8"))
    shutil.rmtree(work)
    sys.exit(not all(bars.values()))


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    described.add_argument(
        "out", type=Path, metavar="OUT", help="where the table goes, and what the cases need meanwhile"
    )
    described.add_argument("--share", type=float, default=1.0, help="of every section's cases, evenly spread")
    described.add_argument("--only", nargs="+", choices=SECTIONS, help="sections to run")
    described.add_argument("--jobs", type=int, default=2, help="cases at once")
    return described


def prepared(work: Path) -> Lab:
    """The study, a cache that holds its programs, and what undisturbed runs make."""
    lab = Lab(work, work / "study", work / "cache", {}, {})
    study.write(lab.study)
    settings = {f"round {rounds}": (f"rounds={rounds}",) for rounds in (1, 3, 4)}
    settings |= {f"wide, round {rounds}": (f"rounds={rounds}", "models.bag.options.width=2000") for rounds in (2, 3, 4)}
    settings |= {"other seeds": ("grid.seed=[3, 4]",), "other rule": ("rule=fedavg",)}
    for name, overrides in settings.items():
        lab.folders[name] = work / "folders" / name.replace(", ", "-").replace(" ", "-")
        ended = study.started(lab, lab.folders[name], *overrides)
        if ended.code != 0:
            raise SystemExit(f"an undisturbed run fails ({overrides}): {ended.errors}")
        lab.truth[name] = ended.value
    return lab


def played(lab: Lab, section: str, cases: Sequence[Case], jobs: int) -> Iterator[Result]:
    """The cases' results, and a line a minute."""
    said = time.monotonic()
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for number, found in enumerate(pool.imap_unordered(partial(play, lab), enumerate(cases)), 1):
            yield from found
            if time.monotonic() - said > 60:
                said = time.monotonic()
                print(f"{section}: {number} of {len(cases)}", file=sys.stderr, flush=True)


def play(lab: Lab, numbered: tuple[int, Case]) -> list[Result]:
    number, case = numbered
    scratch = lab.work / f"case-{number}"
    scratch.mkdir()
    try:
        return list(case.play(lab, scratch, *case.arguments))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def judged(results: dict[str, list[Result]]) -> dict[str, bool]:
    counts = outcomes.counts(results)
    bars = {f"no {ending}": not any(found.get(ending) for found in counts.values()) for ending in outcomes.NEVER}
    return bars | {
        f"every case of {name} ends identically": set(counts[name]) <= {outcomes.IDENTICAL}
        for name in OWED
        if name in counts
    }


if __name__ == "__main__":
    main()
