"""A program compiled for accelerators that are not here: does it fit, what does it compute, how fast is it at best."""

import os
import re
import time
from collections import Counter
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from fedjax_paradox.config import Experiment
from fedjax_paradox.errors import InputError
from fedjax_paradox.federated.packing import schedule
from fedjax_paradox.federated.packing.engine import CHUNK, EVERYWHERE, LANES, advance_on, mesh_of
from fedjax_paradox.federated.packing.lanes import empty_lanes
from fedjax_paradox.federated.trainer import Round
from fedjax_paradox.federated.types import Tree
from fedjax_paradox.sweep.plan import ACCELERATOR_LANES, MEMORY_SHARE, memory
from fedjax_paradox.sweep.program import Program
from fedjax_paradox.sweep.rounds import job_lengths, plan_round


class Chip(NamedTuple):
    """What one device of a target has."""

    host: str  # what its smallest host is called
    memory: int  # bytes
    flops: float  # a second, of bfloat16 products
    bandwidth: float  # bytes a second


# As published in Google Cloud's TPU documentation (system architecture: v5e, v5p, v6e).
CHIPS = {
    "v5e": Chip("v5litepod-4", 16 * 10**9, 197e12, 819e9),
    "v5p": Chip("v5p-8", 95 * 10**9, 459e12, 2765e9),
    "v6e": Chip("v6e-4", 32 * 10**9, 918e12, 1640e9),
}


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


def check(name: str) -> str:
    """The chip of a target such as `v5e:2x2`; InputError for one that is unknown or cannot be compiled for."""
    chip, _, topology = name.partition(":")
    if chip not in CHIPS or not re.fullmatch(r"[1-9]\d{0,2}(x[1-9]\d{0,2}){1,2}", topology):
        known = ", ".join(CHIPS)
        raise InputError(f"--target must be CHIP:TOPOLOGY, a chip of {known} such as v5e:2x2, got {name!r:.80}")
    if find_spec("libtpu") is None:
        raise InputError("--target needs the compiler for TPUs: pip install 'fedjax-paradox[tpu]'")
    return chip


def topology(name: str) -> list[Any]:
    """The devices of a target of `check`, none of which is here; InputError where there is no such arrangement."""
    # Nobody to ask: this is no machine with TPUs.
    host = CHIPS[check(name)].host
    alone = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": host, "TPU_WORKER_HOSTNAMES": "localhost"}
    alone |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # no two processes can be in each other's way
    for variable, value in alone.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    one_chip = set(name.partition(":")[2].split("x")) == {"1"}
    bounds: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if one_chip else {}  # four by default
    try:
        return list(topologies.get_topology_desc(name, platform="tpu", **bounds).devices)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        told = str(error).splitlines()[0][:300]
        raise InputError(f"--target {name} cannot be compiled for ({told}); name another topology") from error


def compiled(experiment: Experiment, program: Program, name: str) -> Compiled:
    """A program's `advance`, as `plan.launch` compiles it, for a target; nothing is run and no array is made."""
    chip, mesh = CHIPS[check(name)], mesh_of(topology(name))
    lengths, devices = job_lengths(program), mesh.size
    lanes = _lanes(experiment, program, chip, devices)
    began = time.monotonic()
    found = advance_on(mesh, program.trainer, program.engine.reducer).lower(*_arguments(program, lanes, mesh)).compile()
    seconds, sizes, costs = time.monotonic() - began, found.memory_analysis(), found.cost_analysis() or {}
    flops, traffic = float(costs.get("flops", 0.0)), float(costs.get("bytes accessed", 0.0))
    steps = max(sum(lengths[job] for job in lane) for lane in schedule.assign(lengths, lanes))
    products, kernels = operations(found.as_text())
    return Compiled(
        devices=devices,
        lanes=lanes,
        arguments=sizes.argument_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        results=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        memory=chip.memory,
        flops=flops,
        traffic=traffic,
        products=products,
        kernels=kernels,
        seconds=seconds,
        bound=steps * flops / chip.flops,
        by_traffic=steps * traffic / chip.bandwidth,
    )


_PRODUCT = re.compile(r"= (\w+)\[[^=]*? (?:dot|convolution)\(")
_KERNEL = re.compile(r"= .*? (?:fusion|dot|convolution|custom-call|copy|transpose|reduce|gather|scatter|sort)\(")


def operations(text: str) -> tuple[Counter[str], int]:
    """(result type -> matrix products, operations that are kernels of their own) of a compiled program's text.

    What stands in the body of a fusion is part of it, but for its products, which are counted.
    """
    products, kernels, fused = Counter[str](), 0, False
    for line in text.splitlines():
        if line.endswith("{"):
            fused = line.startswith(("%fused", "fused"))
        products.update(_PRODUCT.findall(line))
        kernels += not fused and _KERNEL.search(line) is not None
    return products, kernels


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
    results = jax.eval_shape(lambda leaves: engine.start(leaves, engine.devices, people.mask.size)[1], globals_)
    told = jax.eval_shape(engine.begin, globals_, states, results, people)[1]
    chunk = jax.tree.map(np.asarray, next(schedule.chunks(jobs, lanes, 1)))
    state = jax.eval_shape(lambda leaves: empty_lanes(program.trainer, leaves, lanes), globals_)
    round_ = Round(globals_, program.hyper, told, frozen, program.data)
    return on(LANES, state), on(LANES, results), on(EVERYWHERE, round_), jax.tree.map(on, CHUNK, chunk)
