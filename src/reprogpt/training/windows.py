"""One stream of tokens as an endless sequence of windows, which needs no state.

An epoch divides the stream into windows of block_size, from an offset drawn anew, and visits every
window once, in an order permuted by (seed, epoch).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from reprogpt.tokens.shards import TokenStream
from reprogpt.training.permutation import draw, permute

CHUNK = 4096
"""Windows whose starts are computed at once: one at a time costs more than reading the tokens."""


class Windows:
    """``windows.starts(first, n)``: where windows first to first + n - 1 begin in the stream."""

    def __init__(self, stream: TokenStream, block_size: int, order: str, seed: int,
                 corpus: str = "") -> None:
        """``seed`` and ``corpus``, the name of one corpus of a mixture, select the permutations.
        Raises ValueError when the stream is shorter than one window."""
        T, N = block_size, stream.n_tokens
        if N <= T:
            raise ValueError(f"params.yaml: model.block_size={T} needs at least {T + 1} training "
                             f"tokens{f' of {corpus}' * bool(corpus)}, and there are {N}; lower it "
                             "or add text")
        self.stream, self.block_size, self.order = stream, T, order
        self._key: tuple[int | str, ...] = (seed, corpus) if corpus else (seed,)
        # A shuffled epoch leaves room for its offset, so that all epochs have equally many windows.
        self.per_epoch = max(1, (N - T) // T) if order == "shuffled" else (N - 1) // T
        self._slack = N - 1 - self.per_epoch * T

    def starts(self, first: int, count: int) -> NDArray[np.int64]:
        """(count,) offsets of windows ``first`` and following of the endless sequence."""
        parts = [np.zeros(0, np.int64)]
        while count:
            epoch, window = divmod(first, self.per_epoch)
            chunk, at = divmod(window, CHUNK)
            parts.append(self._chunk(epoch, chunk)[at:at + count])
            first, count = first + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)

    @lru_cache(maxsize=2)  # noqa: B019 (a loader lives as long as its process)
    def _chunk(self, epoch: int, chunk: int) -> NDArray[np.int64]:
        """Starts of the epoch's windows number chunk * CHUNK and following."""
        window = np.arange(chunk * CHUNK, min((chunk + 1) * CHUNK, self.per_epoch))
        if self.order == "sequential":
            return window * self.block_size
        offset = draw(min(self._slack, self.block_size - 1) + 1, *self._key, epoch)
        return offset + self.block_size * permute(window, self.per_epoch, *self._key, epoch)
