"""Where texts are cut: never a change of tiktoken's ids, and no large memory for one word."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reprogpt.encoding import split_points as cuts
from reprogpt.encoding.split_points import encode_long, encode_word, safe_cuts, stretches
from reprogpt.errors import ConfigError
from reprogpt.tokens.tokenizers import gpt2_tokenizer

PIECES = ["a", "word's", "'", "'s", "'ll", "''s", " 's", " ", "  ", "\n", "\n\n", "\r\n", "\t",
          "\u3000", "\xa0", "\x1c", "\x85", "9", "42", "٣", "½", "日本", "。", "ー", "é",
          "e\u0301", "!", "...", "🙂", "\x00", "\x7f", "\ufeff", "ſ", "K", "ไทย", "กำ", "𝕏"]
TEXTS = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]),
                 max_size=40).map("".join)


def oracle(text: str) -> list[int]:
    return gpt2_tokenizer().encoding.encode_ordinary(text)


def parts(data: bytes, places) -> list[str]:
    edges = [0, *places, len(data)]
    return [data[a:b].decode() for a, b in itertools.pairwise(edges)]


@settings(max_examples=200, deadline=None)
@given(TEXTS)
@example("x's")
@example("x''s")
@example("x\n\n's")
@example("x  's")
@example("x \n y")
def test_a_text_cut_at_every_safe_place_keeps_its_ids(text):
    data = text.encode()
    got = [i for part in parts(data, safe_cuts(data)) for i in oracle(part)]
    assert got == oracle(text)


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_a_safe_place_is_one_in_every_surrounding(before, text, after):
    data = text.encode()
    places = len(before.encode()) + safe_cuts(data)
    whole = before + text + after
    got = [i for part in parts(whole.encode(), places) for i in oracle(part)]
    assert got == oracle(whole)


WORDS = {
    "one letter": lambda rng, n: "a" * n,
    "two letters": lambda rng, n: "ab" * (n // 2),
    "letters": lambda rng, n: "".join(rng.choices("etaoinshrdlu", k=n)),
    "a genome": lambda rng, n: "".join(rng.choices("ACGT", k=n)),
    "digits": lambda rng, n: "".join(rng.choices("0123456789", k=n)),
    "marks": lambda rng, n: "".join(rng.choices("-=_.*#'", k=n)),
    "one mark": lambda rng, n: "=" * n,
    "apostrophes": lambda rng, n: "'" * n,
    "spaces": lambda rng, n: " " * n,
    "white space": lambda rng, n: "".join(rng.choices(" \n\t\r\u3000", k=n)),
    "Han": lambda rng, n: "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(n // 3)),
    "accents": lambda rng, n: "".join(rng.choices("éàöñabc", k=n)),
    "emoji": lambda rng, n: "".join(rng.choices("🙂👍🎉\u200d\ufe0f", k=n // 4)),
    "words joined": lambda rng, n: "".join(rng.choices(
        ["international", "ization", "the", "hello", "un", "able"], k=n // 6)),
}


@pytest.mark.parametrize("kind", WORDS)
def test_a_word_encoded_in_windows_has_its_ids(kind):
    rng = random.Random(kind)
    for window, head in ((512, "'ll"), (640, " "), (1000, "\n'll"), (1500, "")):
        word = WORDS[kind](rng, 6000)
        if word[0].isalpha():
            word = head + word
        data = word.encode()
        found = list(encode_word(lambda a, b, data=data: data[a:b], 0, len(data), window))
        assert len(found) >= len(data) // window
        assert np.concatenate([ids for _, ids in found]).tolist() == oracle(word)
        # Each place is one where the word may be cut for good: sides by themselves, same ids.
        for place, _ in rng.sample(found[:-1], 2):
            left, right = data[:place].decode(), data[place:].decode()
            assert oracle(left) + oracle(right) == oracle(word)


@settings(max_examples=100, deadline=None)
@given(st.text("abcdef", min_size=2, max_size=9) | st.text("'-=.", min_size=2, max_size=9)
       | st.text("日本語中文", min_size=1, max_size=9)
       | st.lists(st.sampled_from(["the", "ing", "er", "on", "x"]), min_size=1).map("".join),
       st.integers(0, 99))
def test_any_word_in_windows(pattern, rest):
    word = pattern * (1500 // len(pattern)) + pattern[:rest]
    data = word.encode()
    found = [i for _, ids in encode_word(lambda a, b: data[a:b], 0, len(data), 512) for i in ids]
    assert found == oracle(word)


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=st.lists(st.tuples(st.sampled_from(["a", "xyz", " ", "\n", "7", "=", "'", "日", " the",
                                                "it's"]), st.integers(1, 2000)),
                     min_size=1, max_size=8), size=st.integers(1, 500))
def test_stretches_of_any_text_keep_its_ids(tmp_path, monkeypatch, runs, size):
    text = "".join(word * times for word, times in runs)
    monkeypatch.setattr(cuts, "WINDOW", 512)
    path = tmp_path / "text"
    path.write_bytes(b"before" + text.encode() + b"after")
    begin, end = 6, 6 + len(text.encode())
    with path.open("rb") as file:
        ends = list(stretches(file.fileno(), begin, end, size))
        anywhere = list(stretches(file.fileno(), begin, end, size, words=False))
    assert ends[-1] == anywhere[-1] == end
    got = [oracle(part) for part in parts(text.encode(), [e - begin for e in ends[:-1]])]
    assert [i for ids in got for i in ids] == oracle(text)
    assert "".join(parts(text.encode(), [e - begin for e in anywhere[:-1]])) == text
    assert max(np.diff([begin, *anywhere])) < size + 4


def test_long_text_of_words_and_runs_in_windows(monkeypatch):
    monkeypatch.setattr(cuts, "WINDOW", 512)
    rng = random.Random(0)
    for _ in range(8):
        text = "".join(WORDS[kind](rng, rng.randrange(1, 2000)) for kind in rng.choices(list(WORDS),
                                                                                     k=5))
        assert encode_long(text.encode()).tolist() == oracle(text)


def test_a_word_that_cannot_be_cut_is_named_or_encoded_whole(tmp_path, monkeypatch):
    """No word is known whose windows share no token; here none of them is taken for shared."""
    monkeypatch.setattr(cuts, "WINDOW", 512)
    monkeypatch.setattr(cuts, "_whole", lambda read, position: False)
    assert encode_long(b"abc" * 999).tolist() == oracle("abc" * 999)
    path = tmp_path / "text"
    path.write_bytes(b"abc" * 999)

    def cut_it(path: Path) -> None:
        with path.open("rb") as file:
            list(stretches(file.fileno(), 0, 2997, 600))

    with pytest.raises(ConfigError, match=r"word of 2997 bytes at byte 0 cannot be cut .*; put"):
        cut_it(path)
