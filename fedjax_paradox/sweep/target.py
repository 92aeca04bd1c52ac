"""A program compiled for accelerators that are not here: does it fit, what does it compute, how fast is it at best."""

import math
import os
import re
import time
from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from fedjax_paradox.config import Experiment
from fedjax_paradox.errors import InputError
from fedjax_paradox.federated.packing import schedule
from fedjax_paradox.federated.packing.buffer import empty_results
from fedjax_paradox.federated.packing.engine import CHUNK, EVERYWHERE, LANES, advance_on, mesh_of
from fedjax_paradox.federated.packing.lanes import empty_lanes
from fedjax_paradox.federated.trainer import Round
from fedjax_paradox.federated.types import Tree
from fedjax_paradox.sweep.plan import ACCELERATOR_LANES, MEMORY_SHARE, memory
from fedjax_paradox.sweep.program import Program
from fedjax_paradox.sweep.rounds import job_lengths, plan_round


class Chip(NamedTuple):
    """What one device of a target has."""

    memory: int  # bytes
    flops: float  # a second, of dense bfloat16 products
    bandwidth: float  # bytes a second
    host: str = ""  # of a TPU: what its smallest host is called
    gpu: Mapping[str, Any] = {}  # of a GPU: what XLA's `GpuDeviceInfoProto` says of it beside what all have


_HOPPER = {
    "core_count": 132,
    "fpus_per_core": 128,
    "shared_memory_per_core": 233472,
    "shared_memory_per_block_optin": 232448,
    "l2_cache_size": 50 * 2**20,
    "clock_rate_ghz": 1.98,
    "cuda_compute_capability": 9,
}
_AMPERE = {
    "core_count": 108,
    "fpus_per_core": 64,
    "shared_memory_per_core": 167936,
    "shared_memory_per_block_optin": 166912,
    "l2_cache_size": 40 * 2**20,
    "clock_rate_ghz": 1.41,
    "cuda_compute_capability": 8,
}
# As published in Google Cloud's TPU documentation (system architecture: v5e, v5p, v6e) and in NVIDIA's data sheets and
# tuning guides (A100 SXM 80 GB, H100 SXM, H200 SXM).
CHIPS = {
    "v5e": Chip(16 * 10**9, 197e12, 819e9, host="v5litepod-4"),
    "v5p": Chip(95 * 10**9, 459e12, 2765e9, host="v5p-8"),
    "v6e": Chip(32 * 10**9, 918e12, 1640e9, host="v6e-4"),
    "a100": Chip(80 * 10**9, 312e12, 2039e9, gpu=_AMPERE),
    "h100": Chip(80 * 10**9, 989e12, 3350e9, gpu=_HOPPER),
    "h200": Chip(141 * 10**9, 989e12, 4800e9, gpu=_HOPPER),
}
_ARRANGEMENT = {True: r"(:[1-9]\d{0,2})?", False: r":[1-9]\d{0,2}(x[1-9]\d{0,2}){1,2}"}  # of a GPU or not
_COMPILERS = {True: ("jax_plugins.xla_cuda13", "GPUs", "cuda13"), False: ("libtpu", "TPUs", "tpu")}


class Compiled(NamedTuple):
    """`advance` of one program on a target; bytes are those of one device."""

    devices: int
    lanes: int  # on all devices
    arguments: int
    temporaries: int
    results: int  # beside the arguments that they take the place of
    memory: int  # that a device has
    flops: float  # of one step of a device's lanes
    traffic: float  # bytes that such a step reads and writes
    products: Counter[str]  # result type -> matrix products
    kernels: int
    seconds: float  # that it took to compile
    bound: float  # seconds of a round's products at the chip's peak: no round is shorter
    by_traffic: float  # seconds of its traffic, if all that XLA counts went to the memory

    @property
    def fits(self) -> bool:
        return self.arguments + self.temporaries + self.results <= self.memory


def check(name: str) -> Chip:
    """The chip of a target such as `v5e:2x2` or `h100:8`; InputError for one that is unknown or cannot be compiled for.

    To be called before JAX looks for its devices.
    """
    chip = CHIPS.get(name.partition(":")[0])
    if chip is None or not re.fullmatch(rf"\w+{_ARRANGEMENT[bool(chip.gpu)]}", name):
        known = ", ".join(CHIPS)
        raise InputError(
            f"--target must be a chip of {known}, with a topology such as v5e:2x2 or a number such as h100:8, got "
            f"{name!r:.80}"
        )
    here, kind, extra = compiler(chip)
    if not here:
        raise InputError(f"--target needs the compiler for {kind}: pip install 'fedjax-paradox[{extra}]'")
    if chip.gpu:  # the libraries that run programs are not here, and not needed
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    return chip


def compiler(chip: Chip) -> tuple[bool, str, str]:
    """(whether a chip's compiler is installed, what it is for, the extra that has it)."""
    module, kind, extra = _COMPILERS[bool(chip.gpu)]
    try:
        return find_spec(module) is not None, kind, extra
    except ModuleNotFoundError:  # the package above it
        return False, kind, extra


def topology(name: str) -> list[Any]:
    """The devices of a target of `check`, none of which is here; InputError where there is no such arrangement."""
    chip, (_, _, shape) = check(name), name.partition(":")
    from jax.experimental import topologies

    try:
        if chip.gpu:
            described = {"target_config": described_gpu(name.partition(":")[0].upper(), chip)}
            return list(topologies.get_topology_desc("", "cuda", topology=f"1x1x{shape or 1}", **described).devices)
        # Nobody to ask: this is no machine with TPUs.
        alone = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": chip.host, "TPU_WORKER_HOSTNAMES": "localhost"}
        alone |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # no two processes can be in each other's way
        for variable, value in alone.items():
            os.environ.setdefault(variable, value)
        bounds: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if set(shape.split("x")) == {"1"} else {}
        return list(topologies.get_topology_desc(name, "tpu", **bounds).devices)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        told = str(error).splitlines()[0][:300]
        raise InputError(f"--target {name} cannot be compiled for ({told}); name another topology") from error


def described_gpu(name: str, chip: Chip) -> str:
    """XLA's `GpuTargetConfigProto` of a chip, as text."""
    numbers = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "memory_bandwidth": int(chip.bandwidth),
        "device_memory_size": chip.memory,
        **chip.gpu,
    }
    major = numbers.pop("cuda_compute_capability")
    device = "".join(f"{key}: {value} " for key, value in numbers.items())
    return (
        f"gpu_device_info {{ {device} cuda_compute_capability {{ major: {major} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 } runtime_version { major: 13 } '
        f'device_description_str: "NVIDIA {name}"'
    )


# Nothing can be tried out on a device that is not here.
_GPU_OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


def compiled(experiment: Experiment, program: Program, name: str) -> Compiled:
    """A program's `advance`, as `plan.launch` compiles it, for a target; nothing is run and no array is made."""
    chip, mesh = check(name), mesh_of(topology(name))
    lengths, devices = job_lengths(program), mesh.size
    lanes = _lanes(experiment, program, chip, devices)
    began = time.monotonic()
    lowered = advance_on(mesh, program.trainer, program.engine.reducer).lower(*_arguments(program, lanes, mesh))
    found = lowered.compile(_GPU_OPTIONS if chip.gpu else None)
    seconds, sizes, told = time.monotonic() - began, found.memory_analysis(), operations(found.as_text())
    flops, traffic = _work(found.cost_analysis() or {}, program, lanes // devices, told.written)
    steps = max(sum(lengths[job] for job in lane) for lane in schedule.assign(lengths, lanes))
    return Compiled(
        devices=devices,
        lanes=lanes,
        arguments=sizes.argument_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        results=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        memory=chip.memory,
        flops=flops,
        traffic=traffic,
        products=told.products,
        kernels=told.kernels,
        seconds=seconds,
        bound=steps * flops / chip.flops,
        by_traffic=steps * traffic / chip.bandwidth,
    )


# On a GPU a product is a call of cuBLAS, whose result may come with others.
_PRODUCT = re.compile(r"= \(?(\w+)\[[^=]*? (?:dot\(|convolution\(|custom-call\(.*?custom_call_target=\"__cublas)")
_KERNEL = re.compile(r"= (.*?) (?:fusion|dot|convolution|custom-call|copy|transpose|reduce|gather|scatter|sort)\(")
_SHAPE_OF = re.compile(r"\b([a-z]+)(\d*)\[([\d,]*)\]")
_IN_PLACE = re.compile(r"ROOT .*? (?:dynamic-update-slice|scatter)\(")


class Operations(NamedTuple):
    """What a compiled program's text says."""

    products: Counter[str]  # result type -> matrix products
    kernels: int  # operations that are kernels of their own
    written: int  # bytes of their results: a loop's body once, of a choice the largest


class _Computation(NamedTuple):
    """One block of a program's text."""

    own: list[tuple[str, str]]  # (type of the result, what it calls) of its kernels
    loops: list[str]  # bodies, and what is called
    choices: list[list[str]]


def operations(text: str) -> Operations:
    """What stands in the body of a fusion is part of it, but for its products, which are counted."""
    products, name = Counter[str](), ""
    blocks: dict[str, _Computation] = {"": _Computation([], [], [])}
    in_place = set()  # fusions that change a few places of what they return
    for line in text.splitlines():
        if line.endswith("{"):
            name = line.removeprefix("ENTRY").split()[0].lstrip("%")
            blocks[name] = _Computation([], [], [])
        products.update(_PRODUCT.findall(line))
        if _IN_PLACE.search(line):
            in_place.add(name)
        block, called = blocks[name], re.search(r"calls=%?([\w.-]+)", line)
        if kernel := _KERNEL.search(line):
            block.own.append((kernel[1], called[1] if called else ""))
        block.loops.extend(re.findall(r"(?:body|to_apply)=%?([\w.-]+)", line))
        choices = [*re.findall(r"branch_computations={(.*?)}", line), *re.findall(r"(true_.*?, false_\S*)", line)]
        block.choices.extend(re.findall(r"%([\w.-]+)", choice) for choice in choices)
    kernels = sum(len(block.own) for name, block in blocks.items() if not name.startswith("fused"))
    return Operations(products, kernels, _written(blocks, in_place, name))  # the last is the entry


def _written(blocks: Mapping[str, _Computation], in_place: Collection[str], name: str) -> int:
    below = partial(_written, blocks, in_place)
    block = blocks.get(name, blocks[""])
    own = sum(_bytes_of(shapes) for shapes, called in block.own if called not in in_place)
    return own + sum(map(below, block.loops)) + sum(max(map(below, choice)) for choice in block.choices)


def _bytes_of(shapes: str) -> int:
    """Of a result's type as the text has it, such as `(bf16[4,8]{1,0}, f32[2]{0})`; bytes (s8) are a library's room to
    work in."""
    found = 0
    for kind, bits, sizes in _SHAPE_OF.findall(shapes):
        room = kind + bits == "s8"
        found += 0 if room else int(bits or 8) * math.prod(int(size) for size in sizes.split(",") if size) // 8
    return found


def _work(costs: Mapping[str, float], program: Program, lanes: int, written: int) -> tuple[float, float]:
    """(FLOPs, bytes read and written) of a step of a device's lanes.

    XLA counts neither for GPUs: FLOPs are then those of the same program before any compilation, and every result of a
    kernel is taken to be written once and read once.
    """
    if costs:
        return float(costs.get("flops", 0.0)), float(costs.get("bytes accessed", 0.0))
    here = mesh_of(jax.local_devices()[:1])
    lowered = advance_on(here, program.trainer, program.engine.reducer).lower(*_arguments(program, lanes, here))
    return float((lowered.cost_analysis() or {}).get("flops", 0.0)), 2.0 * written


def _lanes(experiment: Experiment, program: Program, chip: Chip, devices: int) -> int:
    """As `plan.choose_lanes`, with the memory and the number of the target's devices."""
    lengths, needed = job_lengths(program), memory(program)
    if experiment.lanes != "auto":
        return -(-min(experiment.lanes, len(lengths)) // devices) * devices
    fitting = (int(MEMORY_SHARE * chip.memory) - needed.fixed) // needed.lane
    return schedule.choose_lanes(lengths, devices * max(1, min(ACCELERATOR_LANES, fitting)), devices)


def _arguments(program: Program, lanes: int, mesh: Any) -> tuple[Tree, ...]:
    """Shapes of what `advance` gets, on the mesh."""

    def on(spec: Any, tree: Tree) -> Tree:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    engine, (globals_, frozen) = program.engine, jax.eval_shape(program.initial)
    jobs, people = plan_round(program, 1, lanes)
    if engine.needs_start_loss:
        people = people._replace(start_loss=people.rows)
    states = jax.eval_shape(engine.init_rules, globals_)
    count = people.mask.size
    _, here = jax.eval_shape(lambda leaves: engine.start(leaves, engine.devices, count), globals_)
    _, told, _ = jax.eval_shape(engine.begin, globals_, states, here, people)
    results = jax.eval_shape(lambda leaves: empty_results(engine.reducer, leaves, count, mesh.size), globals_)
    chunk = jax.tree.map(np.asarray, next(schedule.chunks(jobs, lanes, 1)))
    state = jax.eval_shape(lambda leaves: empty_lanes(program.trainer, leaves, lanes), globals_)
    round_ = Round(globals_, program.hyper, told, frozen, program.data)
    return on(LANES, state), on(LANES, results), on(EVERYWHERE, round_), jax.tree.map(on, CHUNK, chunk)
