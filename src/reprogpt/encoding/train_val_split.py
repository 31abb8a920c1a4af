"""Which documents are held out for validation.

A document's side never depends on what comes after it, nor on how many processes ran, so that the
validation set stays what it is while a corpus grows: `hash` looks at the document's own text,
`first` at those before it. `tail` cuts the text itself, as nanoGPT does.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from reprogpt.config import TokenizeConfig
from reprogpt.data.raw_text import SPLITS, Meta, read_index
from reprogpt.encoding.chunks import Encoded, Piece
from reprogpt.errors import ConfigError
from reprogpt.tokens.tokenizers import gpt2_tokenizer, utf8_widths

Decide = Callable[[Piece, np.ndarray], np.ndarray]
"""(piece, its documents (n, 3)) -> (n,) bool, True for held out. Called in order of the corpus."""

_CHUNK = 4 << 20


def splitter(cfg: TokenizeConfig, raw_dir: Path, meta: Meta, cut: tuple[int, int] | None,
             results: Iterable[tuple[Piece, Encoded]]) -> Decide:
    """The decision for one corpus; ``cut`` is what :func:`tail_cut` gave."""
    if cut is not None:
        rule = _tail(meta, cut)
    elif cfg.split == "hash":
        rule = _by_hash(cfg, raw_dir, results)
    else:
        rule = _first(cfg, meta)
    explicit = {}
    for part in meta.parts:
        column = read_index(raw_dir, part)[:, 1]
        if column.any():
            explicit[part.name] = column

    def decide(piece: Piece, documents: np.ndarray) -> np.ndarray:
        held = rule(piece, documents)
        if piece.part in explicit:  # what the corpus says itself comes first
            own = explicit[piece.part][piece.first:piece.last]
            held = np.where(own > 0, own == SPLITS.index("val"), held)
        return held

    return decide


def _by_hash(cfg: TokenizeConfig, raw_dir: Path,
             results: Iterable[tuple[Piece, Encoded]]) -> Decide:
    assert cfg.val_fraction is not None
    threshold = np.uint64(int(cfg.val_fraction * 2**64))
    whole: dict[tuple[str, int], np.uint64] = {}

    def draws(piece: Piece, documents: np.ndarray) -> np.ndarray:
        drawn = draw(documents[:, 2].astype(np.uint64), cfg.split_seed)
        part_end = int(documents[:, 1].sum()) + piece.start
        if len(documents) == 1 and (not piece.opens or part_end < _document_end(raw_dir, piece)):
            at = (piece.part, piece.first)
            if at not in whole:
                whole[at] = _hash_long(raw_dir, piece)
            drawn = draw(np.array([whole[at]], np.uint64), cfg.split_seed)
        return drawn

    # A small corpus may have no document below the threshold: then the lowest is held out.
    lowest, count = None, 0
    for piece, encoded in results:
        documents = encoded.documents()
        drawn = draws(piece, documents)[documents[:, 1] > 0]
        count += len(drawn) - (not piece.opens and int(documents[0, 1]) > 0)
        if len(drawn) and (lowest is None or drawn.min() < lowest):
            lowest = drawn.min()
    if lowest is not None and lowest >= threshold:
        if count < 2:
            raise ConfigError("params.yaml: tokenize.split='hash' must have two documents or more "
                              "to choose from; use split: tail")
        threshold = lowest + np.uint64(1)
    return lambda piece, documents: draws(piece, documents) < threshold


def draw(fingerprints: np.ndarray, seed: int) -> np.ndarray:
    """(n,) uint64, uniform, from documents' fingerprints and a seed (splitmix64's finalizer)."""
    step = (seed * 0x9E3779B97F4A7C15) % 2**64
    with np.errstate(over="ignore"):
        z = fingerprints + np.uint64(step)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _first(cfg: TokenizeConfig, meta: Meta) -> Decide:
    """The first documents: until they hold val_tokens, or val_fraction of the corpus's bytes."""
    limit = cfg.val_tokens or int(meta.bytes * (cfg.val_fraction or 0))
    taken, open_side = 0, False

    def decide(piece: Piece, documents: np.ndarray) -> np.ndarray:
        nonlocal taken, open_side
        ends = documents[:, 0]
        tokens = np.diff(ends, prepend=0)
        sizes = tokens if cfg.val_tokens else documents[:, 1]
        before = taken + np.cumsum(sizes) - sizes
        held = before < limit
        if not piece.opens:  # the document began in an earlier piece, and its side is known
            held[0] = open_side
        taken += int(sizes.sum())
        open_side = bool(held[-1])
        return held

    return decide


def _tail(meta: Meta, cut: tuple[int, int]) -> Decide:
    names = [part.name for part in meta.parts]

    def decide(piece: Piece, documents: np.ndarray) -> np.ndarray:
        side = (names.index(piece.part), piece.start) >= cut
        return np.full(len(documents), side)

    return decide


def tail_cut(cfg: TokenizeConfig, raw_dir: Path, meta: Meta,
             encode: Callable[[str], np.ndarray]) -> tuple[int, int] | None:
    """(part, byte) where `tail` begins: after int(characters * (1 - val_fraction)), or so that
    val_tokens follow. None for the other splits."""
    if cfg.split != "tail":
        return None
    if meta.masked:
        raise ConfigError("params.yaml: tokenize.split='tail' must not cut documents with masked "
                          "targets; use split: hash or first")
    if cfg.val_fraction is None:
        return _token_cut(cfg, raw_dir, meta, encode)
    counts = [_characters(raw_dir / part.text) for part in meta.parts]
    left = int(sum(counts) * (1 - cfg.val_fraction))
    for number, count in enumerate(counts):
        if left <= count:
            return number, _byte_of(raw_dir / meta.parts[number].text, left)
        left -= count
    raise AssertionError("the cut lies within the text")


def _token_cut(cfg: TokenizeConfig, raw_dir: Path, meta: Meta,
               encode: Callable[[str], np.ndarray]) -> tuple[int, int]:
    """Where a tail of at least val_tokens tokens begins, in the last part."""
    tokens, last = int(cfg.val_tokens or 0), meta.parts[-1]
    size = max(1 << 20, 16 * tokens)  # more bytes than most texts need for so many tokens
    while True:
        data = _tail_bytes(raw_dir / last.text, min(size, last.bytes))
        ids = encode(data.decode("utf-8"))
        if len(ids) > tokens:
            break
        if size >= last.bytes:
            raise ConfigError(f"params.yaml: tokenize.val_tokens={tokens} must be less than the "
                              f"last part of the text holds ({len(ids)}); use val_fraction")
        size *= 2
    kept = len(data) - int(_widths(cfg, ids[-tokens:]).sum())
    # Encoded by itself, the tail may have a token less: a little more of the text, then.
    while (count := len(encode(data[_whole(data, kept):].decode("utf-8")))) < tokens:
        kept = max(0, kept - (tokens - count))
    return len(meta.parts) - 1, last.bytes - len(data) + _whole(data, kept)


def _tail_bytes(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(-size, os.SEEK_END)
        data = file.read(size)
    return data.lstrip(bytes(range(0x80, 0xC0)))  # of a character that begins before


def _whole(data: bytes, position: int) -> int:
    """The beginning of the character at a position."""
    while position and position < len(data) and data[position] & 0xC0 == 0x80:
        position -= 1
    return position


def _widths(cfg: TokenizeConfig, ids: np.ndarray) -> np.ndarray:
    """Bytes of text of each token."""
    if cfg.encoding == "char":
        return utf8_widths(ids)
    return gpt2_tokenizer().token_bytes()[ids]


def _chunks(path: Path) -> Iterable[np.ndarray]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield np.frombuffer(chunk, np.uint8)


def _characters(path: Path) -> int:
    return sum(int(np.count_nonzero(chunk & 0xC0 != 0x80)) for chunk in _chunks(path))


def _byte_of(path: Path, character: int) -> int:
    done = 0
    for chunk in _chunks(path):
        starts = np.flatnonzero(chunk & 0xC0 != 0x80)
        if character < len(starts):
            return done + int(starts[character])
        character -= len(starts)
        done += len(chunk)
    return done


def _document_end(raw_dir: Path, piece: Piece) -> int:
    return int(np.load(raw_dir / f"{piece.part}.npy", mmap_mode="r")[piece.first, 0])


def _hash_long(raw_dir: Path, piece: Piece) -> np.uint64:
    """The fingerprint of a whole document that is longer than a piece."""
    ends = np.load(raw_dir / f"{piece.part}.npy", mmap_mode="r")[:, 0]
    start = int(ends[piece.first - 1]) if piece.first else 0
    digest = hashlib.sha256()
    with (raw_dir / f"{piece.part}.txt").open("rb") as file:
        while start < ends[piece.first]:
            chunk = os.pread(file.fileno(), min(_CHUNK, int(ends[piece.first]) - start), start)
            digest.update(chunk)
            start += len(chunk)
    return np.uint64(int.from_bytes(digest.digest()[:8], "big") >> 1)
