"""The benchmark: one command, written as JSON, a Markdown page and plots. See README.md."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# PyTorch shares the accelerator in this process.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(Path(__file__).parent))

import jax
import plots
import scaling
import sections
import summary
from work import Child, Settings, alone, say

SECTIONS = {
    "matrix": sections.matrix,
    "rounds": sections.rounds,
    "flower": sections.flower,
    "step": sections.step,
    "scaling": scaling.scaling,
    "waste": sections.waste,
    "phases": sections.phases,
}
RESULTS = Path(__file__).parent / "results"
# Small enough for two CPU cores; the partition at alpha 0.1 then still fills most places of the batches.
ROWS = {"textcnn": 16_384, "minilm": 1024, "distilbert": 320, "clients": 32_000, "cells": 1024}


def main() -> None:
    options = parser().parse_args()
    if options.child:
        fields = json.loads(options.child)
        print(json.dumps(alone(Child(Settings(*fields[0]), *fields[1:]))))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        settings = Settings(
            options.train, options.test, options.cache or cache, chosen_rows(options.rows), options.repeats
        )
        results = measure(settings, options.only, options.out)
    plots.draw(results, options.out)
    every = {
        found.parent.name: json.loads(found.read_text("utf-8")) for found in options.out.parent.glob("*/benchmark.json")
    }
    (options.out.parent / "machines.md").write_text(summary.machines(dict(sorted(every.items()))), encoding="utf-8")
    print((options.out / "benchmark.md").read_text(encoding="utf-8"))


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    described.add_argument("--train", help="train rows: parquet, csv, tsv or jsonl with `text` and `label`")
    described.add_argument("--test", help="test rows; without files the built-in corpus is used")
    described.add_argument("--out", type=Path, default=RESULTS / "here", help="output folder")
    described.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    described.add_argument("--repeats", type=int, default=3, help="rounds measured after one warm-up round")
    described.add_argument("--rows", nargs="+", default=[], metavar="NAME=N", help=f"train rows, beside {ROWS}")
    described.add_argument("--cache", help="folder of tokens and random weights; by default a temporary one")
    described.add_argument("--child", help=argparse.SUPPRESS)
    return described


def chosen_rows(texts: Sequence[str]) -> dict[str, int]:
    """The default rows under NAME=N; SystemExit for another name."""
    given = dict(text.split("=", 1) for text in texts)
    if unknown := given.keys() - ROWS.keys():
        raise SystemExit(f"--rows knows {', '.join(ROWS)}, not {', '.join(unknown)}")
    return ROWS | {name: int(number) for name, number in given.items()}


def measure(settings: Settings, names: Sequence[str], out: Path) -> dict[str, Any]:
    """Runs the sections and writes benchmark.json and benchmark.md after each; other sections of the same machine
    and corpus that lie there stay."""
    results = {"machine": machine(), "corpus": settings.train or "docstrings", "commands": {}}
    before = out / "benchmark.json"
    found = json.loads(before.read_text(encoding="utf-8")) if before.exists() else {}
    if all(found.get(key) == results[key] for key in ("machine", "corpus")):
        results = found
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    for name in names:
        say(name)
        results[name] = SECTIONS[name](settings)
        results["commands"][name] = f"{date}: {shlex.join(['python', *sys.argv])}"
        results["bars"] = summary.bars(results)
        (out / "benchmark.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (out / "benchmark.md").write_text(summary.markdown(results), encoding="utf-8")
    return results


def machine() -> dict[str, Any]:
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers", "peft", "flwr", "ray")
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: installed.get(name) for name in packages},
        "devices": [device.device_kind for device in jax.devices()],
    }


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
