"""Which tokens a step trains on: a pure function, so there is no state to save or to lose.

The tokens of a split are one stream. An epoch cuts it into windows of block_size tokens (from an
offset that each epoch draws anew) and visits every window once, in an order permuted by (seed,
epoch). Row r of step s is window number before(s) + r of that endless sequence, where before(s) is
the number of rows of all earlier steps (batch_sizes.py). The global batch is thus decided by (seed,
step) alone, and only then sliced by rank and by micro-step: a resume needs no more than the step,
and any number of processes trains on the same rows.
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
from reprogpt.training.permutation import Permutation, draw

STRETCH = 4096
"""Windows whose places are computed at once and kept for the next steps: one by one, the
permutation's many small operations would cost more than reading the tokens does."""


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
    most: int = 0
    """Rows of the process that has the most of them; 0: as many as this one"""

    def micro_steps(self, micro_batch: int) -> Iterator["Batch"]:
        """The same rows in parts as even as can be, at most ``micro_batch`` rows each.

        As many parts on every process, the first perhaps empty: FSDP's passes are joint ones.
        """
        rows = len(self.rows)
        parts = -(-max(rows, self.most) // micro_batch)
        for i in range(parts):
            yield self[rows * i // parts:rows * (i + 1) // parts]

    def __getitem__(self, rows: slice) -> "Batch":
        """Some of the rows."""
        return replace(self, idx=self.idx[rows], targets=self.targets[rows], rows=self.rows[rows])

    def to(self, device: torch.device) -> "Batch":
        """On ``device``."""
        idx, targets, rows = (copy_to(x, device) for x in (self.idx, self.targets, self.rows))
        return replace(self, idx=idx, targets=targets, rows=rows)


class Loader:
    """``loader.batch(step, rank, world_size)`` over a :class:`TokenStream`."""

    def __init__(self, stream: TokenStream, batch: int | BatchSizes, block_size: int, seed: int,
                 order: str = "shuffled") -> None:
        """``batch``: tokens of the global batch, or how many rows it has at each step.

        Raises ValueError when the stream is shorter than one window.
        """
        T, N = block_size, stream.n_tokens
        if N <= T:
            raise ValueError(f"params.yaml: model.block_size={T} needs at least {T + 1} training "
                             f"tokens, and there are {N}; lower it or add text")
        self.stream, self.block_size, self.seed, self.order = stream, T, seed, order
        self.sizes = BatchSizes(batch // T) if isinstance(batch, int) else batch
        # A shuffled epoch leaves room for its offset, so that all epochs have equally many windows.
        self.windows = max(1, (N - T) // T) if order == "shuffled" else (N - 1) // T
        """Windows of an epoch."""
        self._slack = N - 1 - self.windows * T

    def starts(self, step: int, rows: range | None = None) -> NDArray[np.int64]:
        """Where each row of step's global batch (or of ``rows`` of it) starts in the stream."""
        rows = range(self.sizes.rows(step)) if rows is None else rows
        number = self.sizes.before(step) + rows.start
        out: list[NDArray[np.int64]] = []
        missing = len(rows)
        while missing:
            epoch, place = divmod(number, self.windows)
            stretch, first = divmod(place, STRETCH)
            out.append(self._stretch(epoch, stretch)[first:first + missing])
            number, missing = number + len(out[-1]), missing - len(out[-1])
        return np.concatenate(out)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Rank's share of step's global batch; shares differ by at most one row."""
        total, T = self.sizes.rows(step), self.block_size
        rows = range(total * rank // world_size, total * (rank + 1) // world_size)
        tokens = self.stream.rows(self.starts(step, rows).tolist(), T + 1)
        idx, targets = (torch.from_numpy(part.astype(np.int64))
                        for part in (tokens[:, :-1], tokens[:, 1:]))
        valid = total * T
        if self.stream.masked:
            # The divisor of the loss is global, so every process reads the whole batch's mask.
            mask = self.stream.mask_rows((self.starts(step) + 1).tolist(), T)
            valid = int(mask.sum())
            targets.masked_fill_(torch.from_numpy(mask[rows.start:rows.stop]) == 0, MASKED)
        numbers, most = torch.arange(rows.start, rows.stop), -(-total // world_size)
        return Batch(idx, targets, numbers, valid, most)

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
        return self.sizes.before(steps) / self.windows

    def tokens(self, steps: int) -> int:
        """How many tokens ``steps`` steps train on."""
        return self.sizes.before(steps) * self.block_size

    def describe(self, step: int) -> str:
        """The places a step's rows come from, for a message: shard:offset, ..."""
        places = [self.stream.locate(s) for s in self.starts(step).tolist()]
        return ", ".join(places[:8]) + (f" and {len(places) - 8} more" if len(places) > 8 else "")

    @property
    def unused_tokens(self) -> int:
        """Tokens that an epoch does not predict: the stream's first, and the rest at its end."""
        return self.stream.n_tokens - self.windows * self.block_size

    @lru_cache(maxsize=2)  # noqa: B019 (a loader lives as long as its process)
    def _stretch(self, epoch: int, stretch: int) -> NDArray[np.int64]:
        """Where the windows of one stretch of an epoch start."""
        place = np.arange(stretch * STRETCH, min((stretch + 1) * STRETCH, self.windows))
        if self.order == "sequential":
            return place * self.block_size
        offset = draw(min(self._slack, self.block_size - 1) + 1, self.seed, epoch)
        return offset + self.block_size * Permutation(self.windows, self.seed, epoch)(place)
