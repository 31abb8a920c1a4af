"""Chunks: the unit of tokenizing, a range of bytes of one raw part, encoded by one worker.

A chunk is as many documents of a part as fit in CHUNK_BYTES, or a stretch of one that is longer.
Its result is cached under its content, so a run that was killed, and a corpus that has grown,
encode only what was never encoded.

A long document is divided only before a space or line break that follows a visible character: in
GPT-2's pattern a match ends there in any case, so the ids of the stretches are those of the whole.
"""

import functools
import hashlib
import json
import math
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from reprogpt.data.raw_text import Meta, Part, read_index, read_spans
from reprogpt.encoding.encoder import gigatoken_ids, tiktoken_ids
from reprogpt.errors import ConfigError
from reprogpt.storage.files import replacing
from reprogpt.storage.paths import cache_dir
from reprogpt.tokens.tokenizers import (
    BpeTokenizer,
    CharTokenizer,
    code_points,
    gpt2_tokenizer,
    load_tokenizer,
)

CHUNK_BYTES = 16 << 20
# A visible character in UTF-8 before a space or line break. No white space begins with these bytes,
# but for U+3000 (E3 80 80).
_BREAK = re.compile(rb"(?:[!-~]|[\xc3-\xe0\xe4-\xf4][\x80-\xbf]+|\xe3(?!\x80\x80)[\x80-\xbf]+)"
                    rb"[ \n]")


@dataclass(frozen=True)
class Chunk:
    """Bytes [start, end) of a part: documents first to last, or a stretch of document `first`."""

    part: Part
    first: int
    last: int
    start: int
    end: int
    opens: bool
    """It begins where its first document begins."""


@dataclass(frozen=True)
class Settings:
    """What all chunks of one tokenization have in common; small, since it is sent to workers."""

    raw_dir: Path
    encoder: str
    """gigatoken, tiktoken, char, or none: only what is known about the documents."""
    fingerprint: str
    """Of the ids, which are the same by gigatoken and tiktoken."""
    eot: bool = False
    """Put <|endoftext|> before every document that is not empty."""
    characters: CharTokenizer | None = None
    """The vocabulary of encoder char, once it is known: code points become its ids."""
    trained: Path | None = None
    """Folder of a trained tokenizer, for gigatoken and tiktoken; None: GPT-2's."""


@functools.cache
def _bpe(trained: Path | None) -> BpeTokenizer:
    """The tokenizer of the encoders gigatoken and tiktoken."""
    tokenizer = load_tokenizer(trained) if trained else gpt2_tokenizer()
    assert isinstance(tokenizer, BpeTokenizer), f"{trained} holds a trained tokenizer"
    return tokenizer


@dataclass(frozen=True)
class Encoded:
    """A chunk's result: its place in the cache, and its number of tokens."""

    chunk: Chunk
    key: str
    tokens: int

    def documents(self) -> np.ndarray:
        """(documents, 3) int64: where each ends in tokens, its bytes, 63 bits of its sha256."""
        documents = _load(self.key, "documents")
        assert documents is not None, "encode_chunk has saved it"
        return documents

    def load(self, settings: Settings, field: str = "tokens") -> np.ndarray:
        """Its tokens (n,) uint16 (uint32 code points without a vocabulary), or its "mask" (n,)
        uint8, 1 for targets. They are made again where they were dropped, perhaps by another clone
        that shares the cache, or damaged."""
        if (array := _load(self.key, field)) is not None:
            return array
        return _encoded(settings, self.chunk, *_read(settings.raw_dir, self.chunk))[1][field]

    def drop(self) -> None:
        """Deletes the tokens; what is known about the documents stays."""
        _path(self.key, "tokens").unlink(missing_ok=True)


def chunks_of(raw_dir: Path, meta: Meta, boundary: tuple[int, int] | None = None,
              chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """The chunks of a corpus, in order; ``boundary`` (part, byte) separates two in any case."""
    for number, part in enumerate(meta.parts):
        ends = read_index(raw_dir, part)[:, 0]
        forced = boundary[1] if boundary and boundary[0] == number else 0
        document, start, opens = 0, 0, True
        while document < len(ends):
            stop = forced if start < forced else part.bytes
            fit = int(np.searchsorted(ends, min(start + chunk_bytes, stop), "right"))
            last = max(fit, document + 1) if opens else document + 1
            end = min(int(ends[last - 1]), stop)
            if end - start > 2 * chunk_bytes and not part.masked:
                end = _next_break(raw_dir / part.text, start + chunk_bytes, end)
            yield Chunk(part, document, last, start, end, opens)
            opens = end == int(ends[last - 1])
            document, start = (last if opens else last - 1), end


def _next_break(path: Path, start: int, end: int) -> int:
    """The first byte in [start, end) where a document may be divided; ``end`` if there is none."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        found = _BREAK.search(text, start, end)
        return found.end() - 1 if found else end


def encode_chunk(settings: Settings, chunk: Chunk) -> Encoded:
    """The chunk's result, which is then in the cache."""
    data, ends, spans = text = _read(settings.raw_dir, chunk)
    digests = b"".join(hashlib.sha256(data[a:b]).digest() for a, b in pairwise([0, *ends.tolist()]))
    masked = b"" if spans is None else spans.tobytes()
    content = [hashlib.sha256(part).hexdigest() for part in (digests, masked)]
    key = hashlib.sha256(json.dumps(["chunk 1", settings.fingerprint, settings.eot, chunk.opens,
                                     spans is None, *content]).encode()).hexdigest()
    documents = _load(key, "documents")
    if documents is None:
        counts, arrays = _encoded(settings, chunk, *text)
        hashes = (np.frombuffer(digests, ">u8")[::4] >> np.uint64(1)).astype(np.int64)
        documents = np.stack((np.cumsum(counts), np.diff(ends, prepend=0), hashes), axis=1)
        _save(_path(key, "tokens"), **arrays)
        _save(_path(key, "documents"), documents=documents)  # last: it vouches for the tokens
    return Encoded(chunk, key, int(documents[-1, 0]))


def _read(raw_dir: Path, chunk: Chunk) -> tuple[bytes, np.ndarray, np.ndarray | None]:
    """The chunk's text; the byte at which each document ends; (spans, 3): document, characters."""
    ends = read_index(raw_dir, chunk.part)[chunk.first:chunk.last, 0]
    spans = read_spans(raw_dir, chunk.part)
    if spans is not None:
        first, last = np.searchsorted(spans[:, 0], (chunk.first, chunk.last))
        spans = spans[first:last] - np.array([chunk.first, 0, 0])
    return read_chunk(raw_dir, chunk), np.minimum(ends, chunk.end) - chunk.start, spans


def _encoded(settings: Settings, chunk: Chunk, data: bytes, ends: np.ndarray,
             spans: np.ndarray | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Each document's number of tokens; and "tokens" and, where the text has spans, "mask"."""
    if settings.encoder == "none":
        return np.zeros(len(ends), np.int64), {"tokens": np.empty(0, np.uint16)}
    if settings.encoder == "char":
        ids, counts = _encode_characters(settings, data, ends)
    else:
        ids, counts = _encode(settings, data, ends, chunk.opens)
    mask = {} if spans is None else {"mask": _mask(settings, data, ends, ids, spans)}
    return counts, {"tokens": ids, **mask}


def read_chunk(raw_dir: Path, chunk: Chunk, limit: float = math.inf) -> bytes:
    """The text of a chunk, or no more than its first ``limit`` bytes."""
    with (raw_dir / chunk.part.text).open("rb") as file:
        file.seek(chunk.start)
        return file.read(int(min(chunk.end - chunk.start, limit)))


def _encode(settings: Settings, data: bytes, ends: np.ndarray,
            opens: bool) -> tuple[np.ndarray, np.ndarray]:
    """The ids of documents that end at bytes ``ends``, and each one's number of ids."""
    tokenizer = _bpe(settings.trained)
    encode = gigatoken_ids if settings.encoder == "gigatoken" else tiktoken_ids
    # A token stands for one byte or more. Pages that are never written take no memory.
    ids = np.empty(len(data) + len(ends), np.uint16)
    counts = np.zeros(len(ends), np.int64)
    start = filled = 0
    for number, end in enumerate(ends.tolist()):
        if end > start:
            if settings.eot and (opens or number):
                ids[filled] = tokenizer.eot
                counts[number] = 1
            tokens = encode(tokenizer, data[start:end])
            counts[number] += len(tokens)
            filled += counts[number]
            ids[filled - len(tokens):filled] = tokens
        start = end
    return ids[:filled], counts


def _encode_characters(settings: Settings, data: bytes,
                       ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for encoder char: ids, or code points while there is no vocabulary.

    Raises ConfigError, naming it, for a character that the vocabulary lacks (tokenize.unknown).
    """
    points = code_points(data.decode("utf-8"))
    ends = np.searchsorted(character_places(data), ends)
    if settings.characters is None:
        return points, np.diff(ends, prepend=0)
    try:
        ids = settings.characters.encode_points(points)
    except ValueError as error:  # all characters of the training text are known
        raise ConfigError(f"held-out text: {error}") from None
    known = np.concatenate(([0], np.cumsum(settings.characters.known(points))))
    return ids, np.diff(known[ends], prepend=0)


def character_places(data: bytes) -> np.ndarray:
    """The bytes of UTF-8 text at which characters begin."""
    return np.flatnonzero(np.frombuffer(data, np.uint8) & 0xC0 != 0x80)


def _mask(settings: Settings, data: bytes, ends: np.ndarray, ids: np.ndarray,
          spans: np.ndarray) -> np.ndarray:
    """(tokens,) uint8: 1 where the first byte of a token lies in a span of characters."""
    places = character_places(data)
    starts = np.concatenate(([0], ends[:-1]))
    first = np.searchsorted(places, starts)[spans[:, 0]]  # the first character of the document
    edges = np.zeros(len(places) + 1, np.int64)
    np.add.at(edges, first + spans[:, 1], 1)
    np.add.at(edges, first + spans[:, 2], -1)
    marked = np.cumsum(edges[:-1]) > 0
    if settings.characters:
        marked = marked[settings.characters.known(code_points(data.decode("utf-8")))]
    elif settings.encoder != "char":
        sizes = _bpe(settings.trained).token_bytes()[ids]
        byte = np.minimum(np.cumsum(sizes) - sizes, len(data) - 1)  # the first one of each token
        marked = marked[np.searchsorted(places, byte, "right") - 1] & (sizes > 0)
    return marked.astype(np.uint8)


def _path(key: str, field: str) -> Path:
    suffix = ".npz" if field == "documents" else ".tokens.npz"
    return cache_dir() / "chunks" / key[:2] / f"{key}{suffix}"


def _save(path: Path, **arrays: np.ndarray) -> None:
    with replacing(path, sync=False) as temporary, temporary.open("wb") as out:
        np.savez(out, allow_pickle=False, **arrays)


def _load(key: str, field: str) -> np.ndarray | None:
    """An array of a result; None where its file is missing or damaged (npz has checksums)."""
    try:
        with np.load(_path(key, field)) as saved:
            array: np.ndarray = saved[field]
            return array
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None
