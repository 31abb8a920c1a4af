"""Writes a stream of tokens as shards of a fixed size, for tests that need shards on disk."""

from pathlib import Path

import numpy as np

from reprogpt.tokens.manifest import Shard
from reprogpt.tokens.shards import write_shard


class ShardWriter:
    """Splits one split's stream of tokens into shards of ``shard_tokens`` each, the last shorter.

    Call ``document()`` where a document begins, ``write(tokens, mask)`` any number of times, then
    ``close()``, which returns the shards.
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
        """Appends tokens (n,) uint16 and, in a masked split, their mask (n,) uint8 (default: 1)."""
        assert tokens.dtype == np.uint16
        mask = np.ones(len(tokens), np.uint8) if mask is None else mask
        while len(tokens):
            if self._held == self.shard_tokens:
                self._flush()
            n = min(len(tokens), self.shard_tokens - self._held)
            self._tokens.append(tokens[:n])
            self._masks.append(mask[:n].astype(np.uint8))
            self._held += n
            tokens, mask = tokens[n:], mask[n:]

    def close(self) -> list[Shard]:
        if self._held:
            self._flush()
        return self.shards

    def _flush(self) -> None:
        name = f"{self.split}_{len(self.shards):06d}.bin"
        self.shards.append(write_shard(self.folder / name, self.split, self._tokens, self._held,
                                       self._documents, self._masks if self.masked else None))
        self._tokens, self._masks, self._held, self._documents = [], [], 0, 0
