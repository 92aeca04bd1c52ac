"""A person's own functions: finding what `module:function` names, what it is made of, and whether it fits.

Rules, objectives, protocols and models are asked with shapes alone or with made-up rows before anything trains, so that
their mistakes come to light with their name.
"""

import difflib
import hashlib
import importlib
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
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

# What a rule may ask for by name; not numbers of the config.
GIVEN = ("is_adapter", "num_clients")


def resolve(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """The table's entry of that name, or what `module:function` points to.

    Raises:
      InputError: neither; names the nearest entry.
    """
    if name in table:
        return table[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        near = difflib.get_close_matches(name, table, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(table))}"
        raise InputError(f"unknown {what} {name!r}: {hint}; your own goes in as module:function")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a person's module raises while it is imported
        raise InputError(
            f"{what} {name!r} cannot be imported ({_told(error)}); it must be module:function, the module in the "
            "working directory or on PYTHONPATH"
        ) from error
    if not callable(found):
        raise InputError(f"{what} {name!r} must be module:function, but {attribute} is of type {type(found).__name__}")
    return found


def source_digest(name: str) -> str:
    """SHA-256 of the source of `module:function`, and of what it uses of its own module."""
    digest = hashlib.sha256()
    for text in _sources(resolve("function", name, {}), set()):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _sources(found: Any, seen: set[int]) -> Iterator[str]:
    """Source of a function or class, then of the functions, classes and plain values of its module that it names."""
    module = inspect.getmodule(found)
    if id(found) in seen or module is None:
        return
    seen.add(id(found))
    try:
        yield inspect.getsource(found)
    except (OSError, TypeError):  # made by a call, such as functools.partial: its module stands for it
        yield inspect.getsource(module)
        return
    for name in sorted(_names(found)):
        value = vars(module).get(name)
        if isinstance(value, types.FunctionType | type) and value.__module__ == module.__name__:
            yield from _sources(value, seen)
        elif isinstance(value, int | float | str | bool | tuple):
            yield f"{name} = {value!r}"


def _names(found: Any) -> set[str]:
    """Every name that the code of a function or class reads, inner functions included."""
    codes = (
        [found.__code__]
        if hasattr(found, "__code__")
        else [f.__code__ for f in vars(found).values() if hasattr(f, "__code__")]
    )
    names: set[str] = set()
    while codes:
        code = codes.pop()
        names |= set(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return names


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
    own = {key: parameter.default for key, parameter in parameters.items() if key not in GIVEN}
    defaults = {key: float(value) for key, value in own.items() if isinstance(value, int | float)}
    for numbers in calls:
        missing = [key for key in own if own[key] is inspect.Parameter.empty and key not in numbers]
        if missing or not set(numbers) <= set(own):
            call = f"{name}({', '.join(f'{p}=0.5' for p in own)})" if own else name
            takes = list(own) or "no numbers"
            raise InputError(f"rule {name!r} takes {takes}, got {sorted(numbers)}; write it as {call}")
        if large := [key for key, number in numbers.items() if not abs(number) <= np.finfo(np.float32).max]:
            raise InputError(f"rule {name!r}: {large[0]} must fit float32, got {numbers[large[0]]}; take a smaller one")
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
        raise InputError(f"rule {name!r} does not fit the model: {_told(error)}; correct its function") from error
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
        raise InputError(f"local.objective {name!r} does not fit the model: {_told(error)}; correct it") from error


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
        raise InputError(f"protocol {name!r} does not fit: {_told(error)}; correct its function") from error


def _told(error: BaseException) -> str:
    """The first line of what an error says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.300}" if lines else type(error).__name__
