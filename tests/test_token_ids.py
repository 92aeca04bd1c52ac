"""Tokens and the table that they are looked up in, and tokens and the memory that must hold them."""

import dataclasses
import time

import numpy as np
import pytest

from fedjax_paradox.data.corpus import Corpus, Texts, check_token_ids, subword_corpus, word_corpus
from fedjax_paradox.errors import InputError

TEXTS = Texts("tiny", ["a b", "b", "c a"], np.zeros(3, np.int32), ["c"], np.zeros(1, np.int32), ("x",), "f")


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    found = subword_corpus(TEXTS, tmp_path, 4, tmp_path / "cache")
    np.testing.assert_array_equal(found.train_tokens, [[2, 5, 6, 3], [2, 6, 3, 0], [2, 7, 5, 3]])
    return found


def test_ids_within_the_table_pass(corpus):
    check_token_ids(corpus, 8)


def test_an_id_beyond_the_table_is_told_with_row_and_token(corpus):
    with pytest.raises(
        InputError, match=r"0\.\.6.*token 2 of train row 3 of tiny \(counted from 1\) is 7, the first of 1;"
    ):
        check_token_ids(corpus, 7)
    test_only = dataclasses.replace(corpus, train_tokens=corpus.train_tokens[:2])
    with pytest.raises(InputError, match=r"token 2 of test row 1 of tiny .* is 7.*tokenizer that was published"):
        check_token_ids(test_only, 7)


@pytest.mark.parametrize("value", [-1, -(2**31), 2**31 - 1])
def test_ids_that_jax_would_wrap_or_clip(corpus, value):
    tokens = corpus.test_tokens.copy()
    tokens[0, 3] = value
    with pytest.raises(InputError, match=rf"token 4 of test row 1 .* is {value}, the first of 1"):
        check_token_ids(dataclasses.replace(corpus, test_tokens=tokens), 8)


@pytest.mark.parametrize("length", [10**12, 2**63])
def test_tokens_that_no_memory_holds_are_refused_with_the_length_that_fits(tmp_path, length):
    start = time.perf_counter()
    with pytest.raises(
        InputError, match=rf"tokens of 4 texts .* up to max_length (\d+), got {length}; lower"
    ) as caught:
        word_corpus(TEXTS, 5, length, tmp_path)
    assert time.perf_counter() - start < 1
    fits = int(str(caught.value).split("max_length ")[1].split(",")[0])
    assert 2**20 < fits < 10**12
