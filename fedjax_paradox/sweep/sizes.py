"""Few sizes in which batches of unequal size are computed, since each is a compilation more: NumPy alone."""

import bisect
import itertools
from collections.abc import Sequence

import numpy as np

MOST_SIZES, CHOICES = 4, 32
# Token places of a training step: so many tokens apart; a first, second and third size beside the whole where a round
# has so many steps, since each takes seconds to compile and the first gains the most.
PLACES_STEP, STEPS_FOR_SIZES = 16, (32, 256, 1024)
# Of many lanes the fullest decides, so that there is one size beside the whole, enough for this share of the steps.
ENOUGH = 0.999


def few_sizes(needed: np.ndarray, step: int, most: int) -> tuple[int, ...]:
    """At most `most` sizes, ascending, in which all have the fewest places; needed: i[n], of each.

    The last is the largest of `needed`, the others are multiples of `step` or so.
    """
    longest = int(needed.max())
    shorter = range(step, longest, max(step, longest // CHOICES))
    choices = [(*few, longest) for more in range(most) for few in itertools.combinations(shorter, more)]
    cumulative = np.cumsum(np.bincount(needed))

    def places(sizes: tuple[int, ...]) -> int:
        ends = cumulative[list(sizes)]
        return int((np.diff(ends, prepend=0) * sizes).sum())

    return min(choices, key=places)


def step_places(tokens: np.ndarray, whole: int, on_cpu: bool = True) -> tuple[int, ...]:
    """How many token places the steps of a program compute: few numbers, ascending, of which the last is `whole`.

    Args:
      tokens: i[steps], of the batches of a round.
      on_cpu: else there are many lanes.
    """
    most = bisect.bisect(STEPS_FOR_SIZES, len(tokens))
    if on_cpu or not most:
        return few_sizes(np.append(tokens, whole), PLACES_STEP, 1 + most)
    enough = int(np.quantile(tokens, ENOUGH, method="higher"))
    return tuple(sorted({min(-(-enough // PLACES_STEP) * PLACES_STEP, whole), whole}))


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
