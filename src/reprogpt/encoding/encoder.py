"""The fastest encoder at hand that gives tiktoken's ids."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from reprogpt.encoding.split_points import encode_long
from reprogpt.encoding.word_cache import WordTable
from reprogpt.tokens.tokenizers import (
    EOT,
    GPT2_EOT,
    WORDS,
    Gpt2Tokenizer,
    code_points,
    gpt2_tokenizer,
    join_surrogates,
)

Encode = Callable[[str], np.ndarray]
Batch = Callable[[bytes, np.ndarray, bool], tuple[np.ndarray, np.ndarray]]

# Texts on which encoders that differ have been seen to differ: contractions, runs of white space,
# digits, scripts without spaces, combining marks, emoji, control characters, the special token.
_SAMPLE = (
    "I'll say it's we've THEY'RE don'ts 'tis ''s ' '", "a  b   c\n\n\nd \t e\u00a0\u3000f   ",
    "3.14159 1,000,000 \u0663\u0664 x2y3z", "中文分词、日本語のテキスト。한국어 ภาษาไทย",
    "e\u0301 \u0915\u094d\u0937 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001d54f",
    "\x00\x01\x7f\ufeff\ufffd<|endoftext|>", "hello" * 300, " " * 300 + "x", "", "\n", "\r\n\r\n ",
)


@dataclass(frozen=True)
class Encoder:
    """``text(s)`` gives the ids of a text; ``batch(data, ends, eot)`` those of the documents that
    end at bytes ``ends`` of ``data`` in a row, each after <|endoftext|> if ``eot``, and their
    numbers; ``fingerprint`` says which ids these are."""

    text: Encode
    batch: Batch
    fingerprint: str


@functools.cache
def encoder(encoding: str, choice: str = "auto") -> Encoder:
    """The encoder for an encoding.

    char gives code points (n,) uint32. For gpt2, words are encoded by tiktoken; or, where
    ``choice`` is auto and it is installed and agrees with tiktoken on a sample, by riptoken. With
    ``choice`` riptoken it is an error if that cannot be had.
    """
    if encoding == "char":
        return Encoder(code_points, _one_by_one(code_points), "code points")
    tokenizer = gpt2_tokenizer()
    words: Callable[[str], Iterable[int]] = tokenizer.encoding.encode_ordinary
    text = tokenizer.encode
    if choice != "tiktoken":
        fast = _riptoken(tokenizer)
        if fast is not None and _agrees(lambda t: np.array(fast(t), np.uint16), tokenizer):
            words = fast
        elif choice == "riptoken":
            problem = "is not installed" if fast is None else "gives other ids than tiktoken"
            raise ValueError(f"params.yaml: runtime.encoder='riptoken' {problem}; "
                             "set it to auto, or install riptoken")
    # Private, but all of tiktoken's encode_ordinary without the search for words; without it (or
    # if it changed) the table would be slower, or refused below.
    merge = getattr(tokenizer.encoding, "_encode_single_piece", None)
    table = WordTable(words, GPT2_EOT, encode_word=merge, encode_long=encode_long)
    # The table knows GPT-2's pattern; were tiktoken's to change, it would be noticed here.
    good = _agrees(lambda t: table.encode(*_as_batch(t), False)[0], tokenizer)
    return Encoder(text, table.encode if good else _one_by_one(text), tokenizer.fingerprint)


def _as_batch(text: str) -> tuple[bytes, np.ndarray]:
    data = text.encode("utf-8")
    return data, np.array([len(data)])


def _one_by_one(encode: Encode) -> Batch:
    def batch(data: bytes, ends: np.ndarray, eot: bool) -> tuple[np.ndarray, np.ndarray]:
        chunks, counts, start = [], [], 0
        for end in ends.tolist():
            ids = encode(data[start:end].decode("utf-8"))
            if eot and end > start:
                ids = np.concatenate((np.array([GPT2_EOT], ids.dtype), ids))
            chunks.append(ids)
            counts.append(len(ids))
            start = end
        return np.concatenate(chunks), np.array(counts, np.int64)

    return batch


def _agrees(encode: Encode, tokenizer: Gpt2Tokenizer) -> bool:
    return all(np.array_equal(encode(text), tokenizer.encode(text)) for text in _SAMPLE)


def _riptoken(tokenizer: Gpt2Tokenizer) -> Callable[[str], list[int]] | None:
    try:
        from riptoken import CoreBPE
    except ImportError:
        return None
    core = CoreBPE(tokenizer.ranks, {EOT: GPT2_EOT}, WORDS)

    def encode(text: str) -> list[int]:
        try:
            return core.encode_ordinary(text)
        except UnicodeEncodeError:
            return core.encode_ordinary(join_surrogates(text))

    return encode
