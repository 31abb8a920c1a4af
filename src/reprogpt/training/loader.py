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


def open_loader(cfg: Config, tokens: Path, init: Path, processes: int = 1) -> "Loader":
    """The loader of a run: the shards in ``tokens``, drawn by the weights in ``init`` if they are a
    mixture's. Raises ValueError when the two do not belong together, or a process has no row."""
    streams, weights = open_split(tokens, "train", cfg.runtime.verify), read_weights(init)
    if list(streams) != list(weights or {"": 1.0}):
        raise ValueError(f"{tokens}: holds the corpora {list(streams)}, and {init} the weights of "
                         f"{list(weights or {})}; run `dvc repro`, which makes both anew")
    T, ramp = cfg.model.block_size, cfg.train.batch_ramp is not None
    sizes = batch_sizes(cfg.train, T)
    if (rows := sizes.rows(0)) < processes:
        raise ValueError(f"params.yaml: runtime.nproc={processes} is more than the {rows} rows of "
                         f"{'the first' if ramp else 'a'} batch; lower it or raise "
                         f"train.{'batch_ramp.start_tokens' if ramp else 'batch_tokens'}")
    return Loader(streams, sizes, T, cfg.seed, cfg.train.order, weights)


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
        self.streams = {"": streams} if isinstance(streams, TokenStream) else streams
        self.corpora = {name: Windows(stream, block_size, order, seed, name)
                        for name, stream in self.streams.items()}

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
        if any(stream.masked for stream in self.streams.values()):
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

    def tokens(self, steps: int) -> int:
        """Tokens that ``steps`` steps train on."""
        return self.sizes.before(steps) * self.block_size

    def counts(self, steps: int) -> dict[str, Any]:
        """What ``steps`` steps have of the data: tokens; epochs, of all corpora taken together;
        tokens that are no target in an epoch (the first, and the rest at the end); as ``mix`` each
        corpus of a mixture."""
        rows, corpora, T = self.sizes.before(steps), self.corpora, self.block_size
        windows = sum(w.per_epoch for w in corpora.values())
        found = {"tokens": rows * T, "epochs": round(rows / windows, 4),
                 "unused_tokens": sum(s.n_tokens for s in self.streams.values()) - windows * T}
        if self.mixture is None:
            return found
        return found | {"mix": {
            name: {"share": self.mixture.shares[name], "tokens": count * T,
                   "epochs": round(count / corpora[name].per_epoch, 4)}
            for name, count in self.mixture.counts(rows).items()}}

    def describe(self, step: int) -> str:
        """Where step's rows are in the shards, for a message: shard:offset, ..."""
        places = [windows.stream.locate(start) for windows, _, starts in self.places(step)
                  for start in starts.tolist()]
        return ", ".join(places[:8]) + (f" and {len(places) - 8} more" if len(places) > 8 else "")
