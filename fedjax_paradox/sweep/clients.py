"""Which texts a cell reads, which client holds which of their rows, and who takes part in a round: NumPy alone."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_paradox.config import Cell, parse_call
from fedjax_paradox.data import partition as split
from fedjax_paradox.data.corpus import Corpus, Texts, load_texts
from fedjax_paradox.errors import InputError
from fedjax_paradox.federated.packing import schedule
from fedjax_paradox.sweep.checks import check_partition
from fedjax_paradox.sweep.extensions import partitioner


class Clients(NamedTuple):
    """One cell's clients: K row-index arrays each, class counts i64[K, C], who can take part, and who is scored."""

    train: split.Partition
    holdout: split.Partition
    class_counts: np.ndarray
    available: np.ndarray
    scored: np.ndarray  # i[S], ascending

    def rows_of_scored(self) -> tuple[split.Partition, split.Partition]:
        """(train rows, held-out rows) of each of them."""
        return [self.train[client] for client in self.scored], [self.holdout[client] for client in self.scored]


class Attending(NamedTuple):
    """A client that takes part in a round, or what stands for all of them."""

    client: int
    rows: np.ndarray  # i[n], train rows
    class_counts: np.ndarray  # i64[C]


def read_texts(cache_folder: Path, corpus: Any) -> Texts:
    """Texts and labels of a `Cell.corpus`; InputError as from `load_texts`."""
    files = (corpus.files.train, corpus.files.test) if corpus.files.train or corpus.files.test else None
    return load_texts(
        corpus.name,
        files=files,
        subset=corpus.subset,
        revision=corpus.revision,
        splits=(corpus.splits.train, corpus.splits.test),
        text_column=corpus.text_column,
        label_column=corpus.label_column,
        classes=corpus.classes,
        train_rows=corpus.train_rows,
        test_rows=corpus.test_rows,
        seed=corpus.seed,
        cache=cache_folder,
    )


def divide(cell: Cell, corpus: Corpus | Texts) -> Clients:
    """Which rows each client of a cell trains on and keeps out; needs labels alone.

    Raises:
      InputError: the partition cannot be made, or no client has enough rows to take part.
    """
    division = partial(
        partitioner(*parse_call(cell.partition.kind)),
        labels=corpus.train_labels,
        num_clients=cell.num_clients,
        alpha=cell.alpha,
        seed=cell.partition_seed,
        shards_per_client=cell.partition.shards_per_client,
    )
    rows = check_partition(cell.partition.kind, division, cell.num_clients, len(corpus.train_labels))
    rows = split.repair_minimum(rows, cell.partition.min_client_rows, cell.partition_seed)
    train, holdout = split.split_holdout(rows, cell.partition.holdout_fraction, cell.partition_seed)
    counts = split.class_counts(train, corpus.train_labels, len(corpus.classes))
    available = np.flatnonzero(counts.sum(axis=1) >= cell.min_participant_rows)
    if len(available) == 0:
        raise InputError(
            f"cell {cell.name}: no client has min_participant_rows={cell.min_participant_rows} train rows "
            f"(the largest has {counts.sum(axis=1).max()}); lower it"
        )
    return Clients(train, holdout, counts, available, _scored(cell, counts.sum(axis=1)))


# Keeps the draw apart from others of a partition seed.
_SCORED = 3


def _scored(cell: Cell, rows: np.ndarray) -> np.ndarray:
    """i[S], who is scored, ascending: all, or a draw of the partition; rows: i[K], train rows."""
    count = cell.evaluate_clients or len(rows)
    if count >= len(rows):
        return np.arange(len(rows))
    drawn = np.random.default_rng([cell.partition_seed, _SCORED]).permutation(len(rows))
    return np.sort(drawn[np.argsort(rows[drawn] == 0, kind="stable")][:count])


def attending(cell: Cell, clients: Clients, pooled: bool, round_: int) -> list[Attending]:
    """Who takes part in a round of a cell, by ascending client; pooled: one that holds the rows of all."""
    if pooled:
        rows = np.concatenate([clients.train[client] for client in clients.available])
        return [Attending(0, rows, clients.class_counts[clients.available].sum(axis=0))]
    chosen = schedule.sample_clients(clients.available, cell.participation, cell.seed, round_)
    return [Attending(int(client), clients.train[client], clients.class_counts[client]) for client in chosen]
