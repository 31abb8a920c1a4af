"""Which tokens a step trains on: a pure function, so there is no state to save or to lose.

The tokens of a split are one stream. An epoch cuts it into windows of block_size tokens (from an
offset that each epoch draws anew) and visits every window once, in an order permuted by (seed,
epoch). Row r of step s is window number s * rows + r of that endless sequence. The global batch is
thus decided by (seed, step) alone, and only then sliced by rank and by micro-step: a resume needs
no more than the step, and any number of processes trains on the same rows.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reprogpt.loss import MASKED
from reprogpt.permutation import Permutation, draw
from reprogpt.shards import TokenStream


@dataclass(frozen=True)
class Batch:
    """One process's rows of a global batch."""

    idx: Tensor
    """(b, T) int64"""
    targets: Tensor
    """(b, T) int64, the token after each position; MASKED where it is not trained on"""
    rows: Tensor
    """(b,) int64: the rows' numbers within the global batch"""
    valid: int
    """Targets of the *global* batch that are not MASKED"""

    def micro_steps(self, micro_batch: int) -> Iterator["Batch"]:
        """The same rows in parts as even as can be, at most ``micro_batch`` rows each."""
        rows = len(self.rows)
        parts = -(-rows // micro_batch)
        for i in range(parts):
            s = slice(rows * i // parts, rows * (i + 1) // parts)
            yield Batch(self.idx[s], self.targets[s], self.rows[s], self.valid)

    def to(self, device: torch.device) -> "Batch":
        """On ``device``; a copy to a GPU overlaps with what the GPU is doing."""
        if device.type == "cpu":
            return self
        pin = device.type == "cuda"
        idx, targets, rows = ((t.pin_memory() if pin else t).to(device, non_blocking=pin)
                              for t in (self.idx, self.targets, self.rows))
        return Batch(idx, targets, rows, self.valid)


class Loader:
    """``loader.batch(step, rank, world_size)`` over a :class:`TokenStream`."""

    def __init__(self, stream: TokenStream, batch_tokens: int, block_size: int, seed: int,
                 order: str = "shuffled") -> None:
        """Raises ValueError when the stream is shorter than one window."""
        T, N = block_size, stream.n_tokens
        if N <= T:
            raise ValueError(f"params.yaml: model.block_size={T} needs at least {T + 1} training "
                             f"tokens, and there are {N}; lower it or add text")
        self.stream, self.block_size, self.seed, self.order = stream, T, seed, order
        self.rows = batch_tokens // T
        """Rows of the global batch."""
        # A shuffled epoch leaves room for its offset, so that all epochs have equally many windows.
        self.windows = max(1, (N - T) // T) if order == "shuffled" else (N - 1) // T
        """Windows of an epoch."""
        self._slack = N - 1 - self.windows * T

    def starts(self, step: int, rows: range | None = None) -> NDArray[np.int64]:
        """Where each row of step's global batch (or of ``rows`` of it) starts in the stream."""
        rows = range(self.rows) if rows is None else rows
        number = step * self.rows + np.arange(rows.start, rows.stop, dtype=np.int64)
        epoch, place = np.divmod(number, self.windows)
        out = np.empty_like(place)
        for e in np.unique(epoch).tolist():
            here = epoch == e
            offset, order = self._epoch(e)
            out[here] = offset + self.block_size * (order(place[here]) if order else place[here])
        return out

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Rank's share of step's global batch; shares differ by at most one row."""
        rows = range(self.rows * rank // world_size, self.rows * (rank + 1) // world_size)
        T = self.block_size
        tokens = np.stack([self.stream.read(s, T + 1) for s in self.starts(step, rows).tolist()])
        both = torch.from_numpy(tokens.astype(np.int64))
        idx, targets, valid = both[:, :-1], both[:, 1:], self.rows * T
        if self.stream.masked:
            # The divisor of the loss is global, so every process reads the whole batch's mask.
            mask = np.stack([self._mask(s + 1) for s in self.starts(step).tolist()])
            valid = int(mask.sum())
            mine = torch.from_numpy(mask[rows.start:rows.stop]).bool()
            targets = targets.masked_fill(~mine, MASKED)
        numbers = torch.arange(rows.start, rows.stop)
        return Batch(idx.contiguous(), targets.contiguous(), numbers, valid)

    def ahead(self, steps: range, rank: int, world_size: int) -> Iterator[Batch]:
        """The batches of ``steps``, the next one read while the last one is used."""
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
            pending = [pool.submit(self.batch, s, rank, world_size) for s in steps[:1]]
            for step in steps:
                batch = pending.pop().result()
                if step + 1 < steps.stop:
                    pending.append(pool.submit(self.batch, step + 1, rank, world_size))
                yield batch

    def epochs(self, steps: int) -> float:
        """How often ``steps`` steps go over the stream."""
        return steps * self.rows / self.windows

    def describe(self, step: int) -> str:
        """The places a step's rows come from, for a message: shard:offset, ..."""
        places = [self.stream.locate(s) for s in self.starts(step).tolist()]
        return ", ".join(places[:8]) + (f" and {len(places) - 8} more" if len(places) > 8 else "")

    @property
    def unused_tokens(self) -> int:
        """Tokens that an epoch does not predict: the stream's first, and the rest at its end."""
        return self.stream.n_tokens - self.windows * self.block_size

    def _mask(self, start: int) -> NDArray[np.uint8]:
        mask = self.stream.read_mask(start, self.block_size)
        assert mask is not None, "a masked stream has a mask everywhere"
        return mask

    @lru_cache(maxsize=2)  # noqa: B019 (a loader lives as long as its process)
    def _epoch(self, epoch: int) -> tuple[int, Permutation | None]:
        if self.order == "sequential":
            return 0, None
        offset = draw(min(self._slack, self.block_size - 1) + 1, self.seed, epoch)
        return offset, Permutation(self.windows, self.seed, epoch)
