"""Few sizes in which batches of unequal size are computed, since each is a compilation more: NumPy alone."""

import itertools
from collections.abc import Sequence

import numpy as np

MOST_SIZES, CHOICES = 4, 32
# Token places of a training step: so many tokens apart, one size more for so many steps a round, and the largest but
# the whole is enough for this share of the steps. It is what many lanes need, of which the fullest batch decides.
PLACES_STEP, STEPS_PER_SIZE, ENOUGH = 16, 32, 0.999


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
      on_cpu: else there are many lanes, of which the fullest decides, and compiling takes long: two numbers.
    """
    most = min(MOST_SIZES - 1 if on_cpu else 1, len(tokens) // STEPS_PER_SIZE)
    if not most:
        return (whole,)
    longest = int(np.quantile(tokens, ENOUGH, method="higher"))
    longest = min(-(-longest // PLACES_STEP) * PLACES_STEP, whole)
    return tuple(sorted({*few_sizes(np.append(tokens[tokens <= longest], longest), PLACES_STEP, most), whole}))


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
