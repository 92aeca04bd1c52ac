"""The cells of an experiment's grid, what two cells share, and what decides their numbers."""

import hashlib
import itertools
import json
import math
from collections.abc import Hashable, Iterable
from functools import reduce
from typing import Any

from pydantic import BaseModel

from fedjax_paradox.config.calls import format_call, parse_call
from fedjax_paradox.config.dialect import joined, merge, nest
from fedjax_paradox.config.schema import DISTILBERT, DROPOUT_RATES, Cell, Experiment, Local, Point, Transformer
from fedjax_paradox.config.validation import validated
from fedjax_paradox.errors import InputError
from fedjax_paradox.text import printable

# Settings that decide who is scored after which rounds, and no number of those who are.
SCORING = {"evaluate_every": True, "evaluate_clients": True}


def cells(experiment: Experiment) -> list[Cell]:
    """The product of the grid's axes, the last one fastest; InputError for an invalid or repeated cell, or too many."""
    _refuse_many(experiment)
    base = experiment.model_dump(exclude={"grid"}, exclude_unset=True)
    found: dict[str, Cell] = {}
    named: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*experiment.grid.values()):
        settings = dict(itertools.chain.from_iterable(map(_settings, experiment.grid, values)))
        data = reduce(merge, itertools.starmap(nest, settings.items()), base)
        cell = _cell(validated(data, f"the cell {settings!s:.200}"), settings)
        _refuse_contradictions(cell)
        twin = found.setdefault(_canonical(cell, {"name"}), cell)
        if twin is not cell:
            pair = f"cells {twin.name!r:.200} and {cell.name!r:.200}"
            raise InputError(f"{pair} are the same run; remove one from the grid")
        other = named.setdefault(cell.name, settings)
        if other is not settings:
            pair = f"{other!s:.200} and {settings!s:.200}"
            raise InputError(f"two cells have the name {cell.name!r:.200}: {pair}; spell one of the values differently")
    return list(found.values())


def _refuse_many(experiment: Experiment) -> None:
    lengths = [len(values) for values in experiment.grid.values()]
    count, axes = math.prod(lengths), " x ".join(map(str, lengths))
    if count > experiment.max_cells:
        told = f"{axes:.80} = {count:,} cells, and max_cells is {experiment.max_cells:,}"
        raise InputError(f"the grid has {told}; leave out an axis or values, or raise max_cells")


def _settings(axis: str, value: Any) -> Iterable[tuple[str, Any]]:
    """Keys and values of one point of an axis."""
    keys = joined(axis)
    values = [value] if len(keys) == 1 else value
    if not isinstance(values, list) or len(values) != len(keys):
        raise InputError(
            f"grid.{printable(axis[:80])} needs lists of {len(keys)} values, one for each key (got {value!r:.80})"
        )
    return zip(keys, values, strict=True)


def _cell(point: Experiment, axes: Iterable[str]) -> Cell:
    order = list(Experiment.model_fields)
    # Named in the order of the schema, so that the order of the file changes nothing.
    axes = sorted(axes, key=lambda axis: (order.index(axis.split(".")[0]), axis))
    values = (reduce(lambda at, key: dict(at)[key], axis.split("."), point) for axis in axes)
    name = ",".join(f"{printable(axis)}={_spelt(value)}" for axis, value in zip(axes, values, strict=True)) or "single"
    model, known = point.models.get(point.model), ", ".join(point.models)
    if model is None:
        raise InputError(
            f"cell {name!r:.200}: model must be one of {known:.200}, or be under models (got {point.model!r:.80})"
        )
    published = DISTILBERT if isinstance(model, Transformer) else {}
    own, general = (layer.model_dump(exclude_unset=True) for layer in (model.local, point.local))
    shared = {key: getattr(point, key) for key in Point.model_fields} | {"name": name}
    # The model's own `local` goes into `local`: one meaning, one representation, one hash.
    architecture = model.model_copy(update={"local": Local()})
    local = _moved({**published, **own, **general}, "optimizer", ("momentum", "weight_decay", "learning_rate"))
    partition = _moved(point.partition.model_dump(exclude_unset=True), "kind", ("shards_per_client",))
    return Cell(**shared | {"partition": partition}, architecture=architecture, local=Local(**local))


def _moved(section: dict[str, Any], call: str, keys: Iterable[str]) -> dict[str, Any]:
    """A section where numbers of its call that have keys of their own, as in sgd(momentum=0.5), stand under these."""
    if call not in section:
        return section
    name, numbers = parse_call(section[call])
    rest = {key: number for key, number in numbers.items() if key not in keys}
    moved = {key: _number(number) for key, number in numbers.items() if key in keys}
    return section | moved | {call: format_call(name, rest)} if ":" not in name else section


def _number(value: float) -> float | int:
    """A count is an int."""
    return int(value) if value.is_integer() and value >= 1 else value


def _spelt(value: Any) -> str:
    """A value within the name of a cell; a null is None, and the text None has quotes."""
    shown = printable(str(value))
    return f"'{shown}'" if value is not None and shown == "None" else shown


def _refuse_contradictions(cell: Cell) -> None:
    files, mu, problem = cell.corpus.files, cell.local.mu, ""
    if (files.train is None) != (files.test is None):
        problem = f"set both corpus.files.train and corpus.files.test, or neither (got {files!s:.200})"
    if "holdout" in cell.protocols and cell.partition.holdout_fraction == 0:
        problem = "protocol holdout needs partition.holdout_fraction above 0 (got 0.0); set it to 0.1"
    objective, numbers = parse_call(cell.local.objective)
    if mu > 0 and ":" not in objective and (objective != "fedprox" or "mu" in numbers):
        problem = f"{cell.local.objective} does not read local.mu (got {mu}); set local.objective=fedprox"
    if problem:
        raise InputError(f"cell {cell.name!r:.200}: {problem}")


def _canonical(part: BaseModel, exclude: Any = None) -> str:
    return _sorted_json(part.model_dump(mode="json", exclude=exclude))


def _sorted_json(told: Any) -> str:
    return json.dumps(told, sort_keys=True, separators=(",", ":"))


# Settings that came later, as all was before there was the choice: runs of then keep their identities.
_LATER = {"pretrained": True, "trains": "adapters"}


def _told(cell: Cell, exclude: Any) -> dict[str, Any]:
    found = cell.model_dump(mode="json", exclude=exclude)
    found["architecture"] = {key: value for key, value in found["architecture"].items() if _LATER.get(key) != value}
    return found


def structure(cell: Cell) -> tuple[Hashable, ...]:
    """Cells with equal structure share one compiled program; everything else about them is data."""
    shared = (
        _canonical(cell.corpus),
        cell.model,
        cell.rounds,
        cell.evaluate_every,
        cell.evaluate_clients,
        cell.protocols,
    )
    architecture = _canonical(cell.architecture, set(DROPOUT_RATES))
    undropped = tuple(getattr(cell.architecture, name, 0.0) == 0.0 for name in DROPOUT_RATES)
    objective, numbers = parse_call(cell.local.objective)
    optimizer, others = parse_call(cell.local.optimizer)
    calls = (optimizer, tuple(sorted(others)), objective, tuple(sorted(numbers)))
    return (*shared, architecture, undropped, cell.local.batch_size, *calls, cell.partition.holdout_fraction > 0)


def content_hash(experiment: Experiment) -> str:
    """16 hex digits of the SHA-256 of all cells; name, lanes, checkpoints_kept and who is scored when stay out."""
    unread = {"architecture": {"local"}, **SCORING}
    lines = sorted(_sorted_json(_told(cell, unread)) for cell in cells(experiment))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def identity(cell: Cell) -> dict[str, Any]:
    """The settings that decide a cell's numbers, for JSON: cells where they and the inputs are equal are one run, of
    which one may be longer. Names, rounds, who is scored when, and the places of files and weights stay out."""
    exclude: Any = {
        "name": True,
        "rounds": True,
        **SCORING,
        "corpus": {"files", "revision"},
        "architecture": {"local", "weights", "revision"},
    }
    return _told(cell, exclude)
