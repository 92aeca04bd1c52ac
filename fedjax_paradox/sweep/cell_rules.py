"""The rules of a program's cells: by name, checked before any training, and in groups that are computed together."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_paradox.config import Cell, parse_call
from fedjax_paradox.errors import InputError
from fedjax_paradox.federated.methods import OF_ADAPTERS
from fedjax_paradox.federated.packing.engine import RuleGroup
from fedjax_paradox.federated.types import Hyper, Rule, Tree, Updates
from fedjax_paradox.models.base import Model
from fedjax_paradox.models.lora import is_adapter, with_own_kernels
from fedjax_paradox.sweep.checks import check_rule
from fedjax_paradox.sweep.extensions import is_alone, rule_builder


class RuleCall(NamedTuple):
    """A cell's rule: its name, the function that makes it, and the numbers that it is given."""

    name: str
    build: Callable[..., Rule]
    numbers: dict[str, float]
    rule: Rule  # what it makes of them


def _given(cell: Cell, model: Model) -> dict[str, Any]:
    """What a rule may ask for beside its numbers."""
    return {"is_adapter": model.is_adapter, "num_clients": cell.num_clients, "lora_scale": model.lora_scale}


def owning(cell: Cell, model: Model) -> Model:
    """The model as the cell's rule needs it; rules that own kernels are alone in their program."""
    name, numbers = parse_call(cell.rule)
    build, (complete,) = rule_builder(name, [numbers], _given(cell, model))
    if not is_alone(name, numbers) or not build(**complete).owns_kernels:
        return model
    try:
        return with_own_kernels(model)
    except (ValueError, KeyError) as error:
        raise InputError(
            f"rule {name!r} changes the kernels under LoRA adapters, of which models.{cell.model} has none; take a "
            "model with adapters, or another rule"
        ) from error


def rule_calls(cells: Sequence[Cell], model: Model, classes: int) -> list[tuple[RuleCall, str]]:
    """Every cell's (name, function, numbers), and its computation as text.

    Cells of one rule share the function; of one that asks for their number of clients, those with equally many.
    """
    asked = _updates(trainable_shapes(model), max(cell.num_clients for cell in cells), classes)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(trainable_shapes(model))]
    found = []
    builders: dict[Any, partial[Rule]] = {}
    for cell in cells:
        name, numbers = parse_call(cell.rule)
        if name in OF_ADAPTERS and not any(map(is_adapter, paths)):
            raise InputError(
                f"rule {name!r} aggregates LoRA adapters, of which models.{cell.model} has none; take a model with "
                "adapters, or another rule"
            )
        build, (complete,) = rule_builder(name, [numbers], _given(cell, model))
        build = builders.setdefault((name, *build.keywords.values()), build)
        told = check_rule(name, build, complete, asked)
        rule = build(**{key: jnp.float32(number) for key, number in complete.items()})
        found.append((RuleCall(name, build, complete, rule), told))
    return found


def _updates(leaves: Tree, clients: int, classes: int) -> Updates:
    """Shapes of what one cell's rule sees."""

    def shape(dtype: Any, *axes: int) -> Any:
        return jax.ShapeDtypeStruct((clients, *axes), dtype)

    number, scalar = shape(jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    return Updates(
        client=shape(jnp.int32),
        rows=number,
        class_counts=shape(jnp.float32, classes),
        mask=shape(bool),
        steps=number,
        start_loss=number,
        start=leaves,
        leaves=jax.tree.map(lambda leaf: shape(leaf.dtype, *leaf.shape), leaves),
        weighted=None,
        loss=number,
        hyper=Hyper(scalar, scalar, scalar, scalar),
    )


def rule_groups(rules: Sequence[RuleCall]) -> list[RuleGroup]:
    groups = []
    for build in dict.fromkeys(rule.build for rule in rules):
        members = [index for index, rule in enumerate(rules) if rule.build is build]
        first = rules[members[0]]
        hyper = {key: np.array([rules[i].numbers[key] for i in members], np.float32) for key in first.numbers}
        groups.append(RuleGroup(build, np.array(members), hyper))
    return groups


def trainable_shapes(model: Model) -> Tree:
    """Shapes of one cell's trainable leaves."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0))[0])
