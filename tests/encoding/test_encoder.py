"""Encoders against tiktoken's `encode_ordinary`, as tiktoken itself builds it."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reprogpt.encoding import encoder
from reprogpt.encoding.encoder import ODD_TEXTS, choose_encoder, gigatoken_ids, tiktoken_ids
from reprogpt.errors import ConfigError
from reprogpt.tokens.tokenizers import gpt2_tokenizer

GPT2 = gpt2_tokenizer()
PARTS = ["a", "word's", "'", "'s", "'ll", "''s", " 's", "'S", " ", "  ", "\n", "\n\n", "\r\n",
         "\t", "\u3000", "\xa0", "\x1c", "\x85", "\u2028", "9", "42", "٣", "½", "Ⅷ", "日本", "。",
         "ー", "é", "e\u0301", "!", "...", "🙂", "\x00", "\x7f", "\ufeff", "ſ", "K", "ไทย", "กำ",
         "𝕏", "x" * 40,
         "<|endoftext|>", "-" * 20, " " * 20, "\ufffd"]


@pytest.fixture(autouse=True)
def fresh_checks():
    caches = encoder._agrees, encoder._gigatoken
    yield
    for cached in caches:
        cached.cache_clear()


def oracle(text: str) -> list[int]:
    return GPT2.encoding.encode_ordinary(text)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PARTS) | st.characters(exclude_categories=["Cs"]), max_size=40)
       .map("".join))
@example("\u088f'll")
def test_any_text_has_tiktokens_ids(text):
    pytest.importorskip("gigatoken")
    assert gigatoken_ids(GPT2, text.encode()).tolist() == oracle(text)
    assert tiktoken_ids(GPT2, text.encode()).tolist() == oracle(text)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*PARTS, "the", "ing", "acgt", "00"]),
                          st.integers(1, 300)), max_size=5))
def test_long_runs_have_tiktokens_ids(runs):
    pytest.importorskip("gigatoken")
    text = "".join(part * times for part, times in runs)
    assert gigatoken_ids(GPT2, text.encode()).tolist() == oracle(text)


@pytest.mark.slow
@pytest.mark.parametrize("around", ["a{}'ll", "1{}x", " {}", "!{}!"])
def test_every_character_is_of_tiktokens_kind(around):
    """Letter, number, white space or other: in one of these places a difference shows. Those that
    gigatoken takes otherwise go to tiktoken."""
    pytest.importorskip("gigatoken")
    same = [c for c in map(chr, [*range(0xD800), *range(0xE000, 0x110000)])
            if not encoder._NEW_CHARACTERS.search(c.encode())]
    assert len(same) > 1_050_000
    for start in range(0, len(same), 4096):
        text = "\n".join(around.format(c) for c in same[start:start + 4096])
        found = encoder._gigatoken(GPT2)(text.encode()).tolist()
        assert found == oracle(text), hex(ord(same[start]))


def test_auto_is_gigatoken_where_it_agrees():
    pytest.importorskip("gigatoken")
    sample = [b"To be, or not to be", "naïve 日本語".encode()]
    assert choose_encoder("auto", GPT2, sample) == "gigatoken"
    assert choose_encoder("gigatoken", GPT2, sample) == "gigatoken"
    assert choose_encoder("tiktoken", GPT2, sample) == "tiktoken"
    assert "<|endoftext|>" in "".join(ODD_TEXTS)  # which without added tokens is text


@pytest.mark.parametrize("wrong", [b"a" * 200_000, b"only this corpus"])
def test_an_encoder_that_differs_is_not_used(monkeypatch, capsys, wrong):
    pytest.importorskip("gigatoken")
    real = encoder._gigatoken(GPT2)
    encoder._agrees.cache_clear()
    monkeypatch.setattr(encoder, "_gigatoken", lambda _: lambda text: (
        np.array([0]) if text == wrong else real(text)))
    assert choose_encoder("auto", GPT2, [b"fine", b"only this corpus"]) == "tiktoken"
    assert "gigatoken gives other ids" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"runtime.encoder='gigatoken' gives other.*set it to"):
        choose_encoder("gigatoken", GPT2, [b"fine", b"only this corpus"])


def test_without_gigatoken_tiktoken_encodes(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "gigatoken.gigatoken_rs", None)
    encoder._gigatoken.cache_clear()
    encoder._agrees.cache_clear()
    assert choose_encoder("auto", GPT2, [b"text"]) == "tiktoken"
    assert "gigatoken is not installed" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"runtime.encoder='gigatoken' is not installed.*install"):
        choose_encoder("gigatoken", GPT2, [b"text"])
