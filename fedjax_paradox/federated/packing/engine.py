"""Advance, aggregate, predict: the three device programs of a sweep, over all devices.

All cells that share a model shape and a corpus go through one `Engine`. Its functions are compiled once;
hyper-parameters, partitions, seeds and schedules are their data. Lanes are parted among the devices of
all processes, and nothing passes between devices before a round's jobs are done; data, frozen weights and
globals are replicated. Axes: D devices, P cells, K client slots of a cell, J = P * K jobs, L lanes, B batch,
T tokens, N rows, C classes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from fedjax_paradox.federated.packing.buffer import JobResults, by_slot, empty_results, store
from fedjax_paradox.federated.packing.lanes import Batches, Lanes, advance, empty_lanes
from fedjax_paradox.federated.packing.prediction import losses, predict
from fedjax_paradox.federated.packing.schedule import Chunk, Segment
from fedjax_paradox.federated.rules import combine
from fedjax_paradox.federated.trainer import Reducer, Round, Told, Trainer
from fedjax_paradox.federated.types import Diagnostics, Outcome, Participants, Rule, Tree, Updates

LANES, EVERYWHERE = Spec("lanes"), Spec()
_SEGMENTS = Segment(*(EVERYWHERE if name in {"begin", "live"} else Spec(None, "lanes") for name in Segment._fields))
CHUNK = Chunk(_SEGMENTS, EVERYWHERE, LANES, EVERYWHERE)

# Operations in this order find their operands in the cache; in the one that XLA takes for more concurrency a
# TextCNN step takes 1.4 times as long on two cores.
CPU_OPTIONS = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

# Rows to predict at once: on a CPU as many as stay in its cache.
CPU_BATCH, ACCELERATOR_BATCH = 32, 512


class RuleGroup(NamedTuple):
    """The cells of a program that share a rule up to its hyper-parameters."""

    build: Callable[..., Rule]  # hyper-parameters as keywords -> Rule
    cells: np.ndarray  # i[G], which cells
    hyper: dict[str, Any]  # f32[G] each; arguments of what is compiled


class Engine(NamedTuple):
    """Compiled functions of one program; see the functions of the same names."""

    devices: int
    groups: list[list[int]]  # the cells of each rule, in the order of the rules' states
    summed: bool  # every rule gives its weights before training: results are sums
    reducer: Reducer  # what a round keeps of its jobs
    predict_batch: int  # rows that `predict` takes at once on one device
    replicate: Callable[[Tree], Tree]  # to every device of every process, which all hold the same values
    start: Callable[[Tree, int, int], tuple[Lanes, JobResults]]  # (globals, lanes, jobs)
    begin: Callable[..., tuple[JobResults, Told, jax.Array]]  # donates the results that it gets
    advance: Any  # jitted, donates the lanes and the results that it gets: `plan.launch` compiles it ahead of time
    init_rules: Callable[[Tree], tuple[Tree, ...]]
    aggregate: Callable[..., tuple[Tree, tuple[Tree, ...], Outcome]]
    serve: Callable[[Tree, tuple[Tree, ...]], Tree] | None  # None: clients are scored with their cell's globals
    predict: Callable[..., jax.Array]
    losses: Callable[..., jax.Array]
    needs_start_loss: bool  # a rule asks for what `losses` gives


def build_engine(trainer: Trainer, apply: Callable[..., jax.Array], groups: Sequence[RuleGroup]) -> Engine:
    """Binds what is structure and compiles on first use; everything else is an argument.

    Lanes and batches to predict are parted among all devices of all processes: their numbers must be multiples
    of `Engine.devices`.

    Args:
      apply: (trainable, frozen, tokens, key) -> logits, with which rows are predicted.
      groups: together they hold every cell of the program once.
    """
    devices = jax.devices()
    mesh = mesh_of(devices)
    shared, parted = NamedSharding(mesh, EVERYWHERE), NamedSharding(mesh, LANES)
    summed = sums(groups)
    reducer = trainer.sum if summed else trainer.keep
    over_lanes = partial(jax.shard_map, mesh=mesh, check_vma=False)
    on_cpu = devices[0].platform == "cpu"
    options = CPU_OPTIONS if on_cpu else None

    def started(globals_: Tree, num_lanes: int, num_jobs: int) -> tuple[Lanes, JobResults]:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), globals_)

        def both() -> tuple[Lanes, JobResults]:
            results = empty_results(reducer, shapes, num_jobs, len(devices))
            return empty_lanes(trainer, shapes, num_lanes), results

        return jax.jit(both, out_shardings=parted)()

    def with_numbers(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """Compiled with the numbers of the rules as its first argument, which is then given."""

        def of_numbers(numbers: Sequence[dict[str, jax.Array]], *arguments: Any) -> Any:
            numbered = [group._replace(hyper=each) for group, each in zip(groups, numbers, strict=True)]
            return function(numbered, *arguments)

        of_numbers.__name__ = getattr(function, "func", function).__name__  # by which compilations and profiles name it
        return partial(jax.jit(of_numbers, **options), replicate([group.hyper for group in groups]))

    def replicate(tree: Tree) -> Tree:
        if jax.process_count() == 1:
            return jax.device_put(tree, shared)
        # device_put would compare the values across processes, array by array.
        return jax.jit(lambda tree: tree, out_shardings=shared)(jax.tree.map(np.asarray, tree))

    def over_rows(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def of_length(*arguments: Any, length: int | None = None, places: int | None = None) -> jax.Array:
            shortened = partial(function, apply, length=length, places=places)
            return over_lanes(shortened, in_specs=(*[EVERYWHERE] * 3, LANES), out_specs=LANES)(*arguments)

        of_length.__name__ = function.__name__
        return jax.jit(of_length, static_argnames=("length", "places"), out_shardings=shared, compiler_options=options)

    return Engine(
        devices=len(devices),
        groups=[group.cells.tolist() for group in groups],
        summed=summed,
        reducer=reducer,
        predict_batch=CPU_BATCH if on_cpu else ACCELERATOR_BATCH,
        replicate=replicate,
        start=started,
        begin=with_numbers(begin, donate_argnums=3, out_shardings=(parted, shared, shared)),
        advance=advance_on(mesh, trainer, reducer, options),
        init_rules=with_numbers(init_rules, out_shardings=shared),
        aggregate=with_numbers(partial(aggregate, reducer), out_shardings=shared),
        serve=with_numbers(serve, out_shardings=shared) if first_of(groups[0]).serve else None,
        predict=over_rows(predict),
        losses=over_rows(losses),
        needs_start_loss=any(first_of(group).needs_start_loss for group in groups),
    )


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Lanes are parted among all of them."""
    return jax.make_mesh((len(devices),), ("lanes",), axis_types=(AxisType.Auto,), devices=devices)


def advance_on(mesh: Mesh, trainer: Trainer, reducer: Reducer, options: dict[str, str] | None = None) -> Any:
    """`train` over the lanes of a mesh, jitted: (lanes, results, round, chunk) -> (lanes, results, i32[] rows trained).
    It donates the lanes and the results that it gets."""

    def advance_all(
        lanes: Lanes, results: JobResults, round_: Round, chunk: Chunk
    ) -> tuple[Lanes, JobResults, jax.Array]:
        rows = jax.lax.psum(jnp.sum((chunk.rows >= 0).astype(jnp.int32)), "lanes")
        return *train(trainer, reducer, (lanes, results), round_, chunk), rows

    specs, results = (LANES, LANES, EVERYWHERE, CHUNK), (LANES, LANES, EVERYWHERE)
    over_lanes = jax.shard_map(advance_all, mesh=mesh, in_specs=specs, out_specs=results, check_vma=False)
    shardings = tuple(NamedSharding(mesh, spec) for spec in results)
    return jax.jit(over_lanes, donate_argnums=(0, 1), out_shardings=shardings, compiler_options=options)


def train(
    trainer: Trainer, reducer: Reducer, state: tuple[Lanes, JobResults], round_: Round, chunk: Chunk
) -> tuple[Lanes, JobResults]:
    """One chunk on one device, segment by segment: lanes are trained, and jobs that end are added to the results."""

    def one(number: jax.Array, state: tuple[Lanes, JobResults]) -> tuple[Lanes, JobResults]:
        segment = jax.tree.map(lambda each: each[number], chunk.segments)
        lanes = advance(trainer, state[0], round_, segment, Batches(chunk.rows, chunk.round))
        return lanes, store(reducer, state[1], lanes, round_, segment)

    return jax.lax.fori_loop(jnp.zeros((), jnp.int32), chunk.count, one, state)


def sums(groups: Sequence[RuleGroup]) -> bool:
    """Whether every rule gives its weights before training, so that jobs are summed as they finish."""
    return all(first_of(group).ahead for group in groups)


def init_rules(groups: Sequence[RuleGroup], globals_: Tree) -> tuple[Tree, ...]:
    """Every rule's state before round 1, one entry a group, cells along the first axis."""

    def init(group: RuleGroup) -> Tree:
        members = _members(group, globals_)
        return jax.vmap(lambda global_, hyper: group.build(**hyper).init(global_))(members, _traced(group))

    return tuple(map(init, groups))


def begin(
    groups: Sequence[RuleGroup],
    globals_: Tree,
    states: tuple[Tree, ...],
    results: JobResults,
    participants: Participants,
) -> tuple[JobResults, Told, jax.Array]:
    """Results ready for a round; what its jobs are told; and bool[P, K] the clients that cannot be weighed."""
    known = (globals_, states, participants)
    starts, messages = (_sent(groups, what, *known) for what in ("start", "send"))
    told = Told(participants, starts, () if messages is None else messages, None)
    unweighable = jnp.zeros(participants.rows.shape, bool)
    if not sums(groups):
        return results, told, unweighable
    weights = jax.tree.map(lambda _: jnp.zeros(participants.rows.shape, jnp.float32), globals_)
    for group, state in zip(groups, states, strict=True):
        new = _weigh(group, participants, globals_, state)
        weights = jax.tree.map(lambda old, new, cells=group.cells: old.at[cells].set(new), weights, new)
    unweighable = _unweighable(weights) & participants.mask
    results = results._replace(leaves=jax.tree.map(jnp.zeros_like, results.leaves))
    return results, told._replace(weights=weights), unweighable


def _sent(
    groups: Sequence[RuleGroup], what: str, globals_: Tree, states: tuple[Tree, ...], participants: Participants
) -> Tree | None:
    """What the rules `send` or `start` their clients with, [P, K, ...]; such rules are alone in their program."""
    if getattr(first_of(groups[0]), what) is None:
        return None
    ((group,), (state,)) = groups, states

    def send(globals_: Tree, state: Tree, people: Participants, hyper: dict) -> Tree:
        return getattr(group.build(**hyper), what)(globals_, state, people)

    return jax.vmap(send)(globals_, state, participants, _traced(group))


def serve(groups: Sequence[RuleGroup], globals_: Tree, states: tuple[Tree, ...]) -> Tree:
    """The models that clients are scored with, [P * num_clients, ...], of rules that serve each its own."""
    ((group,), (state,)) = groups, states

    def one(globals_: Tree, state: Tree, hyper: dict) -> Tree:
        serves: Any = group.build(**hyper).serve
        return serves(globals_, state)

    served = jax.vmap(one)(globals_, state, _traced(group))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), served)


def _weigh(group: RuleGroup, known: Participants | Updates, globals_: Tree, state: Tree) -> Tree:
    """The weights of a group's cells, f32[G, K] a leaf."""

    def weigh(known: Participants | Updates, global_: Tree, state: Tree, hyper: dict) -> Tree:
        weights: Any = group.build(**hyper).weights
        return weights(known, global_, state)

    return jax.vmap(weigh)(_members(group, known), _members(group, globals_), state, _traced(group))


def _unweighable(weights: Tree) -> jax.Array:
    """bool[G, K], the weight of some leaf is negative or not finite."""
    each = [~(jnp.isfinite(leaf) & (leaf >= 0)) for leaf in jax.tree.leaves(weights)]
    return jnp.any(jnp.stack(each), axis=0)


def aggregate(
    reducer: Reducer, groups: Sequence[RuleGroup], states: tuple[Tree, ...], results: JobResults, round_: Round
) -> tuple[Tree, tuple[Tree, ...], Outcome]:
    """Every cell's rule on its clients' results; cells of one rule are vmapped.

    Returns:
      (next globals [P, ...], next rule states, outcome). A cell without participants, or whose losses or next leaves
      are not finite, keeps its leaves and its rule's state.
    """
    globals_, participants = round_.globals_, round_.told.participants
    loss, mask = by_slot(results.loss, participants.device), participants.mask
    updates = _updates(reducer, sums(groups), results, round_)
    new, next_states, diagnostics = _ruled(groups, updates, states)
    finite = _finite(new, 1)
    unweighable = jnp.zeros(mask.shape, bool)
    if updates.leaves is not None:
        # Reading every leaf of every job again takes as long as the sum: only once something went wrong.
        loss = jax.lax.cond(jnp.all(finite), lambda: loss, lambda: jnp.where(_finite(updates.leaves, 2), loss, jnp.nan))
        for group, state in zip(groups, states, strict=True):
            if first_of(group).weights:
                found = _unweighable(_weigh(group, updates, globals_, state))
                unweighable = unweighable.at[group.cells].set(found & _members(group, mask))
    finite &= jnp.all(jnp.isfinite(loss) | ~mask, axis=1)
    going = finite & jnp.any(mask, axis=1)
    states = tuple(
        jax.tree.map(partial(_where, going[group.cells]), *pair)
        for group, *pair in zip(groups, next_states, states, strict=True)
    )
    return jax.tree.map(partial(_where, going), new, globals_), states, Outcome(loss, finite, unweighable, diagnostics)


def _updates(reducer: Reducer, summed: bool, results: JobResults, round_: Round) -> Updates:
    """What the cells' rules see, [P, ...]: every client's leaves, or their weighted sum."""
    globals_ = round_.globals_
    known = round_.told.participants._asdict()
    device = known.pop("device")
    loss = by_slot(results.loss, device)
    total = reducer.total(results.leaves, globals_)
    leaves = None if summed else jax.tree.map(lambda leaf: by_slot(leaf, device), total)
    weighted = total if summed else None
    return Updates(**known, start=globals_, leaves=leaves, weighted=weighted, loss=loss, hyper=round_.hyper)


def _ruled(
    groups: Sequence[RuleGroup], updates: Updates, states: tuple[Tree, ...]
) -> tuple[Tree, tuple[Tree, ...], Diagnostics]:
    """What the cells' rules make of a round: (next globals, next states, diagnostics)."""
    globals_, next_states = updates.start, []
    diagnostics: dict[str, jax.Array] = {}
    for group, state in zip(groups, states, strict=True):

        def one(updates: Updates, state: Tree, hyper: dict, build: Callable[..., Rule] = group.build) -> tuple:
            rule = build(**hyper)
            return rule.aggregate(updates, state) if updates.leaves is None else combine(rule, updates, state)

        new, state, told = jax.vmap(one)(_members(group, updates), state, _traced(group))
        globals_ = jax.tree.map(lambda old, new, cells=group.cells: old.at[cells].set(new), globals_, new)
        next_states.append(state)
        for name, values in told.items():
            nothing = diagnostics.get(name, jnp.full((len(updates.rows), *values.shape[1:]), jnp.nan))
            diagnostics[name] = nothing.at[group.cells].set(values)
    return globals_, tuple(next_states), diagnostics


def _where(chosen: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Along the first axis: new where `chosen`, else old."""
    return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _finite(leaves: Tree, axes: int) -> jax.Array:
    """Along the first `axes` axes of all leaves: bool, every number is finite."""
    # 0 for finite numbers and NaN for others; XLA's CPU finds the sum five times as fast as `all(isfinite)`.
    each = [jnp.sum(0.0 * leaf, axis=tuple(range(axes, leaf.ndim))) for leaf in jax.tree.leaves(leaves)]
    return jnp.all(jnp.stack(each) == 0.0, axis=0)


def _members(group: RuleGroup, tree: Tree) -> Tree:
    """The entries of a group's cells; of all cells without a copy, which may be as large as the memory."""
    return jax.tree.map(
        lambda leaf: leaf if np.array_equal(group.cells, np.arange(len(leaf))) else leaf[group.cells], tree
    )


def first_of(group: RuleGroup) -> Rule:
    """The rule of a group with the numbers of its first cell, for what is the same in all: its structure."""
    return group.build(**{name: values[0] for name, values in _traced(group).items()})


def _traced(group: RuleGroup) -> dict[str, jax.Array]:
    return {name: jnp.asarray(values, jnp.float32) for name, values in group.hyper.items()}
