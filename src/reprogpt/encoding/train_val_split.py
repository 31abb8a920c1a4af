"""Which documents are held out for validation.

A document's side never depends on what comes after it, so the validation set stays the same while a
corpus grows: `hash` takes the document's own text, `first` those before it. `tail` divides the text
itself, as nanoGPT does.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from reprogpt.config import TokenizeConfig
from reprogpt.data.raw_text import SPLITS, Meta, Part, read_index
from reprogpt.encoding.chunks import Encoded, character_places
from reprogpt.errors import ConfigError
from reprogpt.tokens.tokenizers import code_points, gpt2_tokenizer

_BLOCK = 4 << 20  # bytes read at a time


def held_out(cfg: TokenizeConfig, raw_dir: Path, meta: Meta, boundary: tuple[int, int] | None,
             results: Sequence[Encoded]) -> list[np.ndarray]:
    """For every chunk (documents,) bool: which of its documents are held out. ``boundary`` is that
    of :func:`tail_boundary`. Raises ConfigError where `hash` has too few to choose from."""
    if boundary is not None:
        held = [np.full(c.last - c.first, (meta.parts.index(c.part), c.start) >= boundary)
                for c in (encoded.chunk for encoded in results)]
    elif cfg.split == "hash":
        held = _by_hash(cfg, raw_dir, results)
    else:
        held = _first(cfg, meta, results)
    for n, encoded in enumerate(results):  # a split that the corpus itself names comes first
        chunk = encoded.chunk
        named = read_index(raw_dir, chunk.part)[chunk.first:chunk.last, 1]
        held[n] = np.where(named > 0, named == SPLITS.index("val"), held[n])
    return held


def _by_hash(cfg: TokenizeConfig, raw_dir: Path, results: Sequence[Encoded]) -> list[np.ndarray]:
    """The documents whose hash is below val_fraction; the lowest, if there is none."""
    assert cfg.val_fraction is not None
    threshold, lowest = np.uint64(int(cfg.val_fraction * 2**64)), np.uint64(2**64 - 1)
    drawn, count = [], 0
    long = {at: _hash_of_document(raw_dir, *at) for at in
            {(e.chunk.part, e.chunk.first) for e in results if not e.chunk.opens}}
    for encoded in results:
        chunk, documents = encoded.chunk, encoded.documents()
        hashes, filled = documents[:, 2], documents[:, 1] > 0
        if (at := (chunk.part, chunk.first)) in long:
            hashes = np.array([long[at]])
        drawn.append(draw(hashes.astype(np.uint64), cfg.split_seed))
        lowest = min(lowest, drawn[-1][filled].min(initial=lowest))
        count += int(filled.sum()) - (not chunk.opens)
    if lowest >= threshold:
        if count < 2:
            raise ConfigError("params.yaml: tokenize.split='hash' must have two documents or more "
                              "to choose from; use split: tail")
        threshold = lowest + np.uint64(1)
    return [values < threshold for values in drawn]


def draw(hashes: np.ndarray, seed: int) -> np.ndarray:
    """(n,) uint64, uniform, from hashes of documents and a seed (splitmix64's finalizer)."""
    step = (seed * 0x9E3779B97F4A7C15) % 2**64
    with np.errstate(over="ignore"):
        z = hashes + np.uint64(step)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _hash_of_document(raw_dir: Path, part: Part, document: int) -> int:
    """63 bits of the sha256 of a document that is longer than a chunk."""
    start, end = [0, *read_index(raw_dir, part)[:, 0].tolist()][document:document + 2]
    digest = hashlib.sha256()
    with (raw_dir / part.text).open("rb") as file:
        file.seek(start)
        for at in range(start, end, _BLOCK):
            digest.update(file.read(min(_BLOCK, end - at)))
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def _first(cfg: TokenizeConfig, meta: Meta, results: Sequence[Encoded]) -> list[np.ndarray]:
    """The first documents: until they hold val_tokens, or val_fraction of the corpus's bytes."""
    limit = cfg.val_tokens or int(meta.bytes * (cfg.val_fraction or 0))
    held: list[np.ndarray] = []
    taken = 0
    for encoded in results:
        documents = encoded.documents()
        sizes = np.diff(documents[:, 0], prepend=0) if cfg.val_tokens else documents[:, 1]
        side = taken + np.cumsum(sizes) - sizes < limit
        if not encoded.chunk.opens:  # its document began in an earlier chunk, which decided
            side[0] = held[-1][-1]
        taken += int(sizes.sum())
        held.append(side)
    return held


def tail_boundary(cfg: TokenizeConfig, raw_dir: Path, meta: Meta) -> tuple[int, int] | None:
    """(part, byte) where `tail` begins: after int(characters * (1 - val_fraction)), or so that
    val_tokens follow. None for the other splits."""
    if cfg.split != "tail":
        return None
    if meta.masked:
        raise ConfigError("params.yaml: tokenize.split='tail' must not divide documents with "
                          "masked targets; use split: hash or first")
    if cfg.val_fraction is None:
        return len(meta.parts) - 1, _tail_of_tokens(cfg, raw_dir / meta.parts[-1].text)
    total = sum(len(places) for _, places in _characters(raw_dir, meta))
    left = int(total * (1 - cfg.val_fraction))
    for part, places in _characters(raw_dir, meta):
        if left < len(places):
            return part, int(places[left])
        left -= len(places)
    raise AssertionError("the boundary lies within the text")


def _characters(raw_dir: Path, meta: Meta) -> Iterator[tuple[int, np.ndarray]]:
    """Block by block: the number of its part, and the bytes of it where characters begin."""
    for number, part in enumerate(meta.parts):
        with (raw_dir / part.text).open("rb") as file:
            for start in range(0, part.bytes, _BLOCK):
                yield number, start + character_places(file.read(_BLOCK))


def _tail_of_tokens(cfg: TokenizeConfig, path: Path) -> int:
    """The byte of a text from which on it has val_tokens tokens, or as few more as can be."""
    tokens, end, char = cfg.val_tokens or 0, path.stat().st_size, cfg.encoding == "char"
    encode = code_points if char else gpt2_tokenizer().encode
    for size in (max(1 << 20, 16 * tokens), end):  # the first is enough for most texts
        with path.open("rb") as file:
            file.seek(max(0, end - size))
            text = file.read().decode("utf-8", "ignore")  # without half a character at its start
        ids = encode(text)
        if len(ids) > tokens:
            break
    else:
        raise ConfigError(f"params.yaml: tokenize.val_tokens={tokens} must be less than the last "
                          f"part of the text holds ({len(ids)}); use val_fraction")
    last = tokens if char else len(gpt2_tokenizer().decode(ids[-tokens:]))
    start = max(0, len(text) - last)
    while start and (missing := tokens - len(encode(text[start:]))) > 0:
        start = max(0, start - missing)  # encoded by itself the tail has fewer: begin earlier
    return end - len(text[start:].encode("utf-8"))
