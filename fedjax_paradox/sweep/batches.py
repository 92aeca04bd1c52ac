"""Rows to predict in batches of similar length, each as full of tokens as the others."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_paradox.federated.types import Tree
from fedjax_paradox.sweep.program import Program
from fedjax_paradox.sweep.sizes import LENGTH_STEP, PLACES_STEP, few_sizes, last_places

# A length is one compilation more: it has to save so many batches of full length.
BATCHES_PER_LENGTH = 2


class Batches(NamedTuple):
    """Rows of similar length, which the engine takes at once; equal numbers of batches on all devices."""

    length: int  # tokens of a row that are read
    tokens: int | None  # token places of a batch that are computed; None: all
    models: np.ndarray  # i32[batches], which model predicts
    places: np.ndarray  # i[batches, B], which of the rows that were asked for; some twice, so that every batch is whole
    rows: np.ndarray  # i32[batches, B]


def by_length(program: Program, rows: np.ndarray, asked: Sequence[np.ndarray]) -> list[Batches]:
    """Rows in batches of few lengths, each long enough for all that its model reads of them.

    Args:
      rows: i[n], of the program's data.
      asked: of each model, which of `rows` it predicts.
    """
    tokens = np.concatenate([program.corpus.train_tokens, program.corpus.test_tokens])[rows] != 0
    needed, held = _needed_lengths(tokens, program.model.trailing), tokens.sum(axis=1)
    worth = BATCHES_PER_LENGTH * program.engine.predict_batch * int(needed.max())
    lengths = np.array(few_sizes(needed, LENGTH_STEP, worth))
    which = np.searchsorted(lengths, needed)
    found = []
    for index in np.unique(which):
        own = [places[which[places] == index] for places in asked]
        size = min(program.engine.predict_batch, max(map(len, own)))
        dealt = [each[_dealt(held[each], size, program.engine.devices)] for each in own]
        models, places = np.repeat(np.arange(len(own), dtype=np.int32), list(map(len, dealt))), np.concatenate(dealt)
        most, whole = max(1, int(held[places].sum(axis=1).max())), size * int(lengths[index])
        computed = min(-(-most // PLACES_STEP) * PLACES_STEP, whole) if program.model.packs else None
        found.append(Batches(int(lengths[index]), computed, models, places, rows[places].astype(np.int32)))
    return found


def of_rows(function: Callable[..., Any], models: Tree, frozen: Tree, data: Any, batches: Sequence[Batches]) -> Any:
    """[models, rows], in the order of the rows that the batches were made of; -1 where a model was not asked."""

    def start(each: Batches) -> jax.Array:
        return function(models, frozen, data, (each.models, each.rows), length=each.length, places=each.tokens)

    started = [start(each) for each in batches]  # all are under way before the first is waited for
    shape = (1 + max(int(each.models.max()) for each in batches), 1 + max(int(each.places.max()) for each in batches))
    found = np.full(shape, -1, started[0].dtype)
    for part, each in zip(started, batches, strict=True):
        found[each.models[:, None], each.places] = np.asarray(part)
    return found


def _needed_lengths(taken: np.ndarray, trailing: int | None) -> np.ndarray:
    """i[n]: how many token places of each row decide its logits; taken: bool[n, T], where there are tokens."""
    size = taken.shape[1]
    if trailing is None:
        return np.full(len(taken), size)
    last = last_places(taken)
    return np.minimum(np.where(last == 0, size, last) + trailing, size)  # an empty row stays whole


def _dealt(held: np.ndarray, size: int, devices: int) -> np.ndarray:
    """i[batches, B], every row at least once: dealt to the batches from the longest to the shortest, there and back.

    Args:
      held: i[n], tokens of each row.
      size: B, rows of a batch.
      devices: of which all have as many batches.
    """
    batches = -(-len(held) // (size * devices)) * devices
    order = np.pad(np.argsort(-held, kind="stable"), (0, batches * size - len(held)), mode="edge")
    dealt = order.reshape(size, batches)
    dealt[1::2] = dealt[1::2, ::-1]
    return dealt.T
