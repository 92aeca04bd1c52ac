"""Rows of `clients.parquet`: what the models of a round predict, by cell and client."""

from collections.abc import Sequence

import jax
import numpy as np
import pyarrow as pa

from fedjax_paradox.config import Cell
from fedjax_paradox.federated.types import Tree
from fedjax_paradox.storage import results
from fedjax_paradox.sweep.batches import Batches
from fedjax_paradox.sweep.program import Program
from fedjax_paradox.sweep.resume import facts
from fedjax_paradox.sweep.rounds import measure, predict, scored_rounds


def scores(
    program: Program,
    round_: int,
    models: tuple[Tree, tuple[Tree, ...], Tree],
    batches: Sequence[Batches],
    *,
    going: Sequence[int],
    ended: Sequence[int],
) -> tuple[pa.Table, pa.Table]:
    """Rows of this round for the cells that go on, and of the round before for those that it has ended: they keep the
    leaves of their last finite round, which may not have been scored.

    Args:
      models: globals, rule states, frozen leaves.
    """
    globals_, states, frozen = models
    every = program.engine.serve
    scored = going if round_ in scored_rounds(program.cells[0], round_) else []
    late = [index for index in ended if round_ - 1 not in scored_rounds(program.cells[index], round_ - 1)]
    if not scored and not late:
        return results.SCHEMA.empty_table(), results.SCHEMA.empty_table()
    models_ = globals_ if every is None else _of_scored(program, every(globals_, states))
    predicted = predict(program, models_, frozen, batches)
    return _table(program, round_, predicted, scored), _table(program, round_ - 1, predicted, late)


def _of_scored(program: Program, served: Tree) -> Tree:
    """Of models [P * num_clients, ...] those of the clients that are scored, [P * S, ...]."""
    clients = program.cells[0].num_clients
    chosen = np.concatenate([clients * index + one.scored for index, one in enumerate(program.clients)])
    return served if len(chosen) == clients * len(program.cells) else jax.tree.map(lambda leaf: leaf[chosen], served)


def _table(program: Program, round_: int, predicted: np.ndarray, scored: Sequence[int]) -> pa.Table:
    """The rows of some cells, and of their twins; predicted: i32[M, rows], of P or P S models."""
    tables = [results.SCHEMA.empty_table()]
    classes = predicted
    if program.engine.serve is not None:
        classes = predicted.reshape(len(program.cells), -1, predicted.shape[1])
    for index in scored if round_ else ():
        alike: list[Cell] = [program.cells[index], *(twin.cell for twin in program.twins if twin.of == index)]
        counts = measure(program, index, classes[index])
        scored_clients = program.clients[index].scored
        train_rows = program.clients[index].class_counts[scored_clients].sum(axis=1)
        common = {"corpus": program.corpus.name, "round": round_}
        tables += [results.records({**facts(cell), **common}, train_rows, counts, scored_clients) for cell in alike]
    return pa.concat_tables(tables)
