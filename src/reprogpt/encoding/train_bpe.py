"""A byte pair encoding trained on the training documents, by gigatoken.

The textbook algorithm: start from bytes, and again and again make the most frequent pair of
neighbors within a word one token (Gage, 1994; Sennrich et al., 2016). Words are those of GPT-2's
pattern. Of equally frequent pairs the one with the smaller ids comes first, as in Hugging Face's
`tokenizers`, whose merges are the same.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from reprogpt.encoding.chunks import Encoded, read_chunk
from reprogpt.errors import ConfigError
from reprogpt.tokens.tokenizers import BpeTokenizer, bpe_tokenizer

SAMPLE_BYTES = 256 << 20
"""The most text that a tokenizer is trained on, which bounds memory at about 1 GB."""
BYTES = 256
"""Ids of single bytes."""
_SEPARATOR = b"\xff"  # between documents; in no UTF-8 text


def train_bpe(text: bytes, vocab_size: int) -> BpeTokenizer:
    """The tokenizer of ``vocab_size`` ids, not counting <|endoftext|>, trained on documents that
    :func:`training_text` joined. Raises ConfigError when they give fewer."""
    try:
        from gigatoken.gigatoken_rs import pretokenized_counts
        from gigatoken.gigatoken_rs import train_bpe as train
    except ImportError:
        raise ConfigError("params.yaml: tokenize.encoding='bpe' is trained by gigatoken, which is "
                          "not installed; install the one that pyproject.toml names") from None
    if not text.strip(_SEPARATOR):
        raise ConfigError("params.yaml: tokenize.split must leave text to train on; hold out less")
    with _silent():
        _, merges = train(text, vocab_size, [], separator=_SEPARATOR)
        words = [word for word, _ in pretokenized_counts(text, _SEPARATOR) if len(word) > 1]
    # Once every word is one token there is no pair left. gigatoken then goes on with pairs that do
    # not occur.
    made: dict[bytes, int] = {}
    for number, pair in enumerate(merges, 1):
        made.setdefault(b"".join(pair), number)
    if len(words) <= len(made) and all(word in made for word in words):
        most = BYTES + max((made[word] for word in words), default=0)
        if most < vocab_size:
            raise ConfigError(f"params.yaml: tokenize.vocab_size={vocab_size} is more than the "
                              f"training text gives: {most} ids make every word of it one token; "
                              f"set it to {most} or less, or take more text")
    return bpe_tokenizer(merges)


def training_text(raw_dir: Path, results: Sequence[Encoded], held: Sequence[np.ndarray],
                  limit: int = SAMPLE_BYTES) -> bytes:
    """The training documents, a byte that is no text before each. Of a corpus with more than
    ``limit`` bytes of them, the beginning of every raw part, the same share of each."""
    of_part = Counter[str]()  # bytes of training text
    for encoded, out in zip(results, held, strict=True):
        of_part[encoded.chunk.part.name] += int(encoded.documents()[~out, 1].sum())
    total = of_part.total()
    left = {name: size * min(limit, total) // max(1, total) for name, size in of_part.items()}
    text = bytearray()
    for encoded, out in zip(results, held, strict=True):
        chunk = encoded.chunk
        name, start = chunk.part.name, 0
        if not left[name] or out.all():
            continue
        data = read_chunk(raw_dir, chunk)
        sizes = encoded.documents()[:, 1].tolist()
        for number, (size, held_out) in enumerate(zip(sizes, out, strict=True)):
            if not held_out:
                if chunk.opens or number:
                    text += _SEPARATOR
                document = data[start:start + min(size, left[name])]
                text += document.decode("utf-8", "ignore").encode()
                left[name] -= len(document)
            start += size
    return bytes(text)


@contextmanager
def _silent() -> Iterator[None]:
    """Without the lines that gigatoken prints."""
    sys.stdout.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with Path(os.devnull).open("wb") as nowhere:
        try:
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)
            yield
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
