"""Whether a person's own functions fit.

Rules, objectives and models are asked with shapes alone before anything trains, protocols and partitions with what they
will get, so that their mistakes come to light with their name.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from fedjax_paradox.errors import InputError
from fedjax_paradox.federated.local import Objective
from fedjax_paradox.federated.rules import RULES
from fedjax_paradox.federated.types import Hyper, Rule, Tree, Updates
from fedjax_paradox.models.base import Model
from fedjax_paradox.registry import first_line, resolve

# What a rule may ask for by name; not numbers of the config.
GIVEN = ("is_adapter", "num_clients")


def rule_builder(
    name: str, calls: Sequence[Mapping[str, float]], is_adapter: Callable, num_clients: int
) -> tuple[Callable[..., Rule], list[dict[str, float]]]:
    """(the function of its numbers that makes a rule, every call's numbers with the defaults filled in).

    A rule that asks for `is_adapter`, or for `num_clients` to keep a state for each client, is given it.

    Raises:
      InputError: an unknown rule, or numbers that do not fit it.
    """
    build = resolve("rule", name, RULES)
    try:
        parameters = inspect.signature(build).parameters
    except (TypeError, ValueError) as error:
        raise InputError(f"rule {name!r} is no function whose arguments can be read ({error})") from error
    known = {"is_adapter": is_adapter, "num_clients": num_clients}
    build = partial(build, **{key: value for key, value in known.items() if key in parameters})
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    own = {key: p.default for key, p in parameters.items() if key not in GIVEN and p.kind not in several}
    defaults = {key: float(value) for key, value in own.items() if isinstance(value, int | float)}
    for numbers in calls:
        missing = [key for key in own if own[key] is inspect.Parameter.empty and key not in numbers]
        if missing or not set(numbers) <= set(own):
            call = f"{name}({', '.join(f'{p}=0.5' for p in own)})" if own else name
            takes = list(own) or "no numbers"
            raise InputError(f"rule {name!r} takes {takes}, got {sorted(numbers)}; write it as {call}")
    return build, [{**defaults, **numbers} for numbers in calls]


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
        state = rule.init(clients.start)
        if not (isinstance(result := rule.aggregate(clients, state), tuple) and len(result) == 2):
            raise TypeError("aggregate must return (next globals, next state)")
        _check_alike("init of the state and the next state", state, result[1])
        _check_alike("the global leaves and the next globals", clients.start, result[0])
        if rule.ahead and rule.weights is None:
            raise TypeError("a rule that is known `ahead` must have `weights`")
        if rule.weights is not None:
            weights = rule.weights(clients, clients.start)
            _check_alike(
                "one weight a client and `weights`", jax.tree.map(lambda _: clients.rows, clients.start), weights
            )
        return state, result

    traced = {key: jax.ShapeDtypeStruct((), jnp.float32) for key in numbers}
    try:
        closed = jax.make_jaxpr(ask)(traced, clients)
    except Exception as error:  # whatever a person's function raises
        raise InputError(f"rule {name!r} does not fit the model: {first_line(error)}; correct its function") from error
    return _computation(closed, [numbers[key] for key in sorted(numbers)])


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


def check_objective(name: str, objective: Objective, leaves: Tree) -> None:
    """Asks an objective with shapes alone; leaves: one cell's trainable ones.

    Raises:
      InputError: it fails, or does not return f32[].
    """
    scalar: Any = jax.ShapeDtypeStruct((), jnp.float32)
    hyper = Hyper(scalar, scalar, scalar, scalar)
    try:
        loss = jax.eval_shape(objective, scalar, leaves, leaves, hyper)
        _check_alike("a loss f32[] and what it returns", scalar, loss)
    except Exception as error:  # whatever a person's function raises
        raise InputError(f"local.objective {name!r} does not fit the model: {first_line(error)}; correct it") from error


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
