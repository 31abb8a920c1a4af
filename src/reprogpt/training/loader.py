"""The global batch of each step: a pure function of (seed, step), so there is no state to save.

Row r of step s is row before(s) + r of an endless sequence (batch_schedule.py): the windows of the
training split (windows.py), or of several corpora in turn (mixture.py). Only then is the batch
sliced by rank and into micro-batches, so any number of processes trains on the same rows.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reprogpt.config import Config
from reprogpt.model.loss import MASKED
from reprogpt.runtime.device import copy_to
from reprogpt.tokens.shards import TokenStream, open_split
from reprogpt.training.batch_schedule import BatchSizes, batch_sizes
from reprogpt.training.mixture import Mixture, read_weights
from reprogpt.training.windows import Windows


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


def open_loader(cfg: Config, tokens: Path, init: Path) -> "Loader":
    """The loader of a run: the shards in ``tokens``, drawn by the weights in ``init`` if they are a
    mixture's. Raises ValueError when the two do not belong together."""
    streams, weights = open_split(tokens, "train", cfg.runtime.verify), read_weights(init)
    if list(streams) != list(weights or {"": 1.0}):
        raise ValueError(f"{tokens}: holds the corpora {list(streams)}, and {init} the weights of "
                         f"{list(weights or {})}; run `dvc repro`, which makes both anew")
    T = cfg.model.block_size
    return Loader(streams, batch_sizes(cfg.train, T), T, cfg.seed, cfg.train.order, weights)


class Loader:
    """``loader.batch(step, rank, world_size)`` over the windows of one corpus, or of a mixture."""

    def __init__(self, streams: TokenStream | Mapping[str, TokenStream], batch: int | BatchSizes,
                 block_size: int, seed: int, order: str = "shuffled",
                 weights: Mapping[str, float] | None = None) -> None:
        """``streams``: the training split, or with ``weights`` that of each corpus by name.
        ``batch``: tokens of the global batch, or its rows at each step. Raises ValueError when a
        stream is shorter than one window."""
        self.sizes = BatchSizes(batch // block_size) if isinstance(batch, int) else batch
        self.block_size = block_size
        self.mixture = Mixture(weights, seed) if weights else None
        self.shares = self.mixture.shares if self.mixture else {}
        """Of a mixture: each corpus's share of the rows."""
        if isinstance(streams, TokenStream):
            streams = {"": streams}
        self.corpora = {name: Windows(stream, block_size, order, seed, name)
                        for name, stream in streams.items()}

    def places(self, step: int, rows: range | None = None
               ) -> Iterator[tuple[Windows, NDArray[np.int64], NDArray[np.int64]]]:
        """Of step's global batch, or ``rows`` of it: (windows, rows (k,) counted from rows.start,
        their starts (k,) in windows.stream), corpus by corpus."""
        rows = range(self.sizes.rows(step)) if rows is None else rows
        first, count = self.sizes.before(step) + rows.start, len(rows)
        if self.mixture is None:
            yield self.corpora[""], np.arange(count), self.corpora[""].starts(first, count)
            return
        for name, at, number in self.mixture.rows(first, count):
            yield self.corpora[name], at, self.corpora[name].starts(number, len(at))

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """The rank's share of step's global batch; shares differ by at most one row."""
        total, T = self.sizes.rows(step), self.block_size
        rows = range(total * rank // world_size, total * (rank + 1) // world_size)
        tokens = np.empty((len(rows), T + 1), np.int64)
        for windows, at, starts in self.places(step, rows):
            tokens[at] = windows.stream.rows(starts.tolist(), T + 1)
        idx, targets = torch.from_numpy(tokens[:, :-1]).clone(), torch.from_numpy(tokens[:, 1:])
        valid = total * T
        if any(windows.stream.masked for windows in self.corpora.values()):
            # The loss's divisor is global, so every process reads the whole batch's masks.
            mask = np.ones((total, T), np.uint8)
            for windows, at, starts in self.places(step):
                if windows.stream.masked:
                    mask[at] = windows.stream.mask_rows((starts + 1).tolist(), T)
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
        """Passes over the windows, all corpora taken together, that ``steps`` steps make."""
        return self.sizes.before(steps) / sum(w.per_epoch for w in self.corpora.values())

    def tokens(self, steps: int) -> int:
        """Tokens that ``steps`` steps train on."""
        return self.sizes.before(steps) * self.block_size

    def by_corpus(self, steps: int) -> dict[str, dict[str, Any]]:
        """Of a mixture: each corpus's share, and the tokens and epochs of it in ``steps`` steps."""
        if self.mixture is None:
            return {}
        rows = {name: self.mixture.count(name, self.sizes.before(steps)) for name in self.corpora}
        return {name: {"share": self.shares[name], "tokens": rows[name] * self.block_size,
                       "epochs": round(rows[name] / windows.per_epoch, 4)}
                for name, windows in self.corpora.items()}

    def describe(self, step: int) -> str:
        """Where step's rows are in the shards, for a message: shard:offset, ..."""
        places = [windows.stream.locate(start) for windows, _, starts in self.places(step)
                  for start in starts.tolist()]
        return ", ".join(places[:8]) + (f" and {len(places) - 8} more" if len(places) > 8 else "")

    @property
    def unused_tokens(self) -> int:
        """Tokens that are no target in an epoch: the first one, and the rest at the end."""
        return sum(w.stream.n_tokens - w.per_epoch * self.block_size
                   for w in self.corpora.values())
