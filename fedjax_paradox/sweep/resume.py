"""What an output folder holds of an experiment's cells, and what is left to train.

A folder holds cells, each with its own identity. Those that are finished stay as they are, others go on from their
newest sound checkpoint, and cells that the experiment no longer has are kept.
"""

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pyarrow as pa

from fedjax_paradox.config import Cell
from fedjax_paradox.errors import InputError
from fedjax_paradox.federated.types import Tree
from fedjax_paradox.models.base import sizes
from fedjax_paradox.storage import cells, checkpoint, folder, history, results
from fedjax_paradox.storage.cells import Entry
from fedjax_paradox.storage.history import History
from fedjax_paradox.sweep.history import believed
from fedjax_paradox.sweep.identities import own_code
from fedjax_paradox.sweep.program import Program, part
from fedjax_paradox.sweep.rounds import scored_rounds


class Part(NamedTuple):
    """Cells that go on together from the same round; `program` may be a part of a larger one."""

    program: Program
    done: int
    start: tuple[Tree, tuple[Tree, ...]] | None  # (globals, rule states) after `done`, None before round 1


class Standing(NamedTuple):
    """What a folder holds, and what is left to do."""

    table: pa.Table  # rows of `clients.parquet` that are believed, in the order of `ranks`
    entries: dict[str, Entry]  # by name, every cell of the folder and of the experiment
    parts: list[Part]
    finished: int  # cells of the experiment that need no training
    history: History  # of the rounds that are believed
    ranks: dict[str, tuple[int, int]]  # cell -> (program, place in it)
    reached: dict[str, int]  # cell -> rounds behind it


def look(out: Path, programs: Sequence[Program], retry_diverged: bool = False) -> Standing:
    """Reads a claimed folder, and checks that what it holds belongs to the cells that it names.

    Raises:
      InputError: a cell's name stands for other settings or another corpus, or a file is damaged or incomplete.
    """
    stored = cells.read(out)
    wanted = {entry.cell: entry for program in programs for entry in _entries(program)}
    names = {entry.identity: entry.cell for entry in wanted.values()}
    renamed = {old.cell: names[old.identity] for old in stored.values() if old.identity in names}
    kept = {name: entry for name, entry in stored.items() if name not in renamed}
    for name, entry in wanted.items():
        if name in kept:
            raise InputError(_other(out, kept[name], entry))
    _check_scored(out, stored, renamed, wanted)
    table = _renamed(results.read(out), renamed)
    _check_known(out, table, stored, renamed)
    states = checkpoint.restore(out / "checkpoints", list(names), out / folder.ASIDE)
    ended = {renamed[old.cell]: old for old in stored.values() if old.cell in renamed and not retry_diverged}
    entries = kept | {name: _with_end(entry, ended.get(name)) for name, entry in wanted.items()}
    ranks = {
        cell.name: (number, place)
        for number, program in enumerate(programs)
        for place, cell in enumerate((*program.cells, *(twin.cell for twin in program.twins)))
    }
    standing = Standing(table, entries, [], 0, history.read(out), ranks, {})
    for program in programs:
        standing = _with_parts(out, standing, program, states)
    return standing._replace(
        table=ordered(standing.table, ranks), history=_believed_history(standing, programs, renamed)
    )


def _check_scored(
    out: Path, stored: Mapping[str, Entry], renamed: Mapping[str, str], wanted: Mapping[str, Entry]
) -> None:
    """What was not scored cannot be scored later, so that a folder keeps to its rounds."""
    told = {"evaluate_every": ("after every {} rounds", 1), "evaluate_clients": ("by {} clients", None)}
    for (old, new), (key, (how, default)) in itertools.product(renamed.items(), told.items()):
        before, now = (json.loads(e.settings).get(key, default) for e in (stored[old], wanted[new]))
        if before != now:
            held, asked = ("null" if value is None else value for value in (before, now))
            raise InputError(
                f"--out {out} holds {new} scored {how.format('all' if before is None else before)}, got {key}={asked}; "
                f"keep to {key}={held}, or choose another --out"
            )


def _believed_history(standing: Standing, programs: Sequence[Program], renamed: Mapping[str, str]) -> History:
    pairs = standing.table.group_by(["cell", "round"]).aggregate([])  # of cells that the experiment no longer has
    known = set(zip(pairs["cell"].to_pylist(), pairs["round"].to_pylist(), strict=True))
    known |= {(cell, round_) for cell, done in standing.reached.items() for round_ in range(1, done + 1)}
    known |= {(entry.cell, entry.diverged_round) for entry in standing.entries.values()}
    alike = [
        [cell.name, *(twin.cell.name for twin in program.twins if twin.of == index)]
        for program in programs
        for index, cell in enumerate(program.cells)
    ]
    found = believed(standing.history, known, alike, renamed)
    return found.map(lambda table: ordered(table, standing.ranks))


def _entries(program: Program) -> list[Entry]:
    """The cells of a program as a folder lists them."""

    trainable, parameters = sizes(program.model)

    def entry(cell: Cell, identity: str, same_as: str = "") -> Entry:
        inputs = json.dumps({**program.inputs, **own_code(cell)}, sort_keys=True)
        told = Entry(cell.name, identity, cell.model_dump_json(), inputs, same_as)
        return told._replace(trainable_parameters=trainable, parameters=parameters)

    found = [entry(cell, identity) for cell, identity in zip(program.cells, program.identities, strict=True)]
    return found + [entry(twin.cell, twin.identity, program.cells[twin.of].name) for twin in program.twins]


def _other(out: Path, before: Entry, now: Entry) -> str:
    """Why a cell of this name cannot go on."""
    old, new = ({**json.loads(e.inputs), **cells.flat(json.loads(e.settings))} for e in (before, now))
    changed = [key for key in sorted({*old, *new} - {"name", "rounds"}) if old.get(key) != new.get(key)]
    told = "; ".join(f"{key} was {old.get(key)!r:.60}, is {new.get(key)!r:.60}" for key in changed[:3])
    return (
        f"--out {out} holds another run under the name {now.cell!r} ({told}); choose another --out, or put what has "
        "changed under grid, so that it becomes part of the name"
    )


def _with_end(entry: Entry, before: Entry | None) -> Entry:
    if before is None or before.status == cells.OK:
        return entry
    return entry._replace(
        status=before.status, diverged_round=before.diverged_round, diverged_client=before.diverged_client
    )


def _renamed(table: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """The rows of cells whose identity has another name now, under that name."""
    if all(old == new for old, new in names.items()):
        return table
    values = [names.get(name, name) for name in table["cell"].to_pylist()]
    return table.set_column(table.schema.get_field_index("cell"), "cell", pa.array(values, pa.string()))


def _check_known(out: Path, table: pa.Table, stored: Mapping[str, Entry], renamed: Mapping[str, str]) -> None:
    known = {renamed.get(name, name) for name in stored}
    if unknown := sorted(set(table["cell"].unique().to_pylist()) - known):
        raise InputError(
            f"{out / results.FILE} has rows of {unknown[0]!r}, which {cells.FILE} does not list; restore both files "
            "from one copy, or choose another --out"
        )


class _Behind(NamedTuple):
    """How far a cell is; `leader`: whose rows say so, the cell's or those of one that is the same run."""

    done: int
    leader: str
    ended: Entry | None  # where it has diverged
    stored: checkpoint.Stored | None


def _behind(names: Mapping[str, str], entries: Mapping[str, Entry], states: Mapping[str, checkpoint.Stored]) -> _Behind:
    """names: identity -> name of the cells that are one run; of those with a checkpoint, the furthest counts."""
    source = max(names, key=lambda identity: states[identity].round if identity in states else 0)
    stored = states.get(source)
    for name in names.values():
        if entries[name].status == cells.DIVERGED:
            return _Behind(entries[name].diverged_round - 1, name, entries[name], stored)
    return _Behind(stored.round if stored else 0, names[source], None, stored)


def _with_parts(out: Path, standing: Standing, program: Program, states: Mapping[str, checkpoint.Stored]) -> Standing:
    """Groups a program's cells by the rounds behind them, and keeps their rows of those rounds alone."""
    table, entries, finished = standing.table, dict(standing.entries), standing.finished
    reached = dict(standing.reached)
    groups: dict[int, list[int]] = {}
    behind = []
    for index, cell in enumerate(program.cells):
        twins = [twin for twin in program.twins if twin.of == index]
        names = {program.identities[index]: cell.name} | {twin.identity: twin.cell.name for twin in twins}
        found = _behind(names, entries, states)
        behind.append(found)
        entries |= {name: _with_end(entries[name], found.ended) for name in names.values()}
        rounds = scored_rounds(cell, found.done, found.ended is not None)
        table = _with_copies(_believed(table, found, rounds), found.leader, [cell, *(twin.cell for twin in twins)])
        _check_complete(out, table, cell, rounds, program.clients[index].scored.tolist())
        reached |= dict.fromkeys(names.values(), found.done)
        if found.ended or found.done >= cell.rounds:
            finished += len(names)
        else:
            groups.setdefault(found.done, []).append(index)
    states_ = [found.stored for found in behind]
    parts = [_part(program, chosen, done, states_) for done, chosen in sorted(groups.items(), reverse=True)]
    parts = [*standing.parts, *parts]
    return standing._replace(table=table, entries=entries, parts=parts, finished=finished, reached=reached)


def _part(program: Program, chosen: Sequence[int], done: int, best: Sequence[checkpoint.Stored | None]) -> Part:
    smaller = part(program, chosen) if len(chosen) < len(program.cells) else program
    twins = [t._replace(of=chosen.index(t.of)) for t in program.twins if t.of in chosen]
    smaller = smaller._replace(twins=tuple(twins))
    if done == 0:
        return Part(smaller, 0, None)
    globals_, _ = jax.eval_shape(smaller.initial)
    states = jax.eval_shape(smaller.engine.init_rules, globals_)
    held = [stored.leaves for stored in (best[index] for index in chosen) if stored is not None]
    globals_ = checkpoint.stacked(held, {"globals": globals_})["globals"]
    restored = [
        checkpoint.stacked([held[place] for place in group], {"rule": state})["rule"]
        for group, state in zip(smaller.engine.groups, states, strict=True)
    ]
    return Part(smaller, done, (globals_, tuple(restored)))


def _believed(table: pa.Table, found: _Behind, rounds: Collection[int]) -> pa.Table:
    """Without what a cell stored after the round that its checkpoint holds, which is computed again, and without the
    last round of a shorter run, where it would not have been scored within a longer one."""
    held = table["round"].to_numpy()
    other = (table["cell"].to_numpy() == found.leader) & ~np.isin(held, np.array(sorted(rounds), held.dtype))
    return table.filter(pa.array(~other)) if other.any() else table


def _with_copies(table: pa.Table, leader: str, cells_: Sequence[Cell]) -> pa.Table:
    """The rows of cells that are one run: those of `leader`, for each of them."""
    if len(cells_) == 1 and cells_[0].name == leader:
        return table
    names = table["cell"].to_numpy()
    own = table.filter(pa.array(names == leader))
    others = table.filter(pa.array(~np.isin(names, [leader, *(cell.name for cell in cells_)])))
    return pa.concat_tables([others, *(results.copied(own, facts(cell)) for cell in cells_)])


def facts(cell: Cell) -> dict[str, object]:
    """What is the same in every row of a cell, but for the corpus and the round."""
    names = ("model", "rule", "alpha", "num_clients", "partition_seed", "seed")
    return {"cell": cell.name, **{name: getattr(cell, name) for name in names}}


def _check_complete(out: Path, table: pa.Table, cell: Cell, rounds: Collection[int], scored: Sequence[int]) -> None:
    """Every (round, protocol, client) of the rounds after which a cell was scored stands there exactly once."""
    rows = table.filter(pa.array(table["cell"].to_numpy() == cell.name))
    found = rows.group_by(["round", "protocol", "client"]).aggregate([([], "count_all")])
    wanted = {(r, p, c) for r in rounds for p in cell.protocols for c in scored}
    held = set(zip(*(found[name].to_pylist() for name in ("round", "protocol", "client")), strict=True))
    if held == wanted and rows.num_rows == len(wanted):
        return
    round_ = min((key[0] for key in wanted - held), default=None)
    problem = f"lacks round {round_}" if round_ is not None else "holds rows more than once or of no client"
    raise InputError(
        f"{out / results.FILE} {problem} of cell {cell.name}, whose checkpoint is of a later one; restore the file "
        f"from a copy, or remove {out} to start again"
    )


def ordered(table: pa.Table, ranks: Mapping[str, tuple[int, int]]) -> pa.Table:
    """By program, round and place in it, whatever was trained first; cells of other experiments come before."""
    found = table["cell"].combine_chunks().dictionary_encode()
    names = found.dictionary.to_pylist()
    # Those that the experiment no longer has, by their names.
    others = {name: (-1, place) for place, name in enumerate(sorted(set(names) - set(ranks)))}
    own = np.array([ranks.get(name) or others[name] for name in names], np.int64).reshape(-1, 2)
    rank = own[found.indices.to_numpy()]
    order = np.lexsort((rank[:, 1], table["round"].to_numpy(), rank[:, 0]))
    return table if np.array_equal(order, np.arange(len(order))) else table.take(pa.array(order))
