"""Few sizes in which batches of unequal size are computed, since each is a compilation more: NumPy alone."""

import itertools
from collections.abc import Sequence

import numpy as np

MOST_SIZES, CHOICES = 4, 32
# A size is a compilation more, which takes seconds: it has to save so many token places a round, a second of MiniLM's
# training on two CPU cores.
WORTH = 4096
PLACES_STEP = 16  # the numbers of token places of a training step are so far apart
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


def step_places(tokens: np.ndarray, whole: int, on_cpu: bool = True) -> tuple[int, ...]:
    """How many token places the steps of a program compute: few numbers, ascending, of which the last is `whole`.

    Args:
      tokens: i[steps], of the batches of a round.
      whole: enough for any batch of any round.
      on_cpu: else there are many lanes.
    """
    if on_cpu:
        return few_sizes(np.append(tokens, whole), PLACES_STEP)
    enough = int(np.quantile(tokens, ENOUGH, method="higher"))
    size = min(-(-enough // PLACES_STEP) * PLACES_STEP, whole)
    return (size, whole) if (whole - size) * len(tokens) >= WORTH else (whole,)


def fullest(tokens: np.ndarray, held: Sequence[np.ndarray], batch: int) -> int:
    """The most tokens that a batch can have whose rows are one holder's.

    Args:
      tokens: i[N], of each row.
      held: the rows of each holder.
      batch: rows of a batch.
    """
    return max(int(np.sort(tokens[rows])[-batch:].sum()) for rows in held)


def batch_tokens(tokens: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """i[...], tokens of each batch; tokens: i[N], of each row; batches: i[..., B], rows padded with -1."""
    return np.where(batches >= 0, tokens[batches], 0).sum(axis=-1)


def places_of_lanes(lanes: Sequence[np.ndarray], sizes: Sequence[int], devices: int) -> int:
    """Token places that are computed in all steps: lanes keep step, and those of a device compute as many as the
    fullest batch among theirs needs. A lane that has nothing left to do is not counted.

    Args:
      lanes: i[steps] each, tokens of its batches; as many lanes on each device.
      sizes: of `step_places`.
    """
    longest = max(map(len, lanes))
    tokens = np.array([np.pad(lane, (0, longest - len(lane))) for lane in lanes]).reshape(devices, -1, longest)
    busy = np.array([np.arange(longest) < len(lane) for lane in lanes]).reshape(tokens.shape)
    computed = np.array(sizes)[np.searchsorted(sizes, tokens.max(axis=1))]
    return int((computed * busy.sum(axis=1)).sum())
