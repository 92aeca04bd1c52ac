"""What is measured, section by section. Each takes the settings and returns its part of the results."""

import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import summary
from flops import ENCODERS, full_row_flops, lora_row_flops
from work import Child, Settings, Study, in_child, interleaved, our_rounds, recorded, say, study, timed, work_of

from fedjax_paradox.data.partition import dirichlet_partition
from fedjax_paradox.federated.packing import schedule

# Products of the sizes that the encoders have, and square ones.
SHAPES = ((1024, 768, 768), (1024, 768, 3072), (1024, 3072, 768), (2048, 2048, 2048))
ACCELERATOR_SHAPES = (*SHAPES, (8192, 8192, 8192))


def rounds(settings: Settings) -> dict[str, Any]:
    """A federated round against the PyTorch loop, for each model."""
    return {model: _model_rounds(settings, model) for model in ("textcnn", *ENCODERS)}


def _model_rounds(settings: Settings, model: str) -> dict[str, Any]:
    import rival  # the only section that needs PyTorch

    ours, half = (
        study(settings, model, settings.rows[model], f"models.{model}.compute_dtype={precision}")
        for precision in ("float32", "bfloat16")
    )
    say(f"  {model}")
    contenders: dict[str, Iterator[Any]] = {"ours float32": our_rounds(ours), "ours bfloat16": our_rounds(half)}
    device = "cuda" if on_gpu() else "cpu"
    for name, bfloat16 in (("PyTorch float32", False), ("PyTorch bfloat16 autocast", True)):
        contenders[name] = rival.rounds(ours.program, rival.build(ours.program), device, bfloat16)
    raw = interleaved(contenders, settings.repeats)
    found = {name: recorded(one) if name.startswith("ours") else timed(one) for name, one in raw.items()}
    own = [name for name in found if name.startswith("ours")]
    ratios = {
        f"{name} / {mine}": summary.ratio(found[name]["seconds"], found[mine]["seconds"])
        for name in found
        for mine in own
        if name != mine
    }
    return {"work": work_of(ours.program), "contenders": found, "ratios": ratios}


def flower(settings: Settings) -> dict[str, Any]:
    """A TextCNN round against Flower's simulation, by number of clients."""
    return {str(clients): _flower_rounds(settings, clients) for clients in (10, 100)}


def _flower_rounds(settings: Settings, clients: int) -> dict[str, Any]:
    import flower  # the only section that needs it

    one = study(settings, "textcnn", settings.rows["textcnn"], f"num_clients={clients}")
    say(f"  {clients} clients")
    raw = interleaved({"ours": our_rounds(one), "Flower": flower.rounds(one.program)}, settings.repeats)
    found = {"ours": recorded(raw["ours"]), "Flower": timed(raw["Flower"])}
    ratio = summary.ratio(found["Flower"]["seconds"], found["ours"]["seconds"])
    return {"work": work_of(one.program), "contenders": found, "ratio": ratio}


def matrix(settings: Settings) -> dict[str, Any]:
    """GFLOP/s of matrix products, the best of several shapes: what each library makes of this machine."""
    import rival

    device, count = "cuda" if on_gpu() else "cpu", settings.repeats + 1
    contenders: dict[str, Iterator[Any]] = {}
    for name in ("float32", "bfloat16"):
        contenders[f"XLA {name}"] = _matrix_rates(jnp.dtype(name), count)
        contenders[f"PyTorch {name}"] = rival.matrix_rates(SHAPES, name, device, count)
    return {name: rates[1:] for name, rates in interleaved(contenders, settings.repeats).items()}


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def step(settings: Settings) -> dict[str, Any]:
    """Useful FLOP/s of the DistilBERT-sized training step beside the machine's matrix-product rate.

    One client and full batches, so that every row of a step is a useful one.
    """
    precisions = ("float32", "bfloat16") if on_gpu() else ("float32",)
    return {precision: _precision_step(settings, precision) for precision in precisions}


def _precision_step(settings: Settings, precision: str) -> dict[str, Any]:
    batch = 16
    rows = max(batch, settings.rows["distilbert"] // batch * batch)
    one_client = ("num_clients=1", "partition.kind=iid", "protocols=[global]")
    one = study(settings, "distilbert", rows, *one_client, f"models.distilbert.compute_dtype={precision}")
    work = work_of(one.program)
    products: Iterator[float] = _matrix_rates(jnp.dtype(precision), one.program.cells[0].rounds)
    found = interleaved({"rounds": our_rounds(one), "products": products}, settings.repeats)
    rates = found["products"][1:]
    training = [finished.phases["training"] for finished in found["rounds"][1:]]
    sizes = (ENCODERS["distilbert"], work["tokens"], len(one.program.corpus.classes), 8)
    needed, full = lora_row_flops(*sizes), full_row_flops(*sizes)
    speeds = [work["trained_rows"] / seconds for seconds in training]
    pairs = list(zip(speeds, rates, strict=True))
    return {
        "work": work,
        "row_flops_needed": needed,
        "row_flops_full": full,
        "training_seconds": training,
        "matrix_gflops_repeats": rates,
        "gflops_needed": float(np.median(speeds)) * needed / 1e9,
        "gflops_full": float(np.median(speeds)) * full / 1e9,
        "matrix_gflops": float(np.median(rates)),
        "share": float(np.median([speed * needed / 1e9 / rate for speed, rate in pairs])),
        "share_full": float(np.median([speed * full / 1e9 / rate for speed, rate in pairs])),
    }


def _matrix_rates(dtype: Any, count: int) -> Iterator[float]:
    """GFLOP/s of the best shape, measured anew each time."""
    shapes = ACCELERATOR_SHAPES if on_gpu() else SHAPES
    multiply = jax.jit(jnp.matmul)
    for _ in range(count):
        yield max(_matrix_rate(multiply, shape, dtype) for shape in shapes)


def _matrix_rate(multiply: Any, shape: tuple[int, int, int], dtype: Any) -> float:
    m, k, n = shape
    a, b = jnp.full((m, k), 0.5, dtype), jnp.full((k, n), 0.5, dtype)
    multiply(a, b).block_until_ready()
    times = max(3, int((2e13 if on_gpu() else 1e11) / (2 * m * k * n)))
    began = time.monotonic()
    for _ in range(times):
        last = multiply(a, b)
    last.block_until_ready()
    return 2e-9 * m * k * n * times / (time.monotonic() - began)


def waste(settings: Settings) -> dict[str, Any]:  # noqa: ARG001  (needs no data: sizes depend on class sizes alone)
    """Padded steps over all steps, for the published partition and for a grid, by lanes."""
    labels = np.repeat(np.arange(4), 30_000)
    grids = {
        "alpha 0.1": [(0.1, 42)],
        "grid": [(alpha, seed) for alpha in (0.1, 0.5, 1.0, 5.0) for seed in range(42, 47)],
    }
    return {name: _grid_waste(labels, points) for name, points in grids.items()}


def _grid_waste(labels: np.ndarray, points: list[tuple[float, int]]) -> dict[str, Any]:
    sizes = [len(rows) for point in points for rows in dirichlet_partition(labels, 10, *point)]
    published = {"textcnn": (5, 32, True), "transformer": (1, 16, False)}
    found: dict[str, Any] = {}
    for model, local in published.items():
        lengths = [schedule.num_steps(rows, *local) for rows in sizes if rows > 0]
        chosen = schedule.choose_lanes(lengths, 64)
        by_lanes = {str(2**n): schedule.waste(lengths, 2**n) for n in range(7)}
        found[model] = {"lanes": by_lanes, "chosen_lanes": chosen, "waste": schedule.waste(lengths, chosen)}
    # The worse of the two schedules, with the lanes that `lanes: auto` takes where there is room for 64.
    return found | {"chosen": max(one["waste"] for one in found.values())}


def phases(settings: Settings) -> dict[str, Any]:
    """Where a MiniLM-sized round's time goes, and what compiling costs with and without the persistent cache."""
    one = study(settings, "minilm", settings.rows["minilm"])
    found = recorded(interleaved({"ours": our_rounds(one)}, settings.repeats)["ours"])
    both = (found["phases"], found["seconds"])
    return {
        "work": work_of(one.program),
        "raw": found,
        "shares": summary.shares(*both),
        "bookkeeping": summary.bookkeeping(*both),
        "compilation": _compilation(settings),
    }


def _compilation(settings: Settings) -> dict[str, float]:
    """Seconds in the compiler or in its cache, of a process with an empty cache folder and of one after it."""
    child = Child(settings._replace(repeats=1), "minilm", 64, ())
    with tempfile.TemporaryDirectory() as folder:
        environment = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        runs = {name: in_child(child, environment) for name in ("cold", "from the cache")}
    return {name: sum(seconds for _, seconds in found["compiled_first"]) for name, found in runs.items()}


def rows_per_second(one: Study, seconds: list[float]) -> float:
    """Rows trained a second, the whole round counted."""
    return work_of(one.program)["trained_rows"] / float(np.median(seconds))
