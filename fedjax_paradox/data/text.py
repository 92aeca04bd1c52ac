"""From text to token ids: the word vocabulary of the TextCNN and the WordPiece of the transformer."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from fedjax_paradox.errors import InputError
from fedjax_paradox.text import printable

PADDING, UNKNOWN = "<pad>", "<unk>"  # no word: words have letters only
PADDING_ID, UNKNOWN_ID = 0, 1

_PAD, _UNK, _CLS, _SEP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
_SPECIAL_TOKENS = (_PAD, _UNK, _CLS, _SEP, "[MASK]")
_BATCH = 10_000  # texts tokenised at once: bounds the memory that the tokenizer's records take


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
        raise InputError("the train texts have no word made of the letters a-z: use a WordPiece model for them")
    words = [word for word, _ in counts.most_common(size - 2)]
    return {word: i for i, word in enumerate([PADDING, UNKNOWN, *words])}


def encode_words(texts: Sequence[str], vocabulary: Mapping[str, int], length: int) -> np.ndarray:
    """tokens: i32[N, length]; the first `length` words of every text, then padding."""
    tokens = np.full((len(texts), length), PADDING_ID, np.int32)
    for row, text in zip(tokens, texts, strict=True):
        ids = [vocabulary.get(word, UNKNOWN_ID) for word in islice(split_words(text), length)]
        row[: len(ids)] = ids
    return tokens


def load_wordpiece(folder: Path) -> Tokenizer:
    """The WordPiece tokenizer of a checkpoint folder, with neither padding nor truncation.

    `tokenizer.json` is read as it is (its stored padding and truncation belong to another length), else
    `vocab.txt` as BERT uncased. Raises InputError if the folder has neither or they are not WordPiece.
    """
    path = wordpiece_file(folder)
    with _refusing(path):
        tokenizer = _from_json(path) if path.suffix == ".json" else _from_vocabulary(path)
        tokenizer.no_padding()
        tokenizer.no_truncation()
    return tokenizer


@contextmanager
def _refusing(path: object) -> Iterator[None]:
    """InputError for whatever the tokenizer library raises: it has no type of its own, and a panic is no Exception."""
    try:
        yield
    except (InputError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise InputError(
            f"{path} is no tokenizer that works ({printable(str(error))[:300]}): download it again"
        ) from error


def wordpiece_file(folder: Path) -> Path:
    """The file that defines the tokenizer of a checkpoint folder; InputError if there is none."""
    for name in ("tokenizer.json", "vocab.txt"):
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"a checkpoint folder needs tokenizer.json or vocab.txt, {folder} has neither: copy one there or "
        "point to the folder that was downloaded whole"
    )


def encode_wordpiece(texts: Sequence[str], tokenizer: Tokenizer, length: int) -> np.ndarray:
    """tokens: i32[N, length]; [CLS] pieces [SEP], cut to `length`, then padding (0).

    Models take `tokens != 0` as their attention mask. Raises InputError if the padding id is not 0, if the
    tokenizer does not add [CLS] and [SEP], or if `length` leaves no room beside them.
    """
    if length < 3:
        raise InputError(f"[CLS] and [SEP] take two of the tokens: length {length}, use 3 or more")
    with _refusing("the checkpoint's tokenizer"):
        _check_special_tokens(tokenizer)
        own = Tokenizer.from_str(tokenizer.to_str())
        own.enable_truncation(length)
        own.enable_padding(length=length, pad_id=PADDING_ID, pad_token=_PAD)
        tokens = np.empty((len(texts), length), np.int32)
        for start in range(0, len(texts), _BATCH):
            batch = own.encode_batch_fast(list(texts[start : start + _BATCH]))
            tokens[start : start + _BATCH] = [encoding.ids for encoding in batch]
    return tokens


def _check_special_tokens(tokenizer: Tokenizer) -> None:
    padding = tokenizer.token_to_id(_PAD)
    if padding != PADDING_ID:
        raise InputError(
            f"the id of [PAD] must be 0, since models take tokens != 0 as their attention mask: "
            f"it is {padding}; use a BERT-style checkpoint"
        )
    frame = tokenizer.encode("").tokens
    if frame != [_CLS, _SEP]:
        raise InputError(f"a text must become [CLS] ... [SEP], this tokenizer frames it by {frame}; use BERT's")


def _from_json(path: Path) -> Tokenizer:
    try:
        kind = json.loads(path.read_text("utf-8"))["model"]["type"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a tokenizer.json ({error!r:.200}): download it again") from error
    if kind != "WordPiece":
        kind = printable(str(kind))[:80]
        raise InputError(f"the tokenizer must be WordPiece, {path} has {kind}: use a BERT or DistilBERT checkpoint")
    return Tokenizer.from_file(str(path))


def _from_vocabulary(path: Path) -> Tokenizer:
    with path.open(encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    pieces = {piece: i for i, piece in enumerate(lines)}
    if len(pieces) < len(lines):
        line, piece = next((i, piece) for i, piece in enumerate(lines) if pieces[piece] != i)
        raise InputError(
            f"vocab.txt must list a piece once; {path} has {piece!r:.80} in the lines {line + 1} and "
            f"{pieces[piece] + 1}: download it again"
        )
    missing = [token for token in _SPECIAL_TOKENS if token not in pieces]
    if missing:
        raise InputError(f"vocab.txt must list {', '.join(_SPECIAL_TOKENS)}; {path} lacks {', '.join(missing)}")
    tokenizer = Tokenizer(WordPiece(pieces, unk_token=_UNK))
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((_SEP, pieces[_SEP]), (_CLS, pieces[_CLS]))
    return tokenizer
