"""From text to the token ids of a pretrained encoder, by the tokenizer of its checkpoint folder."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from fedjax_paradox.errors import InputError
from fedjax_paradox.text import printable

# Files that define a tokenizer; the first that is there decides.
FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
# What all but the first leave to others.
_BESIDE = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_PAD, _UNK, _CLS, _SEP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
_BERT = (_PAD, _UNK, _CLS, _SEP, "[MASK]")
# How BERT's and RoBERTa's pad and frame a text.
_FRAMES = {_PAD: [_CLS, _SEP], "<pad>": ["<s>", "</s>"]}
_BATCH = 10_000  # texts tokenised at once: bounds the memory that the tokenizer's records take


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder, with neither padding nor truncation.

    `tokenizer.json` is read as it is (its stored padding and truncation belong to another length), a lone `vocab.txt`
    as BERT uncased, and what older checkpoints have by `transformers.AutoTokenizer`. Raises InputError if the folder
    has none of `FILES`, or one that does not work or does not pad as config.json says.
    """
    path = tokenizer_files(folder)[0]
    with _refusing(path):
        tokenizer = _read(path)
        tokenizer.no_padding()
        tokenizer.no_truncation()
    _check_padding(folder, tokenizer)
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


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that define the tokenizer of a checkpoint folder, the main one first; InputError if there is none."""
    for name in FILES:
        if (folder / name).is_file():
            beside = () if name == FILES[0] else _BESIDE
            return [folder / name, *(path for other in beside if (path := folder / other).is_file())]
    raise InputError(
        f"a checkpoint folder needs tokenizer.json or vocab.txt, {folder} has neither: copy one there or "
        "point to the folder that was downloaded whole"
    )


def encode_subwords(texts: Sequence[str], tokenizer: Tokenizer, length: int) -> np.ndarray:
    """tokens: i32[N, length]; a text's pieces between the first and the last special token, cut to `length`, padded.

    Models take `tokens != 0` as their attention mask: where padding has another id, it changes places with 0, as in
    `pretrained.load_checkpoint`. Raises InputError if the tokenizer does not frame a text as BERT's or RoBERTa's, or if
    `length` leaves no room within the frame.
    """
    if length < 3:
        raise InputError(f"two of the tokens frame a text: length {length}, use 3 or more")
    with _refusing("the checkpoint's tokenizer"):
        padding = _padding(tokenizer)
        _check_frame(tokenizer)
        own = Tokenizer.from_str(tokenizer.to_str())
        own.enable_truncation(length)
        own.enable_padding(length=length, pad_id=padding, pad_token=tokenizer.id_to_token(padding))
        tokens = np.empty((len(texts), length), np.int32)
        for start in range(0, len(texts), _BATCH):
            batch = own.encode_batch_fast(list(texts[start : start + _BATCH]))
            tokens[start : start + _BATCH] = [encoding.ids for encoding in batch]
    return np.select([tokens == padding, tokens == 0], [0, padding], tokens) if padding else tokens


def _padding(tokenizer: Tokenizer) -> int:
    found = [number for name in _FRAMES if (number := tokenizer.token_to_id(name)) is not None]
    if not found:
        raise InputError(
            f"a tokenizer needs a token for padding, {' or '.join(_FRAMES)}; use a BERT or RoBERTa checkpoint"
        )
    return found[0]


def _check_frame(tokenizer: Tokenizer) -> None:
    frame, known = tokenizer.encode("").tokens, list(_FRAMES.values())
    if frame not in known:
        told = " or ".join(" ... ".join(each) for each in known)
        raise InputError(f"a text must become {told}, this tokenizer frames it by {frame}; use BERT's or RoBERTa's")


def _check_padding(folder: Path, tokenizer: Tokenizer) -> None:
    path, padding = folder / "config.json", _padding(tokenizer)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))["pad_token_id"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return  # it says nothing; whether it is as it must be shows where the model is read
    if said not in (padding, None):
        raise InputError(
            f"{path} says pad_token_id={said!r:.80}, the tokenizer beside it pads with {padding}; use the tokenizer "
            "that was published with the weights"
        )


def _read(path: Path) -> Tokenizer:
    if path.name == "tokenizer.json":
        return _from_json(path)
    if path.name == "vocab.txt" and not (path.parent / "tokenizer_config.json").is_file():
        return _from_vocabulary(path)
    from transformers import AutoTokenizer  # takes seconds, and most checkpoints have a tokenizer.json

    made: Any = AutoTokenizer.from_pretrained(path.parent, local_files_only=True, trust_remote_code=False)
    return Tokenizer.from_str(made.backend_tokenizer.to_str())


def _from_json(path: Path) -> Tokenizer:
    try:
        json.loads(path.read_text("utf-8"))["model"]["type"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a tokenizer.json ({error!r:.200}): download it again") from error
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
    missing = [token for token in _BERT if token not in pieces]
    if missing:
        raise InputError(f"vocab.txt must list {', '.join(_BERT)}; {path} lacks {', '.join(missing)}")
    tokenizer = Tokenizer(WordPiece(pieces, unk_token=_UNK))
    tokenizer.add_special_tokens(list(_BERT))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((_SEP, pieces[_SEP]), (_CLS, pieces[_CLS]))
    return tokenizer
