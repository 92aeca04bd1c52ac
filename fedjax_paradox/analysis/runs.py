"""Per-client tables as runs: measures of every round, and which round counts.

A run that diverged stays in: it counts with its last finite round, carried forward to the rounds that it was to
have, as an intention-to-treat analysis counts everybody. One that diverged in round 1 counts without a number.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedjax_paradox.errors import InputError
from fedjax_paradox.evaluation.fairness import Summary, average, summarise
from fedjax_paradox.storage import results

# What tells runs apart in a table; `cell` is a label that names the swept settings that have no column.
RUN = ("cell", "corpus", "model", "rule", "alpha", "num_clients", "partition_seed", "seed")

# A client of fewer rows, to train on or to be scored on, has an accuracy that chance alone can make 0; comparisons
# leave it out, and say so.
FLOOR, FLOORED = 30, "floored_"

MEASURES = pa.schema(
    [
        *(results.SCHEMA.field(name) for name in (*RUN, "round", "protocol")),
        *((name, pa.float64()) for name in Summary._fields if name != "worst_client"),
        # The same over the clients of at least FLOOR train rows and evaluation rows alone.
        *((f"{FLOORED}{name}", pa.float64()) for name in Summary._fields if name != "worst_client"),
        ("worst_client", pa.int32()),
        ("worst_noise", pa.float64()),  # binomial standard error of its accuracy
        ("clients", pa.int32()),  # that have train rows and an accuracy
        ("small", pa.int32()),  # of these, those of fewer than FLOOR rows of either kind
        ("fixed", pa.bool_()),  # the partition alone makes them equal: gap 0 by construction
        ("diverged", pa.int32()),  # the round that the run diverged in, 0 where it did not
        ("rounds", pa.int64()),  # that it was to have, 0 where nobody says
        ("run", pa.string()),  # equal for cells that are one run by construction, "" where nobody says
    ]
)


_UNKNOWN = {"diverged": 0, "rounds": 0, "run": ""}


class Size(NamedTuple):
    """How large a model is."""

    trainable: int  # parameters, 0 where nobody says
    parameters: int  # with those that are frozen
    start: str  # what it is trained from


class Known(NamedTuple):
    """What a folder says of a cell beyond its numbers."""

    facts: Mapping[str, Any]  # the columns of RUN
    protocols: Sequence[str]
    rounds: int
    run: str
    diverged: int = 0
    client: int = -1  # whose training was not finite, -1 where the rule's own result was not
    size: Size = Size(0, 0, "")


def measures(
    table: pa.Table,
    known: Mapping[str, Known] = MappingProxyType({}),
    fixed: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> pa.Table:
    """One row of schema MEASURES per (run, round, protocol), in the table's order.

    Clients without train rows or with total 0 are left out. A run that diverged in round 1 has one row per protocol,
    of round 0 and without numbers.

    Args:
      known: cell -> what its folder says of it, where it does.
      fixed: cell -> protocols under which its partition makes all accuracies equal, where the audit could say; equal
        outcomes say nothing of it.

    Raises:
      InputError: a column is missing, the table is empty, or a client occurs twice in a run's round.
    """
    require(table, results.SCHEMA.names)
    if not len(table):
        raise InputError("the results hold no finished round (0 rows); run the experiment first")
    keys = [*RUN, "round", "protocol"]
    fewest = pc.min_element_wise(table["train_rows"], table["total"])
    large = table.filter(pc.greater_equal(fewest, FLOOR))
    floored = {tuple(key.values()): summarise(*counted) for key, *counted in results.counts(large, keys)}
    rows = [_measured(*group, floored.get(tuple(group[0].values()), _NOTHING)) for group in results.counts(table, keys)]
    smaller = table.filter(pc.and_(pc.greater(fewest, 0), pc.less(fewest, FLOOR)))
    small = Counter(tuple(row.values()) for row in smaller.select(keys).to_pylist())
    for row in rows:
        row["small"] = small[tuple(row[name] for name in keys)]
        row["fixed"] = row["protocol"] in fixed.get(row["cell"], ())
    rows += _numberless(known)
    return pa.Table.from_pylist([{**row, **_end(known.get(row["cell"]))} for row in rows], MEASURES)


def _measured(key: dict[str, Any], correct: np.ndarray, total: np.ndarray, floored: Summary) -> dict[str, Any]:
    spread = summarise(correct, total)
    noise = _noise(correct[spread.worst_client], total[spread.worst_client]) if (total > 0).any() else float("nan")
    return {**key, **spread._asdict(), **_prefixed(floored), "worst_noise": noise, "clients": int((total > 0).sum())}


def _prefixed(spread: Summary) -> dict[str, float]:
    return {f"{FLOORED}{name}": value for name, value in spread._asdict().items()}


def _noise(correct: float, total: int) -> float:
    """Standard error of correct / total, with two successes and two failures more, so that 0 of 3 is not exact (Agresti
    & Coull, 1998)."""
    share = (correct + 2.0) / (total + 4.0)
    return float(np.sqrt(share * (1.0 - share) / (total + 4.0)))


def _end(one: Known | None) -> dict[str, Any]:
    return {"diverged": one.diverged, "rounds": one.rounds, "run": one.run} if one else _UNKNOWN


def _numberless(known: Mapping[str, Known]) -> Iterator[dict[str, Any]]:
    nothing = {**_NOTHING._asdict(), **_prefixed(_NOTHING), "worst_noise": float("nan"), "clients": 0, "small": 0}
    for one in known.values():
        for protocol in one.protocols if one.diverged == 1 else ():
            yield {**one.facts, **nothing, "round": 0, "protocol": protocol, "fixed": False}


_NOTHING = summarise(np.zeros(0), np.zeros(0))


def pick(measured: pa.Table, when: str) -> pa.Table:
    """One row of schema MEASURES per (run, protocol): "last", "round N" or "mean of last N" (rounds).

    There is no "best": choosing a round by its test accuracy is choosing on the test set. In a mean of rounds,
    `round` is the last of them, `clients` the fewest, and `worst_client` -1 unless it is the same in all. Of a run
    that diverged, rounds from there on count as its last finite one, which `round` then is.

    Raises:
      InputError: another `when`, or a run that lacks the rounds.
    """
    require(measured, MEASURES.names)
    kind, number = parse_rounds(when)
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in measured.sort_by("round").to_pylist():
        runs.setdefault(_key(row), []).append(row)
    chosen = []
    for rows in runs.values():
        found = _last(rows, number) if kind == "last" else _at(rows, number)
        if len(found) < (number if kind == "last" else 1):
            raise InputError(
                f"the run {rows[0]['cell']} (seeds {rows[0]['partition_seed']}, {rows[0]['seed']}) has no {when!r}: "
                f"its last is round {rows[-1]['round']}; choose 'last' or train longer"
            )
        chosen.append(found[0] if len(found) == 1 else _mean(found))
    return pa.Table.from_pylist(chosen, MEASURES)


def reaching(measured: pa.Table, round_: int) -> pa.Table:
    """The rows of the runs that have a round, or diverged before they could."""
    rows = measured.to_pylist()
    reached = {_key(row) for row in rows if _at([row], round_)}
    return measured.filter(pa.array([_key(row) in reached for row in rows], pa.bool_()))


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in (*RUN, "protocol"))


def _at(rows: Sequence[dict[str, Any]], round_: int) -> list[dict[str, Any]]:
    found = [row for row in rows if row["round"] == round_]
    last = rows[-1]
    return found or ([last] if 0 < last["diverged"] <= round_ <= last["rounds"] else [])


def _last(rows: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    last = rows[-1]
    carried = min(number, max(last["rounds"] - last["round"], 0)) if last["diverged"] else 0
    if carried and last["round"] == 0:
        return [last] * carried
    return [*rows[len(rows) - min(number - carried, len(rows)) :], *[last] * carried]


def parse_rounds(when: str) -> tuple[str, int]:
    """("round", N) for "round N", ("last", N) for "mean of last N", ("last", 1) for "last"; else InputError."""
    fixed, mean = re.fullmatch(r"round ([1-9]\d*)", when), re.fullmatch(r"mean of last ([1-9]\d*)", when)
    if fixed:
        return "round", int(fixed[1])
    if mean or when == "last":
        return "last", int(mean[1]) if mean else 1
    raise InputError(f"rounds are chosen by 'last', 'round N' or 'mean of last N' (got {when!r}); use 'last'")


def spelled(when: str) -> str:
    """`when` in words that fit behind a measure."""
    kind, number = parse_rounds(when)
    if kind == "round":
        return f"after round {number}"
    return "after the last round" if number == 1 else f"in the mean of the last {number} rounds"


def ends(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many of some runs diverged, "" where none did."""
    diverged, first = sum(row["diverged"] > 0 for row in rows), sum(row["diverged"] == 1 for row in rows)
    told = f"{diverged} of {len(rows)} diverged" if diverged else ""
    return f"{told}, {first} of them in round 1 and without a number" if first else told


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = [name for name in Summary._fields if name != "worst_client"]
    names = [*names, *(f"{FLOORED}{name}" for name in names), "worst_noise"]
    spread = {name: average(row[name] for row in rows) for name in names}
    worst = {row["worst_client"] for row in rows}
    return {
        **rows[-1],
        **spread,
        "worst_client": worst.pop() if len(worst) == 1 else -1,
        "clients": min(row["clients"] for row in rows),
    }


def require(table: pa.Table, names: Sequence[str]) -> None:
    """InputError where a table lacks a column."""
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise InputError(
            f"the table lacks the column {missing[0]!r} (it has {', '.join(table.column_names) or 'none'}); give "
            "a table as this package writes it"
        )
