"""From a call of a config to the function that it names, the package's or a person's own, with its numbers."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp

from fedjax_paradox.data.partition import PARTITIONERS
from fedjax_paradox.errors import InputError
from fedjax_paradox.evaluation.protocols import PROTOCOLS, Protocol
from fedjax_paradox.federated.local import OPTIMIZERS, Objective
from fedjax_paradox.federated.methods import RULES
from fedjax_paradox.federated.objectives import OBJECTIVES
from fedjax_paradox.federated.types import Rule
from fedjax_paradox.registry import resolve

# What rules and partitions are given by name; not numbers of their calls.
GIVEN = ("is_adapter", "num_clients", "lora_scale")
OF_DIVISIONS = ("labels", "num_clients", "alpha", "seed", "shards_per_client")


def rule_builder(
    name: str, calls: Sequence[Mapping[str, float]], given: Mapping[str, Any]
) -> tuple[partial[Rule], list[dict[str, float]]]:
    """(the function of its numbers that makes a rule, every call's numbers with the defaults filled in).

    Args:
      given: what a rule that asks for it by name gets: `is_adapter`, `num_clients` to keep a state for each client,
        `lora_scale`, by which adapters are multiplied.

    Raises:
      InputError: an unknown rule, or numbers that do not fit it.
    """
    build = resolve("rule", name, RULES)
    own = _numbers("rule", name, build, calls, GIVEN)
    takes = inspect.signature(build).parameters
    build = partial(build, **{key: value for key, value in given.items() if key in takes})
    defaults = {key: float(value) for key, value in own.items() if isinstance(value, int | float)}
    return build, [{**defaults, **numbers} for numbers in calls]


def objective_builder(name: str, numbers: Mapping[str, float]) -> Objective:
    """The function of the numbers of a call that makes an objective.

    Raises:
      InputError: an unknown objective, or numbers that do not fit it.
    """
    build = resolve("local.objective", name, OBJECTIVES)
    _numbers("local.objective", name, build, [numbers])
    return build


def optimizer_builder(name: str, numbers: Mapping[str, float]) -> Callable[..., Any]:
    """(hyper, the numbers of a call) -> an optax transformation.

    Raises:
      InputError: an unknown optimizer, or numbers that do not fit it.
    """
    build = resolve("local.optimizer", name, OPTIMIZERS)
    _numbers("local.optimizer", name, build, [numbers], _first(build))
    return build


def partitioner(name: str, numbers: Mapping[str, float]) -> Callable[..., Any]:
    """What a call of `partition.kind` names, given its numbers.

    Raises:
      InputError: an unknown name, or numbers that do not fit it.
    """
    build = resolve("partition.kind", name, PARTITIONERS)
    _numbers("partition.kind", name, build, [numbers], OF_DIVISIONS)
    return partial(build, **numbers)


def protocol_of(name: str, numbers: Mapping[str, float]) -> Protocol:
    """What a call of `protocols` names, given its numbers; a person's own is a plain function, which may read anything.

    Raises:
      InputError: an unknown name, or numbers that do not fit it.
    """
    found = resolve("protocol", name, PROTOCOLS)
    counts = found.counts if isinstance(found, Protocol) else found
    _numbers("protocol", name, counts, [numbers], _first(counts))
    return (
        found if isinstance(found, Protocol) else Protocol(partial(found, **numbers) if numbers else found, ("train",))
    )


def _first(function: Any) -> tuple[str, ...]:
    """The name of the argument that the package gives."""
    try:
        return tuple(inspect.signature(function).parameters)[:1]
    except (TypeError, ValueError):
        return ()  # of which `_numbers` complains


def _numbers(
    what: str, name: str, build: Any, calls: Sequence[Mapping[str, float]], given: Collection[str] = ()
) -> dict[str, Any]:
    """Name -> default of the numbers that a function takes beside what it is given."""
    try:
        parameters = inspect.signature(build).parameters
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} {name!r} is no function whose arguments can be read ({error})") from error
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    own = {key: p.default for key, p in parameters.items() if key not in given and p.kind not in several}
    for numbers in calls:
        missing = [key for key in own if own[key] is inspect.Parameter.empty and key not in numbers]
        if missing or not set(numbers) <= set(own):
            call = f"{name}({', '.join(f'{p}=0.5' for p in own)})" if own else name
            takes = list(own) or "no numbers"
            raise InputError(f"{what} {name!r} takes {takes}, got {sorted(numbers)}; write it as {call}")
    return own


def is_alone(name: str, numbers: Mapping[str, float]) -> bool:
    """Whether a rule has a client half, or something of each client, so that its cells are a program of their own."""
    rule = _rule(name, numbers)
    parts = () if rule is None else (rule.send, rule.start, rule.local, rule.serve)
    return any(part is not None for part in parts)


def serves_own_models(name: str, numbers: Mapping[str, float]) -> bool:
    """Whether every client is scored with a model of its own."""
    rule = _rule(name, numbers)
    return rule is not None and rule.serve is not None


def _rule(name: str, numbers: Mapping[str, float]) -> Rule | None:
    """For what is structure in it; None where a person's function fails: `check_rule` says why."""
    nothing = {"is_adapter": lambda path: False, "num_clients": 1, "lora_scale": 1.0}  # noqa: ARG005
    build, (complete,) = rule_builder(name, [numbers], nothing)
    try:
        rule = build(**{key: jnp.float32(value) for key, value in complete.items()})
        return rule if isinstance(rule, Rule) else None
    except Exception:  # whatever it raises
        return None
