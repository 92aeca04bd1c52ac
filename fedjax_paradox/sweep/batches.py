"""Rows to predict in batches of similar length, each as full of tokens as the others."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_paradox.federated.types import Tree
from fedjax_paradox.sweep.program import Program
from fedjax_paradox.sweep.sizes import LENGTH_STEP, PLACES_STEP, few_sizes, last_places

# A length is one compilation more: it has to save so many batches of full length.
BATCHES_PER_LENGTH = 2


class Batches(NamedTuple):
    """Rows of similar length, which the engine takes at once."""

    length: int  # tokens of a row that are read
    tokens: int | None  # token places of a batch that are computed; None: all
    places: np.ndarray  # i[batches, B], which of the rows that were asked for; some twice, so that every batch is whole
    rows: np.ndarray  # i32[batches, B], equal numbers of batches on all devices


def by_length(program: Program, rows: np.ndarray) -> list[Batches]:
    """Rows in batches of few lengths, each long enough for all that its model reads of them."""
    tokens = np.concatenate([program.corpus.train_tokens, program.corpus.test_tokens])[rows] != 0
    needed, held = _needed_lengths(tokens, program.model.trailing), tokens.sum(axis=1)
    worth = BATCHES_PER_LENGTH * program.engine.predict_batch * int(needed.max())
    lengths = np.array(few_sizes(needed, LENGTH_STEP, worth))
    which = np.searchsorted(lengths, needed)
    found = []
    for index in np.unique(which):
        own = np.flatnonzero(which == index)
        places = own[_dealt(held[own], program.engine.predict_batch, program.engine.devices)]
        most, size = max(1, int(held[places].sum(axis=1).max())), places.shape[1] * int(lengths[index])
        computed = min(-(-most // PLACES_STEP) * PLACES_STEP, size) if program.model.packs else None
        found.append(Batches(int(lengths[index]), computed, places, rows[places].astype(np.int32)))
    return found


def of_rows(function: Callable[..., Any], models: Tree, frozen: Tree, data: Any, batches: Sequence[Batches]) -> Any:
    """[models, rows], in the order of the rows that the batches were made of."""
    # All are under way before the first is waited for.
    started = [function(models, frozen, data, each.rows, length=each.length, places=each.tokens) for each in batches]
    parts = [np.asarray(part).swapaxes(0, 1) for part in started]
    asked = 1 + max(int(each.places.max()) for each in batches)
    found = np.empty((len(parts[0]), asked), parts[0].dtype)
    for part, each in zip(parts, batches, strict=True):
        found[:, each.places] = part
    return found


def _needed_lengths(taken: np.ndarray, trailing: int | None) -> np.ndarray:
    """i[n]: how many token places of each row decide its logits; taken: bool[n, T], where there are tokens."""
    size = taken.shape[1]
    if trailing is None:
        return np.full(len(taken), size)
    last = last_places(taken)
    return np.minimum(np.where(last == 0, size, last) + trailing, size)  # an empty row stays whole


def _dealt(held: np.ndarray, most: int, devices: int) -> np.ndarray:
    """i[batches, B], every row at least once: dealt to the batches from the longest to the shortest, there and back.

    Args:
      held: i[n], tokens of each row.
      most: rows of a batch.
      devices: of which all have as many batches.
    """
    size = min(most, len(held))
    batches = -(-len(held) // (size * devices)) * devices
    order = np.pad(np.argsort(-held, kind="stable"), (0, batches * size - len(held)), mode="edge")
    dealt = order.reshape(size, batches)
    dealt[1::2] = dealt[1::2, ::-1]
    return dealt.T
