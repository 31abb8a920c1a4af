"""Token shards on disk: writing them, verifying them, and reading a split as one stream.

A document may straddle two shards. `manifest.json` beside them holds their sizes and checksums, so
that a truncated or altered shard is found before a model trains on it.
"""

import hashlib
import os
import random
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from io import FileIO
from pathlib import Path
from typing import Literal

import numpy as np

from reprogpt.storage.files import replacing, sha256_of
from reprogpt.tokens.manifest import Shard, read_manifest
from reprogpt.tokens.shard_format import HEADER_BYTES, TOKEN_BYTES, header

BLOCK = 4 << 20
"""Bytes covered by one crc32 in the manifest."""
SAMPLED_BLOCKS = 4
"""Blocks of each shard that a sampled verification reads."""
Verify = Literal["sampled", "full"]
AGAIN = "; run the stage tokenize again"
ANY_ID = 1 << 16
"""A vocabulary of every id that uint16 can hold."""


def checksums_of(path: Path) -> tuple[str, str]:
    """The sha256 of a file, and the crc32 of each BLOCK bytes, 8 hex digits a block."""
    sha256, crcs = hashlib.sha256(), []
    with path.open("rb") as file:
        while data := file.read(BLOCK):
            sha256.update(data)
            crcs.append(f"{zlib.crc32(data):08x}")
    return sha256.hexdigest(), "".join(crcs)


def write_shard(path: Path, split: str, chunks: Iterable[np.ndarray], tokens: int, documents: int,
                masks: Iterable[np.ndarray] | None = None) -> Shard:
    """Writes a shard from uint16 arrays that hold ``tokens`` tokens in total, and its `.mask` file
    from ``masks`` (uint8, one a token). Nothing appears under ``path`` before it is complete."""
    _write(path, header(tokens), chunks, "<u2", tokens)
    mask_sha256 = None
    if masks is not None:
        mask = path.with_suffix(".mask")
        _write(mask, b"", masks, "u1", tokens)
        mask_sha256 = sha256_of(mask)
    return Shard(path.name, split, tokens, documents, *checksums_of(path), mask_sha256)


def _write(path: Path, head: bytes, arrays: Iterable[np.ndarray], dtype: str, count: int) -> None:
    written = 0
    with replacing(path) as temporary, temporary.open("wb") as out:
        out.write(head)
        for array in arrays:
            # "equiv": another byte order is converted, ids of another type (int64) are an error
            out.write(array.astype(dtype, order="C", casting="equiv", copy=False).data)
            written += len(array)
        assert written == count, f"{path}: {written} values where {count} are expected"


class TokenStream:
    """The shards of one split as one stream of tokens, read from disk on demand (os.preadv).

    Raises ValueError naming a file that is missing or differs from the manifest.
    """

    def __init__(self, folder: Path, split: str, verify: Verify = "sampled",
                 corpus: str | None = None):
        """``corpus``: only that one of a mixture."""
        self.folder, self.split, self.verify = Path(folder), split, verify
        self.manifest = read_manifest(self.folder)
        self.shards = self.manifest.of(split, corpus)
        self.n_vocab: int = self.manifest.tokenizer["n_vocab"]
        self._files: list[FileIO] = []
        self._masks: list[FileIO] = []
        self._starts = [0]  # offset of each shard's first token, and the length of the stream
        for shard in self.shards:
            path = shard.file(self.folder)
            verify_shard(path, shard, verify, self.n_vocab)
            self._files.append(FileIO(path))
            if shard.mask_sha256:
                self._masks.append(FileIO(path.with_suffix(".mask")))
            self._starts.append(self._starts[-1] + shard.tokens)
        assert len(self._masks) in (0, len(self._files)), "all shards have a mask, or none"

    @property
    def n_tokens(self) -> int:
        return self._starts[-1]

    @property
    def masked(self) -> bool:
        """Whether the split has a mask, by which some tokens do not count as targets."""
        return bool(self._masks)

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens start to start + count - 1: (count,) uint16. Raises ValueError outside the stream,
        OSError when a file was truncated meanwhile."""
        return self.rows([start], count)[0]

    def rows(self, starts: Sequence[int], count: int) -> np.ndarray:
        """``count`` tokens from each of ``starts``: (len(starts), count) uint16. Raises ValueError
        for an id that is not in the vocabulary."""
        ids = self._gather(self._files, starts, count, np.dtype("<u2"), HEADER_BYTES)
        if ids.max(initial=0) >= self.n_vocab:
            row, column = divmod(int(ids.argmax()), count)
            raise ValueError(f"{self.folder}: {self.locate(starts[row] + column)} is the token id "
                             f"{ids[row, column]}, but the vocabulary has only {self.n_vocab} "
                             f"tokens{AGAIN}")
        return ids

    def read_mask(self, start: int, count: int) -> np.ndarray | None:
        """(count,) uint8, 1 where the token counts as a target; None when all tokens do."""
        return self.mask_rows([start], count)[0] if self._masks else None

    def mask_rows(self, starts: Sequence[int], count: int) -> np.ndarray:
        """The mask at each of ``starts``: (len(starts), count) uint8."""
        assert self._masks, "this stream has no mask"
        return self._gather(self._masks, starts, count, np.dtype(np.uint8), 0)

    def verify_rest(self) -> None:
        """Verifies all of the shards of which the opening has read only a sample."""
        for shard in self.shards:
            if self.verify == "sampled" and len(shard.crc32) > 8 * SAMPLED_BLOCKS:
                verify_shard(shard.file(self.folder), shard, "full", self.n_vocab)

    def locate(self, offset: int) -> str:
        """Shard and position of the token at ``offset``, for messages: train_000001.bin:12345."""
        at = min(bisect_right(self._starts, offset), len(self.shards)) - 1
        return f"{self.shards[at].name}:{offset - self._starts[at]}"

    def _gather(self, files: list[FileIO], starts: Sequence[int], count: int, dtype: np.dtype,
                skip: int) -> np.ndarray:
        for start in (min(starts), max(starts)):
            if start < 0 or count < 0 or start + count > self.n_tokens:
                raise ValueError(f"{self.folder}: tokens {start} to {start + count} of {self.split}"
                                 f" are out of range; there are {self.n_tokens}")
        out = np.empty((len(starts), count), dtype)
        raw, size = out.reshape(-1).view(np.uint8).data, dtype.itemsize
        width = count * size
        for row, start in enumerate(starts):  # one preadv into place, two where shards meet
            left = raw[row * width:(row + 1) * width]
            at = bisect_right(self._starts, start) - 1
            offset = (start - self._starts[at]) * size
            while len(left):
                inside = self.shards[at].tokens * size - offset
                got = os.preadv(files[at].fileno(), [left[:inside]], skip + offset) if inside else 0
                if inside and not got:
                    raise OSError(f"{self.shards[at].file(self.folder)}: ends at byte "
                                  f"{skip + offset}; it was truncated while being read")
                left, offset = left[got:], offset + got
                if got == inside:
                    at, offset = at + 1, 0
        return out.astype(dtype.newbyteorder("="), copy=False)


def open_split(folder: Path, split: str, verify: Verify = "sampled") -> dict[str, TokenStream]:
    """The streams of a split by corpus: those of a mixture, or one alone under the name ""."""
    names = read_manifest(folder).mix
    return ({name: TokenStream(folder, split, verify, name) for name in names}
            or {"": TokenStream(folder, split, verify)})


def verify_shard(path: Path, shard: Shard, verify: Verify, n_vocab: int = ANY_ID) -> None:
    """Compares a shard and its mask with the manifest: size, and checksums of some of its blocks
    ("sampled", always the first, with the header) or of all ("full"). In those blocks every id must
    be below ``n_vocab``. Raises ValueError naming the file."""
    if not path.is_file():
        raise ValueError(f"{path}: is in the manifest but not on the disk{AGAIN}")
    size, expected = path.stat().st_size, HEADER_BYTES + TOKEN_BYTES * shard.tokens
    if size != expected:
        change = "truncated" if size < expected else "appended to"
        raise ValueError(f"{path}: has {size} bytes, but {shard.tokens} tokens take {expected}: it "
                         f"was {change}{AGAIN}")
    blocks = -(-size // BLOCK)
    mask = path.with_suffix(".mask")
    if shard.mask_sha256 and (not mask.is_file() or mask.stat().st_size != shard.tokens):
        raise ValueError(f"{mask}: must hold one byte for each of {shard.tokens} tokens{AGAIN}")
    chosen = _sampled(blocks) if verify == "sampled" else range(blocks)
    sha256 = _verify_blocks(path, shard, chosen, n_vocab)
    if verify == "full" and sha256 != shard.sha256:
        raise ValueError(f"{path}: its bytes differ from the manifest's sha256{AGAIN}")
    small = shard.tokens <= SAMPLED_BLOCKS * BLOCK
    if shard.mask_sha256 and (small or verify == "full") and sha256_of(mask) != shard.mask_sha256:
        raise ValueError(f"{mask}: its bytes differ from the manifest's checksum{AGAIN}")


def _verify_blocks(path: Path, shard: Shard, blocks: Sequence[int], n_vocab: int) -> str:
    """Compares these blocks of a shard with their checksums; returns the sha256 of all of them."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in blocks:
            file.seek(start := block * BLOCK)
            data = file.read(BLOCK)
            if f"{zlib.crc32(data):08x}" != shard.crc32[8 * block:8 * block + 8]:
                raise ValueError(f"{path}: its bytes {start} to {start + len(data) - 1} differ "
                                 f"from the manifest's checksum: it was altered{AGAIN}")
            ids = np.frombuffer(data, "<u2")[0 if block else HEADER_BYTES // TOKEN_BYTES:]
            if (top := int(ids.max(initial=0))) >= n_vocab:
                raise ValueError(f"{path}: holds the token id {top}, but the vocabulary has only "
                                 f"{n_vocab} tokens{AGAIN}")
            digest.update(data)
    return digest.hexdigest()


def _sampled(blocks: int) -> list[int]:
    # Other blocks on every opening: repeated runs cover the file.
    if blocks <= SAMPLED_BLOCKS:
        return list(range(blocks))
    middle = random.SystemRandom().sample(range(1, blocks - 1), SAMPLED_BLOCKS - 2)
    return [0, *middle, blocks - 1]
