"""From text to word ids: the vocabulary of the TextCNN."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np

from fedjax_paradox.errors import InputError

PADDING, UNKNOWN = "<pad>", "<unk>"  # no word: words have letters only
PADDING_ID, UNKNOWN_ID = 0, 1


def split_words(text: str) -> list[str]:
    """Words of the published TextCNN: lower case, everything but a-z replaced by a space, split."""
    return re.findall("[a-z]+", text.lower())


def build_vocabulary(texts: Iterable[str], size: int) -> dict[str, int]:
    """The commonest words, `size` entries at most, padding (0) and unknown (1) included.

    Words of one frequency keep the order of their first occurrence. Raises InputError if `size` leaves no
    room for a word or the texts have none.
    """
    if size < 3:
        raise InputError(f"a vocabulary holds padding, unknown and a word at least: size {size}, use 3 or more")
    counts = Counter(word for text in texts for word in split_words(text))
    if not counts:
        raise InputError("the train texts have no word made of the letters a-z: use a transformer for them")
    words = [word for word, _ in counts.most_common(size - 2)]
    return {word: i for i, word in enumerate([PADDING, UNKNOWN, *words])}


def encode_words(texts: Sequence[str], vocabulary: Mapping[str, int], length: int) -> np.ndarray:
    """tokens: i32[N, length]; the first `length` words of every text, then padding."""
    tokens = np.full((len(texts), length), PADDING_ID, np.int32)
    for row, text in zip(tokens, texts, strict=True):
        ids = [vocabulary.get(word, UNKNOWN_ID) for word in islice(split_words(text), length)]
        row[: len(ids)] = ids
    return tokens
