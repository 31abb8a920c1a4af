"""The global batch of each step: a pure function of (seed, step), so there is no state to save.

An epoch divides the split's stream of tokens into windows of block_size, from an offset drawn anew,
and visits every window once, in an order permuted by (seed, epoch). Row r of step s is window
before(s) + r of this endless sequence (batch_schedule.py). Only then is the batch sliced by rank
and into micro-batches, so any number of processes trains on the same rows.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reprogpt.model.loss import MASKED
from reprogpt.runtime.device import copy_to
from reprogpt.tokens.shards import TokenStream
from reprogpt.training.batch_schedule import BatchSizes
from reprogpt.training.permutation import draw, permute

CHUNK = 4096
"""Windows whose starts are computed at once: one at a time costs more than reading the tokens."""


@dataclass(frozen=True)
class Batch:
    """One process's rows of a global batch."""

    idx: Tensor  # (b, T) int64
    targets: Tensor  # (b, T) int64, the token after each position; MASKED: not trained on
    rows: Tensor  # (b,) int64: the rows' numbers within the global batch
    valid: int  # targets of the *global* batch that are not MASKED
    most: int = 0  # largest per-rank row count; 0: no rank has more rows than this one

    def micro_batches(self, limit: int) -> Iterator["Batch"]:
        """The rows in parts of nearly equal size, at most ``limit`` rows each. Every rank has as
        many parts, the first perhaps empty: under FSDP every forward is a collective."""
        rows = len(self.rows)
        parts = -(-max(rows, self.most) // limit)
        for i in range(parts):
            yield self[rows * i // parts:rows * (i + 1) // parts]

    def __getitem__(self, rows: slice) -> "Batch":
        return replace(self, idx=self.idx[rows], targets=self.targets[rows], rows=self.rows[rows])

    def to(self, device: torch.device) -> "Batch":
        idx, targets, rows = (copy_to(x, device) for x in (self.idx, self.targets, self.rows))
        return replace(self, idx=idx, targets=targets, rows=rows)


class Loader:
    """``loader.batch(step, rank, world_size)`` over a :class:`TokenStream`."""

    def __init__(self, stream: TokenStream, batch: int | BatchSizes, block_size: int, seed: int,
                 order: str = "shuffled") -> None:
        """``batch``: tokens of the global batch, or its rows at each step. Raises ValueError when
        the stream is shorter than one window."""
        T, N = block_size, stream.n_tokens
        if N <= T:
            raise ValueError(f"params.yaml: model.block_size={T} needs at least {T + 1} training "
                             f"tokens, and there are {N}; lower it or add text")
        self.stream, self.block_size, self.seed, self.order = stream, T, seed, order
        self.sizes = BatchSizes(batch // T) if isinstance(batch, int) else batch
        # A shuffled epoch leaves room for its offset, so that all epochs have equally many windows.
        self.windows = max(1, (N - T) // T) if order == "shuffled" else (N - 1) // T
        self._slack = N - 1 - self.windows * T

    def starts(self, step: int, rows: range | None = None) -> NDArray[np.int64]:
        """Where in the stream the rows of step's global batch start, or ``rows`` of them."""
        rows = range(self.sizes.rows(step)) if rows is None else rows
        number = self.sizes.before(step) + rows.start
        out: list[NDArray[np.int64]] = []
        missing = len(rows)
        while missing:
            epoch, window = divmod(number, self.windows)
            chunk, first = divmod(window, CHUNK)
            out.append(self._chunk(epoch, chunk)[first:first + missing])
            number, missing = number + len(out[-1]), missing - len(out[-1])
        return np.concatenate(out)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """The rank's share of step's global batch; shares differ by at most one row."""
        total, T = self.sizes.rows(step), self.block_size
        rows = range(total * rank // world_size, total * (rank + 1) // world_size)
        tokens = self.stream.rows(self.starts(step, rows).tolist(), T + 1)
        idx, targets = (torch.from_numpy(part.astype(np.int64))
                        for part in (tokens[:, :-1], tokens[:, 1:]))
        valid = total * T
        if self.stream.masked:
            # The loss's divisor is global, so every process reads the whole batch's mask.
            mask = self.stream.mask_rows((self.starts(step) + 1).tolist(), T)
            valid = int(mask.sum())
            targets.masked_fill_(torch.from_numpy(mask[rows.start:rows.stop]) == 0, MASKED)
        numbers, most = torch.arange(rows.start, rows.stop), -(-total // world_size)
        return Batch(idx, targets, numbers, valid, most)

    def prefetch(self, steps: range, rank: int, world_size: int) -> Iterator[Batch]:
        """The batches of ``steps``; a thread reads the next one while the last one is used."""
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
            pending = [pool.submit(self.batch, s, rank, world_size) for s in steps[:1]]
            for step in steps:
                batch = pending.pop().result()
                if step + 1 < steps.stop:
                    pending.append(pool.submit(self.batch, step + 1, rank, world_size))
                yield batch

    def epochs(self, steps: int) -> float:
        """Passes over the stream that ``steps`` steps make."""
        return self.sizes.before(steps) / self.windows

    def tokens(self, steps: int) -> int:
        """Tokens that ``steps`` steps train on."""
        return self.sizes.before(steps) * self.block_size

    def describe(self, step: int) -> str:
        """Where step's rows are in the shards, for a message: shard:offset, ..."""
        places = [self.stream.locate(s) for s in self.starts(step).tolist()]
        return ", ".join(places[:8]) + (f" and {len(places) - 8} more" if len(places) > 8 else "")

    @property
    def unused_tokens(self) -> int:
        """Tokens that are no target in an epoch: the first one, and the rest at the end."""
        return self.stream.n_tokens - self.windows * self.block_size

    @lru_cache(maxsize=2)  # noqa: B019 (a loader lives as long as its process)
    def _chunk(self, epoch: int, chunk: int) -> NDArray[np.int64]:
        """Starts of the epoch's windows number chunk * CHUNK and following."""
        window = np.arange(chunk * CHUNK, min((chunk + 1) * CHUNK, self.windows))
        if self.order == "sequential":
            return window * self.block_size
        offset = draw(min(self._slack, self.block_size - 1) + 1, self.seed, epoch)
        return offset + self.block_size * permute(window, self.windows, self.seed, epoch)
