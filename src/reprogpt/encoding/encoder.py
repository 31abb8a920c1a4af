"""Encoders: UTF-8 text to the ids of a byte pair encoding, by gigatoken or by tiktoken.

tiktoken's `encode_ordinary` defines the ids. gigatoken gives the same some thirty times faster, and
is used only after both agree on odd texts and on a sample of the corpus.
"""

import base64
import functools
import itertools
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from reprogpt.errors import ConfigError
from reprogpt.storage.files import naming
from reprogpt.tokens.tokenizers import BpeTokenizer

Encode = Callable[[bytes], np.ndarray]
"""UTF-8 text to its ids (n,)."""

# Texts on which BPE implementations have been seen to differ.
ODD_TEXTS = (
    "", "\n", "\r\n\r\n ", "a  b   c\n\n\nd \t e\u00a0\u3000f   ", "\x1c \x85\u2028x",
    "I'll say it's we've THEY'RE don'ts 'tis ''s ' '", "3.14159 1,000,000 \u0663 x2y3z \u2167",
    "中文分词、日本語のテキスト。한국어 ภาษาไทย", "中文分词" * 2000, "<|endoftext|> is text here",
    "e\u0301 \u0915\u094d\u0937 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001d54f",
    "\x00\x01\x7f\ufeff\ufffd\u200b", "a" * 200_000, " " * 5000 + "x", "-" * 5000,
    "1234567890" * 500, "\u088f'll \U000323b0\U000323b0a",
)

# Letters and numbers of Unicode 17, which gigatoken 0.10 knows and tiktoken 0.14 does not: first
# bytes of their UTF-8 forms (those of some other rare characters too). Such texts go to tiktoken.
_NEW_LEADS = (b"\xe0", b"\xea", b"\xf0")
_NEW_CHARACTERS = re.compile(
    rb"\xe0(?:\xa2\x8f|\xb1\x9c|\xb3\x9c)|\xea\x9f[\x8e-\xb1]|\xf0(?:\x90[\xa5\xbb]|\x91[\xb6\xb7]|"
    rb"\x96[\xba\xbb\xbf]|\x98[\x9f\xb4\xb6\xb7]|\x9e\x9b|\xab\x9c|\xac\xba|[\xb2\xb3])")


def tiktoken_ids(tokenizer: BpeTokenizer, text: bytes) -> np.ndarray:
    return tokenizer.encode(text.decode("utf-8"))


def gigatoken_ids(tokenizer: BpeTokenizer, text: bytes) -> np.ndarray:
    """The ids (n,) uint32 by gigatoken, or by tiktoken where the two would differ."""
    rare = not text.isascii() and any(lead in text for lead in _NEW_LEADS)
    return (tiktoken_ids(tokenizer, text) if rare and _NEW_CHARACTERS.search(text) else
            _gigatoken(tokenizer)(text))


def choose_encoder(choice: str, tokenizer: BpeTokenizer, sample: Iterable[bytes]) -> str:
    """The encoder for a corpus: gigatoken, or tiktoken where that is absent or differs.

    ``choice`` is runtime.encoder; ``sample`` has texts of the corpus. Raises ConfigError when
    gigatoken is asked for and cannot be used.
    """
    if choice == "tiktoken":
        return choice
    try:
        texts = itertools.chain(map(str.encode, ODD_TEXTS), sample)
        good = all(_agrees(tokenizer, text) for text in texts)
        problem = "" if good else "gives other ids than tiktoken"
    except ImportError:
        problem = "is not installed"
    if problem and choice == "gigatoken":
        raise ConfigError(f"params.yaml: runtime.encoder='gigatoken' {problem}; set it to auto, or "
                          "install the gigatoken that pyproject.toml names")
    if problem:
        print(f"gigatoken {problem}: encoding with tiktoken, which is slower", file=sys.stderr)
    return "tiktoken" if problem else "gigatoken"


@functools.cache
def _gigatoken(tokenizer: BpeTokenizer) -> Encode:
    """gigatoken's encoder from the ranks alone: without added tokens no text is special. Raises
    ImportError where gigatoken is not installed."""
    from gigatoken.gigatoken_rs import BPETokenizer

    with tempfile.NamedTemporaryFile() as file, naming(Path(file.name)):
        file.write(b"".join(base64.b64encode(token) + b" %d\n" % rank
                            for token, rank in tokenizer.ranks.items()))
        file.flush()
        encode: Encode = BPETokenizer.from_tiktoken(file.name, "gpt2", {}).encode
    return encode


@functools.cache  # each odd text is encoded once in a process
def _agrees(tokenizer: BpeTokenizer, text: bytes) -> bool:
    return np.array_equal(gigatoken_ids(tokenizer, text), tiktoken_ids(tokenizer, text))
