"""Few sizes in which batches of unequal size are computed, since each is a compilation more: NumPy alone."""

import itertools
from collections.abc import Sequence

import numpy as np

from fedjax_paradox.federated.types import Size

MOST_SIZES, CHOICES = 4, 32
# A size is a compilation more, which takes seconds: it has to save so many token places a round, a second of MiniLM's
# training on two CPU cores.
WORTH = 4096
PLACES_STEP, LENGTH_STEP = 16, 8  # numbers of token places of a batch, and of a row, are so far apart
# A size's rows are long enough for this share of the batches that have few enough tokens.
LONG_ENOUGH = 0.99
# Of many lanes the fullest decides, so that there is one size beside the whole, enough for this share of the steps.
ENOUGH = 0.999


def few_sizes(needed: np.ndarray, step: int, worth: int = WORTH) -> tuple[int, ...]:
    """At most `MOST_SIZES` sizes, ascending, in which all have the fewest places; needed: i[n], of each.

    The last is the largest of `needed`, the others are multiples of `step` or so, and each saves `worth` places.
    """
    longest = int(needed.max())
    shorter = range(step, longest, max(step, longest // CHOICES))
    cumulative = np.cumsum(np.bincount(needed))

    def places(sizes: tuple[int, ...]) -> int:
        ends = cumulative[list(sizes)]
        return int((np.diff(ends, prepend=0) * sizes).sum())

    found: tuple[int, ...] = (longest,)
    for more in range(1, MOST_SIZES):
        choices = [(*few, longest) for few in itertools.combinations(shorter, more)]
        best = min(choices, key=places, default=found)
        if places(found) - places(best) < worth:
            break
        found = best
    return found


def step_sizes(needs: np.ndarray, whole: Size, on_cpu: bool = True) -> tuple[Size, ...]:
    """What the steps of a program compute: few sizes, ascending in tokens, of which the last is `whole`.

    Args:
      needs: i[steps, 2], of the batches of a round.
      whole: enough for any batch of any round.
      on_cpu: else there are many lanes.
    """
    tokens, lengths = needs.T

    def enough(values: np.ndarray, share: float, step: int, most: int) -> int:
        return min(-(-int(np.quantile(values, share, method="higher")) // step) * step, most)

    share = LONG_ENOUGH if on_cpu else ENOUGH
    if on_cpu:
        numbers = few_sizes(np.append(tokens, whole.tokens), PLACES_STEP)[:-1]
    else:
        number = enough(tokens, ENOUGH, PLACES_STEP, whole.tokens)
        numbers = (number,) if (whole.tokens - number) * len(tokens) >= WORTH else ()
    fewer = (Size(n, enough(lengths[tokens <= n], share, LENGTH_STEP, whole.length)) for n in numbers)
    return (*fewer, whole)


def fullest(tokens: np.ndarray, held: Sequence[np.ndarray], batch: int) -> int:
    """The most tokens that a batch can have whose rows are one holder's.

    Args:
      tokens: i[N], of each row.
      held: the rows of each holder.
      batch: rows of a batch.
    """
    return max(int(np.sort(tokens[rows])[-batch:].sum()) for rows in held)


def last_places(taken: np.ndarray) -> np.ndarray:
    """i[N], the place of each row's last token, from 1; 0 where there is none; taken: bool[N, T]."""
    return np.where(taken.any(axis=1), taken.shape[1] - taken[:, ::-1].argmax(axis=1), 0)


def row_needs(tokens: np.ndarray, trailing: int | None) -> np.ndarray:
    """i[N, 2]: how many tokens each row has, and how long it has to be in training; tokens: i[N, T].

    Args:
      trailing: of the model, which has to be 0 for a row to be cut.
    """
    taken = tokens != 0
    lengths = last_places(taken) if trailing == 0 else np.full(len(tokens), tokens.shape[1])
    return np.stack([taken.sum(axis=1), lengths], axis=1)


def batch_needs(needs: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """i[..., 2], the tokens of each batch and its longest row; needs: of rows; batches: i[..., B], padded with -1."""
    own = np.where((batches >= 0)[..., None], needs[batches], 0)
    return np.stack([own[..., 0].sum(axis=-1), own[..., 1].max(axis=-1)], axis=-1)


def places_of_lanes(lanes: Sequence[np.ndarray], sizes: Sequence[Size], devices: int) -> int:
    """Token places that are computed in all steps: lanes keep step, and those of a device compute as many as the
    fullest batch among theirs needs. A lane that has nothing left to do is not counted.

    Args:
      lanes: i[steps, 2] each, needs of its batches; as many lanes on each device.
      sizes: of `step_sizes`.
    """
    steps = max(map(len, lanes))
    needs = np.array([np.pad(lane, ((0, steps - len(lane)), (0, 0))) for lane in lanes])
    most = needs.reshape(devices, -1, steps, 2).max(axis=1)
    busy = np.array([np.arange(steps) < len(lane) for lane in lanes]).reshape(devices, -1, steps).sum(axis=1)
    which = (np.array(sizes) >= most[..., None, :]).all(axis=-1).argmax(axis=-1)
    return int((np.array(sizes)[which, 0] * busy).sum())
