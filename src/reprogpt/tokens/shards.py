"""Tokens on disk: uint16 shards in llm.c's format, and the manifest that says what they are.

The shards of a split are one stream: a document may straddle two of them. `manifest.json` beside
them gives every shard's size and checksums, so that a shard that was cut short or altered is named
before a model trains on it.
"""

import hashlib
import os
import random
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reprogpt.storage.files import replacing
from reprogpt.tokens.manifest import (
    MANIFEST,
    Manifest,
    Shard,
    Totals,
    cached_shard_path,
    read_manifest,
    shard_from_json,
    shard_to_json,
    write_manifest,
)
from reprogpt.tokens.shard_format import HEADER_BYTES, TOKEN_BYTES, header

__all__ = ["BLOCK", "Checksums", "Manifest", "Shard", "ShardWriter", "TokenStream", "Totals",
           "as_uint16", "cached_shard_path", "checksums_of", "header", "read_manifest",
           "shard_from_json", "shard_to_json", "verify_shard", "write_manifest", "write_shard"]

BLOCK = 4 << 20  # bytes covered by one crc32 in the manifest
SAMPLED_BLOCKS = 4  # of each shard, on every opening that does not verify in full


class Checksums:
    """sha256 of a file and crc32 of each of its blocks, fed as it is written or read."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._crcs: list[int] = []
        self._filled = BLOCK

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        self._sha256.update(view)
        while len(view):
            if self._filled == BLOCK:
                self._crcs.append(0)
                self._filled = 0
            take = view[:BLOCK - self._filled]
            self._crcs[-1] = zlib.crc32(take, self._crcs[-1])
            self._filled += len(take)
            view = view[len(take):]

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def crc32(self) -> tuple[int, ...]:
        return tuple(self._crcs)


def checksums_of(path: Path) -> Checksums:
    """The checksums of a whole file."""
    sums = Checksums()
    with path.open("rb") as file:
        while chunk := file.read(BLOCK):
            sums.update(chunk)
    return sums


class ShardWriter:
    """Cuts one split's stream of tokens into shards of ``shard_tokens`` each, the last shorter.

    Use: ``write(tokens, mask)`` any number of times, ``document()`` where one begins, then
    ``close()``, which returns the list of :class:`Shard`. Nothing appears under a shard's name
    before it is complete.
    """

    def __init__(self, folder: Path, split: str, shard_tokens: int, masked: bool = False):
        self.folder, self.split, self.shard_tokens = Path(folder), split, shard_tokens
        self.masked = masked
        self.shards: list[Shard] = []
        self._tokens: list[np.ndarray] = []
        self._masks: list[np.ndarray] = []
        self._held = self._documents = 0

    def document(self) -> None:
        """The next token written is the first of a document."""
        if self._held == self.shard_tokens:
            self._flush()
        self._documents += 1

    def write(self, tokens: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Appends tokens (n,) and, in a masked split, their mask (n,) uint8.

        Raises ValueError for an id that does not fit uint16.
        """
        ids = as_uint16(tokens)
        if self.masked and mask is None:
            mask = np.ones(len(ids), np.uint8)
        while len(ids):
            if self._held == self.shard_tokens:
                self._flush()
            take = self.shard_tokens - self._held
            self._tokens.append(ids[:take])
            if self.masked:
                assert mask is not None
                assert len(mask) == len(ids)
                self._masks.append(mask[:take].astype(np.uint8))
                mask = mask[take:]
            self._held += len(ids[:take])
            ids = ids[take:]

    def close(self) -> list[Shard]:
        if self._held:
            self._flush()
        return self.shards

    def _flush(self) -> None:
        name = f"{self.split}_{len(self.shards):06d}.bin"
        shard = write_shard(self.folder / name, self.split, self._tokens, self._held,
                            self._documents, self._masks if self.masked else None)
        self.shards.append(shard)
        self._tokens, self._masks, self._held, self._documents = [], [], 0, 0


def write_shard(path: Path, split: str, chunks: Any, tokens: int, documents: int,
                masks: Any = None) -> Shard:
    """One shard from an iterable of uint16 arrays that hold ``tokens`` in all."""
    sums = Checksums()
    written = 0
    with replacing(path) as temporary, temporary.open("wb") as out:
        head = header(tokens)
        sums.update(head)
        out.write(head)
        for chunk in chunks:
            data = np.ascontiguousarray(chunk, "<u2").data.cast("B")
            sums.update(data)
            out.write(data)
            written += len(chunk)
        assert written == tokens, f"{path}: {written} tokens for a header that says {tokens}"
    mask_sha256 = None
    if masks is not None:
        mask_sha256 = _write_mask(path.with_suffix(".mask"), masks, tokens)
    return Shard(path.name, split, tokens, documents, sums.sha256, sums.crc32, mask_sha256)


def _write_mask(path: Path, masks: Any, tokens: int) -> str:
    digest = hashlib.sha256()
    written = 0
    with replacing(path) as temporary, temporary.open("wb") as out:
        for chunk in masks:
            data = np.ascontiguousarray(chunk, np.uint8).tobytes()
            digest.update(data)
            out.write(data)
            written += len(data)
    assert written == tokens, f"{path}: {written} mask bytes for {tokens} tokens"
    return digest.hexdigest()


def as_uint16(tokens: np.ndarray) -> np.ndarray:
    """The ids as uint16. Raises ValueError, before anything is written, when one does not fit."""
    ids = np.asarray(tokens)
    if ids.dtype != np.uint16:
        if len(ids) and (ids.min() < 0 or ids.max() > 65535):
            worst = int(ids.max()) if ids.max() > 65535 else int(ids.min())
            raise ValueError(f"token id {worst} does not fit uint16 shards (0 to 65535)")
        ids = ids.astype(np.uint16)
    return ids


class TokenStream:
    """The shards of one split as one stream of tokens, read where asked (os.pread).

    Opening checks manifest, headers, sizes and checksums (``verify``: "sampled" reads a few
    blocks of each shard, "full" all of it) and raises ValueError naming a bad shard.
    """

    def __init__(self, folder: Path, split: str, verify: Literal["sampled", "full"] = "sampled"):
        self.folder, self.split = Path(folder), split
        self.manifest = read_manifest(self.folder)
        self.shards = self.manifest.of(split)
        self._files: list[int] = []
        self._masks: list[int] = []
        self._starts = [0]
        for shard in self.shards:
            path = shard.file(self.folder)
            verify_shard(path, shard, verify)
            self._files.append(os.open(path, os.O_RDONLY))
            if shard.mask_sha256:
                self._masks.append(os.open(path.with_suffix(".mask"), os.O_RDONLY))
            self._starts.append(self._starts[-1] + shard.tokens)
        if self._masks and len(self._masks) != len(self._files):
            raise ValueError(f"{self.folder / MANIFEST}: some shards of {split} have a mask and "
                             "some do not; run the stage tokenize again")

    @property
    def n_tokens(self) -> int:
        return self._starts[-1]

    @property
    def masked(self) -> bool:
        """Whether some positions do not count as targets."""
        return bool(self._masks)

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens start .. start + count of the stream, (count,) uint16.

        Raises ValueError when the stream is shorter, OSError when a file shrank meanwhile.
        """
        return self.rows([start], count)[0]

    def rows(self, starts: Sequence[int], count: int) -> np.ndarray:
        """The same for several places at once: (len(starts), count) uint16."""
        return self._gather(self._files, starts, count, np.dtype("<u2"), HEADER_BYTES)

    def read_mask(self, start: int, count: int) -> np.ndarray | None:
        """(count,) uint8, 1 where the token at that position counts as a target; None if all do."""
        return self.mask_rows([start], count)[0] if self._masks else None

    def mask_rows(self, starts: Sequence[int], count: int) -> np.ndarray:
        """The same of a masked stream for several places at once: (len(starts), count) uint8."""
        assert self._masks, "this stream has no mask"
        return self._gather(self._masks, starts, count, np.dtype(np.uint8), 0)

    def locate(self, offset: int) -> str:
        """Where the token at ``offset`` lies, for messages: train_000001.bin:12345."""
        at = min(bisect_right(self._starts, offset), len(self.shards)) - 1
        return f"{self.shards[at].name}:{offset - self._starts[at]}"

    def close(self) -> None:
        for file in self._files + self._masks:
            os.close(file)
        self._files, self._masks = [], []

    def _gather(self, files: list[int], starts: Sequence[int], count: int, dtype: np.dtype,
                skip: int) -> np.ndarray:
        for start in (min(starts), max(starts)):
            if start < 0 or count < 0 or start + count > self.n_tokens:
                raise ValueError(f"{self.folder}: tokens {start} to {start + count} of {self.split}"
                                 f" were asked for; there are {self.n_tokens}")
        out = np.empty((len(starts), count), dtype)
        raw, size = out.reshape(-1).view(np.uint8).data, dtype.itemsize
        width = count * size
        for row, start in enumerate(starts):  # each by one read into its place, mostly
            left = raw[row * width:(row + 1) * width]
            at = bisect_right(self._starts, start) - 1
            offset = (start - self._starts[at]) * size
            while len(left):
                inside = self.shards[at].tokens * size - offset
                got = os.preadv(files[at], [left[:inside]], skip + offset) if inside else 0
                if inside and not got:
                    raise OSError(f"{self.shards[at].file(self.folder)}: ends at byte "
                                  f"{skip + offset}; it was cut while being read")
                left, offset = left[got:], offset + got
                if got == inside:
                    at, offset = at + 1, 0
        return out.astype(dtype.newbyteorder("="), copy=False)


def verify_shard(path: Path, shard: Shard, verify: Literal["sampled", "full"]) -> None:
    """Raises ValueError, naming the file, when a shard is not what its manifest says."""
    again = "; run the stage tokenize again"
    if not path.is_file():
        raise ValueError(f"{path}: is in the manifest but not on the disk{again}")
    size, wanted = path.stat().st_size, HEADER_BYTES + TOKEN_BYTES * shard.tokens
    if size != wanted:
        raise ValueError(f"{path}: has {size} bytes, and {shard.tokens} tokens take "
                         f"{wanted}: it was {'cut short' if size < wanted else 'added to'}{again}")
    with path.open("rb") as file:
        if file.read(HEADER_BYTES) != header(shard.tokens):
            raise ValueError(f"{path}: its header is not that of {shard.tokens} uint16 "
                             f"tokens{again}")
        if verify == "full":
            good = checksums_of(path).sha256 == shard.sha256
        else:
            good = all(_block_is_good(file, n, shard) for n in _sampled(len(shard.crc32)))
    if not good:
        raise ValueError(f"{path}: its bytes differ from the manifest's checksum: it was "
                         f"altered{again}")
    if shard.mask_sha256:
        _verify_mask(path.with_suffix(".mask"), shard, verify)


def _verify_mask(path: Path, shard: Shard, verify: str) -> None:
    again = "; run the stage tokenize again"
    if not path.is_file() or path.stat().st_size != shard.tokens:
        raise ValueError(f"{path}: must hold one byte for each of {shard.tokens} tokens{again}")
    read = verify == "full" or shard.tokens <= SAMPLED_BLOCKS * BLOCK
    if read and hashlib.sha256(path.read_bytes()).hexdigest() != shard.mask_sha256:
        raise ValueError(f"{path}: its bytes differ from the manifest's checksum{again}")


def _sampled(blocks: int) -> list[int]:
    # Other blocks on every opening, so that over a few runs all of them get read. What is
    # checked has no effect on what is trained, hence no seed.
    if blocks <= SAMPLED_BLOCKS:
        return list(range(blocks))
    middle = random.SystemRandom().sample(range(1, blocks - 1), SAMPLED_BLOCKS - 2)
    return [0, *middle, blocks - 1]


def _block_is_good(file: Any, n: int, shard: Shard) -> bool:
    file.seek(n * BLOCK)
    return zlib.crc32(file.read(BLOCK)) == shard.crc32[n]
