"""The word table against tiktoken: the same ids for every batch of documents."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprogpt.encoding.word_cache import WordTable
from reprogpt.tokens.tokenizers import GPT2_EOT, gpt2_tokenizer

PARTS = ["a", "word's", "'", "s", "'s", "'ll", "'re", "'ve", "'d", " ", "  ", "\n", "\r\n",
         "\u3000", "\xa0", "\x1c", "\x85", "9", "42", "日本", "。", "é", "e\u0301", "!", "...",
         "🙂", "\t", "x" * 15, "x" * 16, "x" * 40, "\x00", "\x7f", "don't", "I'll", "Th'Re", "''s",
         " 's", "’s", "<|endoftext|>", "\x0b", "-" * 20, " " * 20, "\ufeff", "ÿ"]


def expected(documents, eot=True):
    encode = gpt2_tokenizer().encoding.encode_ordinary
    return [[GPT2_EOT] * eot + encode(text) if text else [] for text in documents]


def encoded(table, documents, eot=True):
    data = [text.encode() for text in documents]
    ids, counts = table.encode(b"".join(data), np.cumsum([len(d) for d in data]), eot)
    assert ids.dtype == np.uint16
    return [part.tolist() for part in np.split(ids, np.cumsum(counts)[:-1])]


@pytest.fixture(scope="module")
def table():
    return WordTable(gpt2_tokenizer().encoding.encode_ordinary, GPT2_EOT)


@settings(max_examples=300, deadline=None)
@given(documents=st.lists(st.lists(st.sampled_from(PARTS), max_size=12).map("".join), min_size=1,
                          max_size=5), eot=st.booleans())
def test_words_are_gpt2s(table, documents, eot):
    assert encoded(table, documents, eot) == expected(documents, eot)


@settings(max_examples=200, deadline=None)
@given(documents=st.lists(st.text(max_size=80), min_size=1, max_size=4))
def test_any_text(table, documents):
    assert encoded(table, documents) == expected(documents)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_table_that_overflows_stays_exact(bits):
    small = WordTable(gpt2_tokenizer().encoding.encode_ordinary, GPT2_EOT, bits)
    rng = random.Random(0)
    for _ in range(30):
        documents = ["".join(rng.choices(PARTS, k=rng.randrange(40))) for _ in range(3)]
        documents.append(" ".join(f"word{rng.randrange(10**6)}" for _ in range(20)))
        assert encoded(small, documents) == expected(documents)


def test_words_with_one_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(WordTable, "_mix", lambda self, low, high: np.zeros_like(low))
    table = WordTable(gpt2_tokenizer().encoding.encode_ordinary, GPT2_EOT)
    documents = ["one two three four five six seven", "seven six five"]
    assert encoded(table, documents) == expected(documents)
    assert encoded(table, documents) == expected(documents)


def test_long_stretches_and_nothing_at_all(table):
    documents = ["", "日本語のテキスト" * 2000, "", "é" * 5000 + " ok", "x" * 100_000, ""]
    assert encoded(table, documents) == expected(documents)
    ids, counts = table.encode(b"", np.array([], np.int64), True)
    assert len(ids) == len(counts) == 0
