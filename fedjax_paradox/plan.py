"""What a program will cost before it runs: lanes, steps, waste, memory."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_paradox.config import Experiment
from fedjax_paradox.federated import schedule
from fedjax_paradox.federated.engine import start
from fedjax_paradox.federated.local import masked_cross_entropy
from fedjax_paradox.federated.types import Tree
from fedjax_paradox.program import Program
from fedjax_paradox.rounds import job_lengths, plan_round

# Two cores are busy with one lane's matrix products; more lanes only cost cache. Measured, see README.
CPU_LANES = 1
ACCELERATOR_LANES = 64
MEMORY_SHARE = 0.8  # of a device's memory; the rest is left to the compiler's temporaries


class Memory(NamedTuple):
    """Bytes on the device."""

    fixed: int  # corpus, frozen weights, globals, result buffer
    lane: int  # parameters, optimizer state, gradients and activations of one lane


class Plan(NamedTuple):
    """One program before it runs."""

    lanes: int
    jobs: int
    steps: int  # of all jobs of round 1
    rows: int  # trained in round 1, every epoch counting
    waste: float  # share of computed steps that train nothing
    memory: Memory
    train_flops: float  # of one row's gradient
    predict_flops: float  # of one row's prediction


def plan(experiment: Experiment, program: Program) -> Plan:
    """Lanes, work and memory of a program's first round."""
    lengths = job_lengths(program)
    lanes = choose_lanes(experiment, program)
    train_flops, predict_flops = _row_flops(program)
    return Plan(
        lanes=lanes,
        jobs=len(lengths),
        steps=sum(lengths),
        rows=sum(int((job.steps >= 0).sum()) for job in plan_round(program, 1)[0]),
        waste=schedule.waste(lengths, lanes),
        memory=memory(program),
        train_flops=train_flops,
        predict_flops=predict_flops,
    )


def choose_lanes(experiment: Experiment, program: Program) -> int:
    """The lanes asked for, or with `auto` as many as memory and a waste of 3 % allow."""
    lengths = job_lengths(program)
    if experiment.lanes != "auto":
        return min(experiment.lanes, len(lengths))
    if jax.default_backend() == "cpu":
        return schedule.choose_lanes(lengths, CPU_LANES)
    needed, limit = memory(program), (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    fitting = (int(MEMORY_SHARE * limit) - needed.fixed) // needed.lane if limit else ACCELERATOR_LANES
    return schedule.choose_lanes(lengths, max(1, min(ACCELERATOR_LANES, fitting)))


def memory(program: Program) -> Memory:
    """An estimate from shapes alone; nothing is computed or compiled."""
    globals_, frozen = jax.eval_shape(program.initial)
    lanes, results = jax.eval_shape(
        lambda leaves: start(program.cells[0].local.optimizer, leaves, 1, len(program.cells) * program.slots),
        globals_,
    )
    fixed = _bytes((globals_, globals_, frozen, program.data, results))
    return Memory(fixed, _bytes((lanes, lanes.params)) + _activations(program, lanes.params, frozen))


def _activations(program: Program, params: Tree, frozen: Tree) -> int:
    """Bytes that the backward pass of one batch keeps: the residuals of the loss's vector-Jacobian product."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)
    batch = program.cells[0].local.batch_size

    def backward(leaves: Tree, frozen: Tree, tokens: jax.Array) -> Tree:
        key = jax.random.key(0)
        labels, mask = jnp.zeros(batch, jnp.int32), jnp.ones(batch, bool)
        return jax.vjp(
            lambda p: masked_cross_entropy(program.model.apply(p, frozen, tokens, key), labels, mask), leaves
        )[1]

    tokens = jax.ShapeDtypeStruct((batch, program.data.tokens.shape[1]), jnp.int32)
    return _bytes(jax.eval_shape(backward, one, frozen, tokens)) - _bytes(frozen)


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
