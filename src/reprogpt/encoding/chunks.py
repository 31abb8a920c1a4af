"""The unit of tokenizing: some 2 MB of raw text, encoded by one worker, kept in the cache.

A piece is a range of bytes of one raw part: whole documents, or a stretch of a document that is
longer than a piece. Its result is keyed by content (text, bounds of documents, tokenizer), so a run
that was killed, and a corpus that has grown, encode only what was never encoded. Workers exchange
names and numbers with the main process, never text or tokens.

A long document is cut only where the ids of its stretches are those of the whole (cuts.py).
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from reprogpt.data.raw_text import Meta, Part, read_index, read_spans
from reprogpt.encoding.encoder import encoder
from reprogpt.encoding.split_points import stretches, token_sizes
from reprogpt.errors import ConfigError
from reprogpt.storage.files import replacing, write_bytes
from reprogpt.storage.paths import cache_dir
from reprogpt.tokens.tokenizers import code_points

PIECE_BYTES = 2 << 20


@dataclass(frozen=True)
class Piece:
    """Bytes [start, end) of a part: documents first to last, or a stretch of document `first`."""

    part: str
    first: int
    last: int
    start: int
    end: int
    opens: bool
    """It begins where its first document begins."""


@dataclass(frozen=True)
class Job:
    """What every piece of one tokenization has in common; small, since it is sent to workers."""

    raw_dir: str
    encoding: str
    """gpt2, or char: whose pieces hold code points, since the vocabulary comes after the split."""
    eot: bool
    """Put <|endoftext|> before every document."""
    encoder: str
    fingerprint: str
    """Of the ids that the encoder gives."""


@dataclass(frozen=True)
class Encoded:
    """A piece's place in the cache, and its number of tokens."""

    key: str
    tokens: int
    masked: bool
    encoding: str

    @property
    def path(self) -> Path:
        return cache_dir() / "pieces" / self.key[:2] / self.key

    def documents(self) -> np.ndarray:
        """(documents, 3) int64: where each ends in tokens, its bytes, 63 bits of its sha256."""
        return _record(self.path)["documents"]

    def load(self) -> np.ndarray:
        """The tokens: uint16 ids, or uint32 code points for encoding char."""
        return _checked(self.path.with_suffix(".bin"), self, "crc").view(_dtype(self.encoding))

    def load_mask(self) -> np.ndarray:
        """(tokens,) uint8."""
        return _checked(self.path.with_suffix(".mask"), self, "mask_crc")

    def drop(self) -> None:
        """Frees the tokens; what is known about the documents stays."""
        for suffix in (".bin", ".mask"):
            self.path.with_suffix(suffix).unlink(missing_ok=True)


def _dtype(encoding: str) -> np.dtype:
    return np.dtype("<u4" if encoding == "char" else "<u2")


def _checked(path: Path, encoded: Encoded, field: str) -> np.ndarray:
    data = np.fromfile(path, np.uint8)
    if zlib.crc32(data.data) != int(_record(encoded.path)[field]):
        raise _removed(encoded.path)
    return data


def _record(path: Path) -> dict[str, np.ndarray]:
    """What is known about the piece of this path. Raises OSError when it cannot be read."""
    try:
        with np.load(path.with_suffix(".npz")) as saved:
            return dict(saved)
    except (ValueError, EOFError, BadZipFile):  # empty, zeros, cut short: a machine that fell
        raise _removed(path) from None


def _removed(path: Path) -> OSError:
    """The error of a damaged piece, which goes, so that the next run makes it anew."""
    path.with_suffix(".npz").unlink(missing_ok=True)  # another process may have found it too
    return OSError(f"{path}: a damaged piece in the cache was removed; run the stage again")


def cut(raw_dir: Path, meta: Meta, at: tuple[int, int] | None = None,
        piece_bytes: int = PIECE_BYTES, encoding: str = "gpt2") -> Iterator[Piece]:
    """The pieces of a corpus, in order; ``at`` (part, byte) is a boundary in any case.

    Raises ConfigError, naming the document, where one cannot be cut.
    """
    for number, part in enumerate(meta.parts):
        ends = read_index(raw_dir, part)[:, 0]
        forced = at[1] if at and at[0] == number else None
        yield from _cut_part(raw_dir, part, ends, forced, piece_bytes, encoding != "char")


def _cut_part(raw_dir: Path, part: Part, ends: np.ndarray, forced: int | None,
              piece_bytes: int, words: bool) -> Iterator[Piece]:
    document, start = 0, 0
    while document < len(ends):
        # As many whole documents as fit, at least one, and none beyond a forced boundary.
        last = max(int(np.searchsorted(ends, start + piece_bytes, "right")), document + 1)
        inside = False
        if forced is not None and start < forced < ends[last - 1]:
            holds = int(np.searchsorted(ends, forced))  # the document it ends or cuts
            whole = holds + 1 if ends[holds] == forced else holds
            inside = whole == document
            last = whole if whole > document else document + 1
        end = int(ends[last - 1])
        if inside or (last - document == 1 and end - start > 2 * piece_bytes):
            yield from _stretches(raw_dir, part, document, start, end, forced, piece_bytes,
                                  words)
        else:
            yield Piece(part.name, document, last, start, end, True)
        document, start = last, end


def _stretches(raw_dir: Path, part: Part, document: int, start: int, end: int,
               forced: int | None, size: int, words: bool) -> Iterator[Piece]:
    assert not part.masked, "documents with masked targets are short"
    begin = start
    edges = [start, end]
    if forced is not None and start < forced < end:
        edges.insert(1, forced)  # either side is a text by itself
    with (raw_dir / part.text).open("rb") as file:
        for left, right in itertools.pairwise(edges):
            try:
                for stop in stretches(file.fileno(), left, right, size, words):
                    yield Piece(part.name, document, document + 1, begin, stop, begin == start)
                    begin = stop
            except ConfigError as error:
                raise ConfigError(f"{file.name}, document {document + 1}: {error}") from None


def encode_piece(job: Job, piece: Piece, force: bool = False) -> Encoded:
    """The piece's result, from the cache when it is there, else made now.

    Tokens that were freed because a finished shard holds them are made again only by ``force``.
    """
    raw_dir = Path(job.raw_dir)
    written = (raw_dir / f"{piece.part}.npy").stat().st_mtime_ns
    part, index, spans = _opened(job.raw_dir, piece.part, written)
    data = _read(raw_dir / part.text, piece)
    ends = np.minimum(index[piece.first:piece.last, 0], piece.end) - piece.start
    own = None
    if spans is not None:
        own = spans[(spans[:, 0] >= piece.first) & (spans[:, 0] < piece.last)].copy()
        own[:, 0] -= piece.first
    key = _key(job, piece, data, ends, own)
    path = cache_dir() / "pieces" / key[:2] / key
    # Code points are needed for the vocabulary, so those are never freed.
    there = path.with_suffix(".npz").is_file() and (
        job.encoding != "char" or path.with_suffix(".bin").is_file())
    documents = None
    if there and not force:
        with contextlib.suppress(OSError):
            documents = _record(path)["documents"]
    if documents is None:
        documents = _make(path, job, piece, data, ends, own)
    return Encoded(key, int(documents[-1, 0]), own is not None, job.encoding)


def _read(path: Path, piece: Piece) -> bytes:
    with path.open("rb") as file:
        data = os.pread(file.fileno(), piece.end - piece.start, piece.start)
    if len(data) != piece.end - piece.start:
        raise OSError(f"{path}: ends before byte {piece.end}; run the stage download again")
    return data


@functools.lru_cache(maxsize=4)
def _opened(raw_dir: str, name: str,
            written: int) -> tuple[Part, np.ndarray, np.ndarray | None]:
    folder = Path(raw_dir)
    masked = (folder / f"{name}.spans.npy").is_file()
    part = Part(name, 0, 0, "", masked)
    return part, read_index(folder, part), read_spans(folder, part)


def _key(job: Job, piece: Piece, data: bytes, ends: np.ndarray,
         spans: np.ndarray | None) -> str:
    what = ["piece 1", job.fingerprint, job.eot, piece.opens, hashlib.sha256(data).hexdigest(),
            hashlib.sha256(ends.astype("<i8").tobytes()).hexdigest(),
            None if spans is None else hashlib.sha256(spans.astype("<i8").tobytes()).hexdigest()]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _make(path: Path, job: Job, piece: Piece, data: bytes, ends: np.ndarray,
          spans: np.ndarray | None) -> np.ndarray:
    documents = np.zeros((len(ends), 3), np.int64)
    starts = np.concatenate(([0], ends[:-1]))
    fast = encoder(job.encoding, job.encoder)
    ids, counts = fast.batch(data, ends, job.eot)
    if job.eot and not piece.opens and counts[0]:  # a later stretch of a document
        ids, counts[0] = ids[1:], counts[0] - 1
    documents[:, 0] = np.cumsum(counts)
    documents[:, 1] = ends - starts
    documents[:, 2] = [int.from_bytes(hashlib.sha256(data[a:b]).digest()[:8], "big") >> 1
                       for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    mask = None
    if spans is not None:
        masks = []
        for number, (a, b) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            own = ids[documents[number, 0] - counts[number]:documents[number, 0]]
            mine = spans[np.searchsorted(spans[:, 0], number):]
            mine = mine[:np.searchsorted(mine[:, 0], number, "right"), 1:]
            masks.append(_mask(data[a:b].decode("utf-8"), own, mine, job))
        mask = np.concatenate(masks)
    _save(path, ids.astype(_dtype(job.encoding), copy=False), mask, documents)
    return documents


def _save(path: Path, tokens: np.ndarray, mask: np.ndarray | None, documents: np.ndarray) -> None:
    fields = {"documents": documents}
    for name, array in (("crc", tokens), ("mask_crc", mask)):
        if array is not None:
            body = array.tobytes()
            fields[name] = np.array(zlib.crc32(body), np.int64)
            write_bytes(path.with_suffix(".bin" if name == "crc" else ".mask"), body, sync=False)
    with replacing(path.with_suffix(".npz"), sync=False) as temporary, temporary.open("wb") as out:
        np.savez(out, allow_pickle=False, **fields)  # last: it vouches for the others


def without_unknown(encoded: Encoded, characters: str) -> Encoded:
    """The piece (of encoding char) without the characters that are not in a vocabulary."""
    key = hashlib.sha256(json.dumps(["known 1", encoded.key, characters]).encode()).hexdigest()
    points = encoded.load()
    known = np.isin(points, code_points(characters))
    documents = encoded.documents()
    kept: np.ndarray = np.concatenate(([0], np.cumsum(known)))
    documents[:, 0] = kept[documents[:, 0]]
    fewer = Encoded(key, int(kept[-1]), encoded.masked, encoded.encoding)
    _save(fewer.path, points[known], encoded.load_mask()[known] if encoded.masked else None,
          documents)
    return fewer


def _mask(text: str, ids: np.ndarray, spans: np.ndarray, job: Job) -> np.ndarray:
    """(tokens,) uint8: 1 where the first byte of a token lies in a span of characters."""
    marked = np.zeros(len(text), np.uint8)
    for start, end in spans.tolist():
        marked[start:end] = 1
    if job.encoding == "char":
        return marked
    widths = [len(character.encode("utf-8")) for character in text]
    of_bytes = np.repeat(marked, widths)
    separator = int(job.eot and len(ids) > 0)  # is no target: nothing is asked before a document
    sizes = token_sizes()[ids[separator:]]
    mask = np.zeros(len(ids), np.uint8)
    mask[separator:] = of_bytes[np.cumsum(sizes) - sizes]
    return mask
