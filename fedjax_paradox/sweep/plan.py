"""What a program will cost before it runs: lanes, steps, waste, memory."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_paradox.config import Experiment
from fedjax_paradox.errors import InputError
from fedjax_paradox.federated.local import masked_cross_entropy
from fedjax_paradox.federated.packing import schedule
from fedjax_paradox.federated.packing.buffer import JobResults, empty_results
from fedjax_paradox.federated.packing.lanes import Lanes, empty_lanes
from fedjax_paradox.federated.sparse import POWERS
from fedjax_paradox.federated.trainer import Round
from fedjax_paradox.federated.types import Tree
from fedjax_paradox.sweep.program import Program
from fedjax_paradox.sweep.rounds import asked_of_models, job_lengths, padding, plan_round, train_needs

# Two cores are busy with one lane's matrix products; more lanes only cost cache. Measured, see README.
CPU_LANES = 1
ACCELERATOR_LANES = 64
MEMORY_SHARE = 0.8  # of a device's memory; the rest is left to the compiler's temporaries


class Memory(NamedTuple):
    """Bytes on the device."""

    fixed: int  # corpus, frozen weights, globals, results
    lane: int  # parameters, optimizer state, gradients and activations of one lane


class Plan(NamedTuple):
    """One program before it runs."""

    lanes: int
    jobs: int
    steps: int  # of all jobs of round 1
    rows: int  # trained in round 1, every epoch counting
    waste: float  # share of computed steps that train nothing
    padding: float  # share of the token places computed for their rows that hold none
    memory: Memory
    train_flops: float  # of one row's gradient
    predict_flops: float  # of one row's prediction
    predicted: int  # rows after a scored round, every model counting


def plan(experiment: Experiment, program: Program) -> Plan:
    """Lanes, work and memory of a program's first round.

    Raises:
      InputError: the round's batches do not fit the memory of the host, or one lane that of a device.
    """
    lengths = job_lengths(program)
    _check_sizes(program, lengths)
    lanes = choose_lanes(experiment, program)
    train_flops, predict_flops = _row_flops(program)
    jobs, _ = plan_round(program, 1)
    return Plan(
        lanes=lanes,
        jobs=len(lengths),
        steps=sum(lengths),
        rows=sum(int((job.steps >= 0).sum()) for job in jobs),
        waste=schedule.waste(lengths, lanes),
        padding=padding(program, train_needs(program), jobs, lanes),
        memory=memory(program),
        train_flops=train_flops,
        predict_flops=predict_flops,
        predicted=sum(map(len, asked_of_models(program))),
    )


def _check_sizes(program: Program, lengths: Sequence[int]) -> None:
    """Before anything of these sizes is allocated; lengths: steps of each job."""
    if max(lengths) >= 2**POWERS:
        raise InputError(
            f"a local update has at most {2**POWERS - 1:,} steps, the longest of {program.cells[0].model} would have "
            f"{max(lengths):,}; lower local.epochs or raise local.batch_size"
        )
    steps, batch, host = sum(lengths), program.cells[0].local.batch_size, MEMORY_SHARE * host_memory()
    if steps * batch * np.dtype(np.int32).itemsize > host:
        raise InputError(
            f"a round of {program.cells[0].model} has {steps:,} steps of {batch:,} rows, whose numbers alone take "
            f"more than the {host / 1024**3:.1f} GiB that this machine can spare; lower local.epochs or "
            "local.batch_size, or take fewer cells"
        )
    needed = memory(program)
    if needed.fixed + needed.lane > device_memory():
        raise _too_large(program, program.engine.devices, needed.fixed + needed.lane)


def choose_lanes(experiment: Experiment, program: Program) -> int:
    """The lanes asked for, or with `auto` as many as the memory estimate and a waste of 2 % allow; a multiple of
    the number of devices."""
    lengths, devices = job_lengths(program), program.engine.devices
    if experiment.lanes != "auto":
        return -(-min(experiment.lanes, len(lengths)) // devices) * devices
    most = CPU_LANES if jax.default_backend() == "cpu" else ACCELERATOR_LANES
    return schedule.choose_lanes(lengths, devices * max(1, min(most, _fitting(program))), devices)


def launch(
    experiment: Experiment, program: Program, globals_: Tree, states: tuple[Tree, ...], frozen: Tree
) -> tuple[Any, Lanes, JobResults]:
    """Compiles `advance` for as many lanes as fit, by the compiled program's own figure.

    Returns:
      (the compiled `advance`, empty lanes, empty results).

    Raises:
      InputError: the lanes asked for, or one lane a device, do not fit the memory of a device.
    """
    engine, num_lanes = program.engine, choose_lanes(experiment, program)
    while True:
        with explained(program, num_lanes):
            lanes, results = engine.start(globals_, num_lanes, len(program.cells) * program.slots)
            jobs, participants = plan_round(program, 1, num_lanes)
            if engine.needs_start_loss:  # of which the shape is enough
                participants = participants._replace(start_loss=participants.rows)
            first = next(schedule.chunks(jobs, num_lanes, 1))
            told = jax.eval_shape(engine.begin, globals_, states, results, participants)[1]
            round_ = Round(globals_, program.hyper, told, frozen, program.data)
            advance = engine.advance.lower(lanes, results, round_, first).compile()
        needed = _needed(advance)
        if needed <= device_memory():
            return advance, lanes, results
        if experiment.lanes != "auto" or num_lanes == engine.devices:
            raise _too_large(program, num_lanes, needed)
        fewer = min(num_lanes - engine.devices, int(num_lanes * device_memory() / needed))
        num_lanes = max(fewer // engine.devices, 1) * engine.devices


@contextmanager
def explained(program: Program, num_lanes: int) -> Iterator[None]:
    """Says what would fit where the device runs out of memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = memory(program)
        raise _too_large(
            program, num_lanes, needed.fixed + num_lanes // program.engine.devices * needed.lane
        ) from error


def _too_large(program: Program, num_lanes: int, needed: int) -> InputError:
    devices, gib = program.engine.devices, 1024**3
    fitting = min(_fitting(program), num_lanes // devices - 1) * devices
    remedy = f"lanes={fitting} should fit" if fitting > 0 else "take fewer cells, smaller batches or a smaller model"
    return InputError(
        f"lanes={num_lanes} of {program.cells[0].model} need {needed / gib:.2f} GiB on each device ({devices} in use), "
        f"which has {device_memory() / gib:.2f} GiB; {remedy}"
    )


def device_memory() -> int:
    """Bytes of one device; of the machine for CPU devices, which share it."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit or host_memory() // jax.local_device_count()


def host_memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _fitting(program: Program) -> int:
    """Lanes of one device by the estimate; less than one where not even one fits."""
    needed = memory(program)
    return (int(MEMORY_SHARE * device_memory()) - needed.fixed) // needed.lane


def _needed(compiled: Any) -> int:
    """Bytes of a compiled program on one device: arguments, what it returns in buffers of its own, temporaries."""
    sizes = compiled.memory_analysis()
    own = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.argument_size_in_bytes + own + sizes.temp_size_in_bytes


def memory(program: Program) -> Memory:
    """An estimate from shapes alone; nothing is computed or compiled."""
    globals_, frozen = jax.eval_shape(program.initial)
    jobs = len(program.cells) * program.slots
    reducer = program.engine.reducer
    lanes, results = jax.eval_shape(
        lambda leaves: (empty_lanes(program.trainer, leaves, 1), empty_results(reducer, leaves, jobs, 1)), globals_
    )
    states = jax.eval_shape(program.engine.init_rules, globals_)
    served = () if program.engine.serve is None else jax.eval_shape(program.engine.serve, globals_, states)
    fixed = _bytes((globals_, globals_, frozen, program.data, results, states, states, served))
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), globals_)
    begin = jax.eval_shape(program.trainer.start, globals_, jnp.zeros((), jnp.int32))
    return Memory(fixed, _bytes((lanes, begin)) + _activations(program, one, frozen))


def _activations(program: Program, one: Tree, frozen: Tree) -> int:
    """Bytes that the backward pass of one batch keeps: the residuals of the loss's vector-Jacobian product."""
    batch = program.cells[0].local.batch_size

    def backward(leaves: Tree, frozen: Tree, tokens: jax.Array) -> Tree:
        key = jax.random.key(0)
        labels, mask = jnp.zeros(batch, jnp.int32), jnp.ones(batch, bool)
        return jax.vjp(
            lambda p: masked_cross_entropy(program.model.apply(p, frozen, tokens, key), labels, mask), leaves
        )[1]

    tokens = jax.ShapeDtypeStruct((batch, program.data.tokens.shape[1]), jnp.int32)
    # Residuals hold the frozen weights, where the gradient goes through them.
    return max(0, _bytes(jax.eval_shape(backward, one, frozen, tokens)) - _bytes(frozen))


def _row_flops(program: Program) -> tuple[float, float]:
    """FLOPs of one row's gradient and of one row's prediction, as the compiler counts them; nothing is compiled."""
    globals_, frozen = jax.eval_shape(program.initial)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), globals_)
    tokens = jax.ShapeDtypeStruct((1, program.data.tokens.shape[1]), jnp.int32)

    def loss(leaves: Tree, frozen: Tree, tokens: jax.Array) -> jax.Array:
        logits = program.model.apply(leaves, frozen, tokens, jax.random.key(0))
        return masked_cross_entropy(logits, jnp.zeros(1, jnp.int32), jnp.ones(1, bool))

    def flops(function: Callable) -> float:
        return float((jax.jit(function).lower(one, frozen, tokens).cost_analysis() or {}).get("flops", 1.0))

    return flops(jax.grad(loss)), flops(program.model.apply)


def _bytes(tree: Tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
