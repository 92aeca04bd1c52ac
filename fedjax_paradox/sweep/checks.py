"""Whether a person's own functions fit.

Rules, objectives and models are asked with shapes alone before anything trains, protocols and partitions with what they
will get, so that their mistakes come to light with their name.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from fedjax_paradox.errors import InputError
from fedjax_paradox.federated.local import OPTIMIZERS, Learner, Objective, optimizer_of
from fedjax_paradox.federated.local import sgd as any_optimizer
from fedjax_paradox.federated.rules import combine
from fedjax_paradox.federated.types import Client, Hyper, Local, Participants, Rule, Tree, Updates
from fedjax_paradox.models.base import Model
from fedjax_paradox.registry import first_line
from fedjax_paradox.sweep.extensions import is_alone


def check_rule(name: str, build: Callable[..., Rule], numbers: Mapping[str, float], clients: Updates) -> str:
    """Asks a rule with shapes alone; nothing is computed.

    Args:
      clients: one cell's `Updates` of arrays or `jax.ShapeDtypeStruct`.

    Returns:
      what it computes, as text: two rules of equal text are the same rule on these leaves by construction.

    Raises:
      InputError: it fails, or what it returns has another structure, shape or type than the leaves.
    """

    def ask(numbers: Mapping[str, jax.Array], clients: Updates) -> Any:
        rule = build(**numbers)
        if not isinstance(rule, Rule):
            raise TypeError(f"it must return a Rule, not {type(rule).__name__}")
        if not rule.needs_start_loss:
            clients = clients._replace(start_loss=None)
        state = rule.init(clients.start)
        if rule.ahead or rule.weights is not None:
            _check_weights(rule, clients, state)
        if not (isinstance(result := combine(rule, clients, state), tuple) and len(result) == 3):
            raise TypeError("aggregate must return (next globals, next state, diagnostics), {} where there are none")
        _check_alike("init of the state and the next state", state, result[1])
        _check_alike("the global leaves and the next globals", clients.start, result[0])
        _check_diagnostics(result[2], len(clients.rows))
        _check_personal(rule, clients, state)
        return state, result

    traced = {key: jax.ShapeDtypeStruct((), jnp.float32) for key in numbers}
    try:
        closed = jax.make_jaxpr(ask)(traced, clients)
    except Exception as error:  # whatever a person's function raises
        raise InputError(f"rule {name!r} does not fit the model: {first_line(error)}; correct its function") from error
    apart = is_alone(name, numbers) or build(**{key: jnp.float32(number) for key, number in numbers.items()}).pooled
    return (name if apart else "") + _computation(closed, [numbers[key] for key in sorted(numbers)])


def _check_personal(rule: Rule, clients: Updates, state: Tree) -> None:
    """Its cells share a number of clients, so that there is a slot for each in what is asked."""
    if rule.start is not None:
        starts = rule.start(clients.start, state, _participants(clients))
        _check_alike("the leaves of each client and `start`", clients.leaves, starts)
    if rule.serve is not None:
        _check_alike("a model for each client and `serve`", clients.leaves, rule.serve(clients.start, state))


def _participants(clients: Updates) -> Participants:
    return Participants(**{name: getattr(clients, name, None) for name in Participants._fields})


def _check_diagnostics(diagnostics: Any, clients: int) -> None:
    if not isinstance(diagnostics, Mapping):
        raise TypeError(f"diagnostics must be a dict of arrays by name, not {type(diagnostics).__name__}")
    for name, value in diagnostics.items():
        if getattr(value, "shape", None) not in ((), (clients,)):
            raise TypeError(f"diagnostic {name!r} must be f32[] or f32[{clients}], a number of each client")


def _check_weights(rule: Rule, clients: Updates, state: Tree) -> None:
    if rule.weights is None:
        raise TypeError("a rule that is known `ahead` must have `weights`")
    known = _participants(clients) if rule.ahead else clients
    weights = rule.weights(known, clients.start, state)
    _check_alike("one weight a client and `weights`", jax.tree.map(lambda _: clients.rows, clients.start), weights)


def _computation(closed: Any, numbers: Sequence[float]) -> str:
    """The text of a traced function of numbers first, without what its results do not need."""
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    constants = [hashlib.sha256(np.asarray(value).tobytes()).hexdigest() for value in closed.consts]
    needed = [number for number, kept in zip(numbers, used, strict=False) if kept]
    return f"{jaxpr}\n{needed}\n{list(map(bool, used[len(numbers) :]))}\n{constants}"


def _check_alike(what: str, one: Tree, other: Tree) -> None:
    structures: list[Any] = [jax.tree.structure(tree) for tree in (one, other)]
    if structures[0] != structures[1]:
        raise TypeError(f"{what} are trees of another structure")
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        a, b = (jax.eval_shape(lambda x: x, leaf) for leaf in (a, b))
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            where = jax.tree_util.keystr(path)
            raise TypeError(f"{what} differ at {where}: {a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}")


def check_objective(name: str, objective: Objective, own: Sequence[str], leaves: Tree, classes: int) -> None:
    """Asks an objective with shapes alone.

    Args:
      own: the numbers of its call; leaves: one cell's trainable ones.

    Raises:
      InputError: it fails, or what it returns has another shape or type than it should.
    """
    scalar, batch = jax.ShapeDtypeStruct((), jnp.float32), 2
    hyper = Hyper(scalar, scalar, scalar, scalar, own=dict.fromkeys(own, scalar))
    logits, counts = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((batch, classes), (classes,)))
    labels, mask = (jax.ShapeDtypeStruct((batch,), kind) for kind in (jnp.int32, bool))

    def ask(client: Client, logits: Any, labels: Any, mask: Any) -> None:
        local = objective(**client.hyper.own)
        if not isinstance(local, Local):
            raise TypeError(f"it must return a Local, not {type(local).__name__}")
        losses = jnp.zeros(batch) if local.loss is None else local.loss(logits, labels, client)
        _check_alike("losses f32[B] and what `loss` returns", jnp.zeros(batch), losses)
        if local.reduce is not None:
            _check_alike("a loss f32[] and what `reduce` returns", jnp.zeros(()), local.reduce(losses, mask, client))
        optimizer = optimizer_of(Learner(lambda *_: logits, local, any_optimizer), client)
        changes, _ = optimizer.update(client.start, optimizer.init(client.start), client.start)
        _check_alike("the leaves and their changes", client.start, changes)

    try:
        jax.eval_shape(ask, Client(scalar, scalar, counts, leaves, (), hyper), logits, labels, mask)
    except Exception as error:  # whatever a person's function raises
        raise InputError(f"local.objective {name!r} does not fit the model: {first_line(error)}; correct it") from error


def check_optimizer(name: str, build: Callable[..., Any], own: Sequence[str], leaves: Tree) -> None:
    """Asks a person's own optimizer with shapes alone.

    Args:
      own: the numbers of its call; leaves: one cell's trainable ones.

    Raises:
      InputError: it fails, or its changes have another shape than the leaves.
    """
    if name in OPTIMIZERS:
        return
    scalar = jax.ShapeDtypeStruct((), jnp.float32)

    def ask(hyper: Hyper, numbers: Mapping[str, Any], leaves: Tree) -> None:
        optimizer = build(hyper, **numbers)
        changes, _ = optimizer.update(leaves, optimizer.init(leaves), leaves)
        _check_alike("the leaves and their changes", leaves, changes)

    try:
        jax.eval_shape(ask, Hyper(scalar, scalar, scalar, scalar), dict.fromkeys(own, scalar), leaves)
    except Exception as error:  # whatever a person's function raises
        raise InputError(f"local.optimizer {name!r} does not fit the model: {first_line(error)}; correct it") from error


def check_counts(name: str, counts: Callable[[Any], Any], view: Any) -> None:
    """Asks a protocol with made-up correctness; view: `protocols.View`.

    Raises:
      InputError: it fails, or does not return (correct f64[K] in 0..total, total i64[K]).
    """
    clients = len(view.train_rows)
    try:
        correct, total = map(np.asarray, counts(view))
        if correct.shape != (clients,) or total.shape != (clients,) or total.dtype.kind not in "iu":
            raise TypeError(f"it must return (correct f64[{clients}], total i64[{clients}])")
        if not (np.isfinite(correct) & (correct >= 0) & (correct <= total * (1 + 1e-6))).all():
            raise ValueError("a client has fewer than 0 or more than all rows correct")
    except Exception as error:  # whatever a person's function raises
        raise InputError(f"protocol {name!r} does not fit: {first_line(error)}; correct its function") from error


def check_model(name: str, build: Callable[[], Any], classes: int, max_length: int) -> Any:
    """Builds a person's own model, and asks it with shapes alone.

    Raises:
      InputError: it fails, or is no model of f32 leaves and logits f32[B, classes] of tokens i32[B, max_length].
    """
    try:
        model = build()
        if not isinstance(model, Model):
            raise TypeError(f"it must return a Model, not {type(model).__name__}")
        trainable, frozen = jax.eval_shape(lambda: model.init(jax.random.key(0)))
        if not jax.tree.leaves(trainable):
            raise TypeError("init must return (trainable leaves, frozen leaves), and one of the first at least")
        tokens = jax.ShapeDtypeStruct((2, max_length), jnp.int32)
        apply: Callable = model.apply
        logits = jax.eval_shape(lambda *args: apply(*args, jax.random.key(0)), trainable, frozen, tokens)
        _check_alike("logits f32[B, C] and what apply returns", jax.ShapeDtypeStruct((2, classes), jnp.float32), logits)
    except InputError:
        raise
    except Exception as error:  # whatever a person's function raises
        raise InputError(f"architecture {name!r} does not fit: {first_line(error)}; correct its function") from error
    return model


def check_partition(name: str, make: Callable[[], Any], num_clients: int, rows: int) -> list[np.ndarray]:
    """Divides the rows by a person's own function, or by one of the package's.

    Raises:
      InputError: it fails, or does not return num_clients integer arrays of distinct rows.
    """
    try:
        partition = make()
        arrays = isinstance(partition, Sequence) and all(isinstance(held, np.ndarray) for held in partition)
        if not arrays or len(partition) != num_clients or any(held.dtype.kind != "i" for held in partition):
            raise TypeError("the result has another length or type")
        every = np.concatenate(partition)
        if len(np.unique(every)) < len(every) or not ((every >= 0) & (every < rows)).all():
            raise ValueError("a row is there twice, or not among the train rows")
    except InputError:
        raise
    except Exception as error:  # whatever a person's function raises
        raise InputError(
            f"partition.kind {name!r} must return num_clients={num_clients} integer arrays of distinct rows in "
            f"0..{rows - 1} ({first_line(error)}); correct its function"
        ) from error
    return list(partition)
