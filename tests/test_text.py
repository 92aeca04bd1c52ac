import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import checkpoints
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from fedjax_paradox.data import subwords
from fedjax_paradox.data.subwords import encode_subwords, load_tokenizer
from fedjax_paradox.data.text import build_vocabulary, encode_words, split_words
from fedjax_paradox.errors import InputError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [
    "the",
    "quick",
    "cafe",
    "##s",
    "un",
    "##aff",
    "##able",
    "中",
    "国",
    "!",
    ",",
    ".",
    "'",
    "don",
    "t",
    "#",
    "36",
]
TRICKY = [
    "The QUICK cafés!",
    "Un\u0301affable, unaffable unaffables",
    "naïve CAFÉ cafe\u0301",
    "中国the中",
    "don't... #36;the \\the",
    "tab\tnew\nline\r\n nbsp\u00a0the zero\u200bwidth \ufeff bell\x07the \ufffd",
    " ",
    "!",
    "🙂 the 🙂",
    "İstanbul ẞ Σίσυφος ﬁ",
    "literal [SEP] and [PAD] and [MASK] [sep]",
    "a" * 300,
    "the " * 50,
]


def write_vocabulary(folder: Path, tokens: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), "utf-8")
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_vocabulary(tmp_path / "checkpoint", SPECIAL + PIECES)


@given(st.text())
def test_split_words_is_the_published_rule_character_by_character(written):
    kept = "".join(c if c in "abcdefghijklmnopqrstuvwxyz" else " " for c in written.lower())
    assert split_words(written) == kept.split()


def test_split_words_example():
    assert split_words("Oil at $50.2\\barrel: it's UP—naïve") == [
        "oil",
        "at",
        "barrel",
        "it",
        "s",
        "up",
        "na",
        "ve",
    ]


def test_vocabulary_counts_padding_and_unknown_and_breaks_ties_by_first_occurrence():
    assert build_vocabulary(["b a a", "c d d b"], 5) == {"<pad>": 0, "<unk>": 1, "b": 2, "a": 3, "d": 4}
    assert len(build_vocabulary(["one two"], 20_000)) == 4


@given(st.lists(st.text("abc ", min_size=1), min_size=1), st.integers(3, 8))
def test_no_word_left_out_is_commoner_than_one_kept(texts, size):
    counts = Counter(word for text in texts for word in text.split())
    if not counts:
        return
    vocabulary = build_vocabulary(texts, size)
    kept = set(vocabulary) & set(counts)
    assert len(vocabulary) == min(size, len(counts) + 2)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert max([counts[w] for w in counts.keys() - kept], default=0) <= min(counts[w] for w in kept)


@pytest.mark.parametrize(("texts", "size", "rule"), [(["a"], 2, "size 2"), (["123 中国"], 9, "no word")])
def test_vocabulary_without_words_is_refused(texts, size, rule):
    with pytest.raises(InputError, match=rule):
        build_vocabulary(texts, size)


def test_words_are_cut_and_padded():
    vocabulary = build_vocabulary(["a b"], 4)
    tokens = encode_words(["b a zebra a", "a", "1984"], vocabulary, 3)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, [[3, 2, 1], [2, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("length", [3, 16, 64])
@pytest.mark.parametrize("source", ["vocab.txt", "tokenizer.json"])
def test_wordpiece_equals_transformers(folder, source, length):
    reference = BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True)
    if source == "tokenizer.json":
        reference.backend_tokenizer.save(str(folder / source))
        (folder / "vocab.txt").unlink()
    tokens = encode_subwords(TRICKY, load_tokenizer(folder), length)
    expected = reference(TRICKY, padding="max_length", truncation=True, max_length=length)["input_ids"]
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, expected)


def test_wordpiece_by_hand(folder):
    tokens = encode_subwords(["The cafés zebra!"], load_tokenizer(folder), 8)
    the, cafe, s, mark = (len(SPECIAL) + PIECES.index(piece) for piece in ("the", "cafe", "##s", "!"))
    np.testing.assert_array_equal(tokens, [[2, the, cafe, s, 1, mark, 3, 0]])


def test_stored_padding_and_truncation_are_ignored_and_the_tokenizer_is_left_alone(folder):
    stored = load_tokenizer(folder)
    plain = encode_subwords(TRICKY, stored, 40)
    assert stored.padding is None
    assert stored.truncation is None
    stored.enable_truncation(5)
    stored.enable_padding(length=7, pad_id=1, pad_token=SPECIAL[1], direction="left")
    stored.save(str(folder / "tokenizer.json"))
    np.testing.assert_array_equal(encode_subwords(TRICKY, load_tokenizer(folder), 40), plain)


def test_no_texts(folder):
    assert encode_subwords([], load_tokenizer(folder), 8).shape == (0, 8)


def test_padding_of_another_id_changes_places_with_zero(tmp_path):
    tokenizer = load_tokenizer(write_vocabulary(tmp_path, ["the", *SPECIAL]))
    # By its ids [CLS] the [SEP] [PAD] is 3 0 4 1.
    np.testing.assert_array_equal(encode_subwords(["the"], tokenizer, 4), [[3, 1, 4, 0]])


@pytest.mark.parametrize("kind", ["byte_level", "unigram"])
def test_bytes_and_sentence_pieces_equal_transformers_with_padding_and_zero_exchanged(tmp_path, kind):
    tokenizer = getattr(checkpoints, kind)([*TRICKY, "the quick brown fox jumps over the lazy dog"] * 20)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    reference = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")  # noqa: S106
    tokens = encode_subwords(TRICKY, load_tokenizer(tmp_path), 16)
    expected = np.array(reference(TRICKY, padding="max_length", truncation=True, max_length=16)["input_ids"])
    np.testing.assert_array_equal(tokens != 0, expected != 1)
    np.testing.assert_array_equal(tokens[:, 0], 1)  # <s>, whose id is 0
    others = expected > 1
    np.testing.assert_array_equal(tokens[others], expected[others])


def test_older_files_are_read_as_transformers_reads_them(tmp_path):
    """vocab.json and merges.txt, without a tokenizer.json."""
    tokenizer = checkpoints.byte_level(TRICKY * 20)
    tokenizer.model.save(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(checkpoints.random_config("roberta")))
    expected = encode_subwords(TRICKY, tokenizer, 16)
    np.testing.assert_array_equal(encode_subwords(TRICKY, load_tokenizer(tmp_path), 16), expected)


def test_a_cased_vocabulary_is_read_as_its_config_says(folder):
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, "the", "The"]))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    )
    np.testing.assert_array_equal(encode_subwords(["The the"], load_tokenizer(folder), 4), [[2, 6, 5, 3]])


def test_the_tokenizer_must_pad_as_the_config_says(folder):
    (folder / "config.json").write_text(json.dumps({"pad_token_id": 1}))
    with pytest.raises(InputError, match=r"pad_token_id=1, the tokenizer beside it pads with 0"):
        load_tokenizer(folder)


def test_a_tokenizer_needs_a_token_for_padding(tmp_path):
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})
    )
    with pytest.raises(InputError, match=r"padding, \[PAD\] or <pad>"):
        load_tokenizer(tmp_path)


def test_frame_must_be_cls_and_sep(folder):
    tokenizer = load_tokenizer(folder)
    bare = type(tokenizer)(tokenizer.model)
    with pytest.raises(InputError, match=r"\[CLS\] \.\.\. \[SEP\]"):
        encode_subwords(["the"], bare, 8)


def test_length_must_hold_the_frame(folder):
    with pytest.raises(InputError, match="length 2"):
        encode_subwords(["the"], load_tokenizer(folder), 2)


def test_folder_without_tokenizer(tmp_path):
    with pytest.raises(InputError, match=r"tokenizer.json or vocab.txt"):
        load_tokenizer(tmp_path)


def test_vocabulary_without_special_tokens(tmp_path):
    with pytest.raises(InputError, match=r"lacks \[MASK\]"):
        load_tokenizer(write_vocabulary(tmp_path, [*SPECIAL[:-1], "the"]))


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("{", "not a tokenizer.json"),
        ("[]", "not a tokenizer.json"),
        (json.dumps({"model": {"type": "BPE"}}), "no tokenizer that works"),
    ],
)
def test_foreign_tokenizer_json(tmp_path, content, rule):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=rule):
        load_tokenizer(tmp_path)


def damaged_tokenizers() -> dict[str, bytes]:
    """Files in place of a tokenizer.json that once was right."""
    tokens = [*SPECIAL, *PIECES]
    good = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: i for i, token in enumerate(tokens)},
        },
    }
    whole = json.dumps(good).encode()
    model = good["model"]
    return {
        "truncated": whole[: len(whole) // 2],
        "empty": b"{}",
        "deep": b"[" * 100_000,
        "bytes": b"\xff" * 9,
        "model alone": json.dumps({"model": {"type": "WordPiece"}}).encode(),
        "vocabulary a list": json.dumps(good | {"model": model | {"vocab": tokens}}).encode(),
        "ids that are texts": json.dumps(good | {"model": model | {"vocab": dict.fromkeys(tokens, "x")}}).encode(),
        "ids below zero": json.dumps(good | {"model": model | {"vocab": dict.fromkeys(tokens, -1)}}).encode(),
        "ids beyond 31 bits": json.dumps(
            good | {"model": model | {"vocab": model["vocab"] | {"the": 2**32 - 1}}}
        ).encode(),
        "no unknown": json.dumps(good | {"model": model | {"unk_token": "[NONE]"}}).encode(),
        "unknown frame": json.dumps(good | {"post_processor": {"type": "Six"}}).encode(),
        "huge padding": json.dumps(good | {"padding": 10**9}).encode(),
    }


@pytest.mark.parametrize("kind", list(damaged_tokenizers()))
def test_a_broken_tokenizer_is_an_input_error_in_one_line(tmp_path, kind):
    (tmp_path / "tokenizer.json").write_bytes(damaged_tokenizers()[kind])
    with pytest.raises(InputError, match="tokenizer") as caught:
        encode_subwords(["the quick zebra"], load_tokenizer(tmp_path), 8)
    assert "\n" not in str(caught.value)


def test_a_panic_of_the_tokenizer_library_is_an_input_error(folder, monkeypatch):
    class PanicException(BaseException):
        """What Rust raises; no Exception."""

    def panic(_path):
        raise PanicException("index out of bounds")

    load_tokenizer(folder).save(str(folder / "tokenizer.json"))
    monkeypatch.setattr(subwords, "Tokenizer", SimpleNamespace(from_file=panic))
    with pytest.raises(InputError, match=r"no tokenizer that works \(index out of bounds\)"):
        load_tokenizer(folder)


def test_a_vocabulary_that_repeats_a_piece(tmp_path):
    tokens = [*SPECIAL, "the", "quick", "the", "quick"]
    with pytest.raises(InputError, match="has 'the' in the lines 6 and 8"):
        load_tokenizer(write_vocabulary(tmp_path, tokens))


def test_a_vocabulary_that_is_not_utf8(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\n".join([*SPECIAL, "café"]).encode("latin1"))
    with pytest.raises(InputError, match=r"vocab.txt is no tokenizer that works .*utf-8"):
        load_tokenizer(tmp_path)


def test_a_folder_in_place_of_the_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(InputError, match=r"tokenizer.json or vocab.txt"):
        load_tokenizer(tmp_path)
