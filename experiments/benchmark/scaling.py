"""How time grows with clients, cells, lanes and devices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import summary
from sections import rows_per_second
from work import Child, Settings, Study, in_child, interleaved, our_rounds, recorded, say, study, work_of

CLIENTS = (10, 100, 1_000, 10_000)
CELLS = (1, 4, 16)
LANES = DEVICES = (1, 2, 4, 8)
IID = ("partition.kind=iid", "protocols=[global]")
ONE_EPOCH = ("local.epochs=1", "local.learning_rate=0.0001")
# Rows, batch size, overrides. Points whose clients cannot fill a batch are left out: padding would slow them down.
CLIENT_SERIES = {
    "textcnn": ("textcnn", 32_000, 32, ()),
    "textcnn, batch 2, one epoch": ("textcnn", 20_000, 2, ONE_EPOCH),
    "minilm, 16 tokens, batch 2": ("minilm", 2_000, 2, ("models.minilm.max_length=16",)),
}


def scaling(settings: Settings) -> dict[str, Any]:
    return {
        "clients": {name: _clients(settings, *series) for name, series in CLIENT_SERIES.items()},
        "cells": _cells(settings),
        "lanes": {model: _lanes(settings, model) for model in ("textcnn", "minilm")},
        "devices": _devices(settings),
        "programs": _programs(settings),
    }


def _clients(settings: Settings, model: str, rows: int, batch: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Rows/s against clients at the same total rows, in equal parts."""
    rows = min(rows, settings.rows["clients"])
    fitting = [clients for clients in CLIENTS if clients == CLIENTS[0] or clients * batch <= rows]
    sizes = (*IID, f"local.batch_size={batch}", *overrides)
    studies = {str(clients): study(settings, model, rows, *sizes, f"num_clients={clients}") for clients in fitting}
    reason = f"fewer than {batch} rows a client do not fill a batch"
    skipped = {str(clients): reason for clients in CLIENTS if clients not in fitting}
    return _series(settings, "clients", studies) | {"skipped": skipped}


def _series(settings: Settings, against: str, studies: dict[str, Study]) -> dict[str, Any]:
    """Rows/s of each study, taken in turn, and relative to the first."""
    say(f"  {against}, {next(iter(studies.values())).experiment.model}")
    raw = interleaved({name: our_rounds(one) for name, one in studies.items()}, settings.repeats)
    found = {name: recorded(rounds) for name, rounds in raw.items()}
    speeds = {name: rows_per_second(one, found[name]["seconds"]) for name, one in studies.items()}
    work = {name: work_of(one.program) for name, one in studies.items()}
    return {"work": work, "raw": found, "rows_per_second": speeds, "relative": relative(work, found)}


def relative(work: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, float]:
    """Each series' rows/s over the first one's."""
    (rows, seconds), *_ = [(work[name]["trained_rows"], one["seconds"]) for name, one in found.items()]
    return {
        name: summary.ratio(seconds, one["seconds"]) * work[name]["trained_rows"] / rows for name, one in found.items()
    }


def _cells(settings: Settings) -> dict[str, Any]:
    """A round's time per cell, of grids that differ in the training seed alone."""
    studies = {
        str(cells): study(settings, "textcnn", settings.rows["cells"], f"grid.seed={list(range(42, 42 + cells))}")
        for cells in CELLS
    }
    series = _series(settings, "cells", studies)
    raw = series["raw"]
    per_cell = {n: summary.ratio(one["seconds"], raw["1"]["seconds"]) / int(n) for n, one in raw.items()}
    return series | {"per_cell": per_cell}


def _lanes(settings: Settings, model: str) -> dict[str, Any]:
    """Rows/s against lanes: sixteen equal clients, which 1, 2, 4 and 8 lanes share without waste."""
    rows = settings.rows["cells"] if model == "textcnn" else 16 * 16
    clients = (*IID, "num_clients=16")
    return _series(
        settings, "lanes", {str(lanes): study(settings, model, rows, *clients, f"lanes={lanes}") for lanes in LANES}
    )


def _devices(settings: Settings) -> dict[str, Any]:
    """Rows/s at eight lanes on simulated devices that share this CPU: what sharding costs, no speed-up."""
    child = Child(settings, "textcnn", settings.rows["cells"], (*IID, "num_clients=16", "lanes=8"))
    flag = "--xla_force_host_platform_device_count"
    runs = {str(n): in_child(child, {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{flag}={n}"}) for n in DEVICES}
    speeds = {n: one["work"]["trained_rows"] / float(np.median(one["seconds"])) for n, one in runs.items()}
    return {"raw": runs, "rows_per_second": speeds, "relative": {n: s / speeds["1"] for n, s in speeds.items()}}


def _programs(settings: Settings) -> dict[str, Any]:
    """What a grid of four alphas and four seeds compiles: the training program, and anything after round 1."""
    grid = ("grid.alpha=[0.1, 0.5, 1.0, 5.0]", "grid.seed=[42, 43, 44, 45]", "models.textcnn.vocabulary_size=500")
    found = in_child(Child(settings, "textcnn", 256, grid), {})
    names = [name for name, _ in found["compiled_first"] + found["compiled_later"]]
    return {
        "training": sum("advance" in name for name in names),
        "after_round_1": len(found["compiled_later"]),
        "names": names,
    }
