"""Validation loss and bits per byte of a token stream.

The loss is the mean nll over floor(val_tokens / block_size) non-overlapping windows from token 0 of
the split: the same targets whatever the batch or the number of processes. Bits per byte divides the
same sum by the bytes of text of the targets, which makes runs with different tokenizers comparable
(``<|endoftext|>`` has 0 bytes).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from reprogpt.evaluation.scoring import Head, tokens_at_once
from reprogpt.model.gpt import GPT
from reprogpt.model.loss import MASKED
from reprogpt.runtime.distributed import Process


class Stream(Protocol):
    """A split as one stream of tokens: what is used of a tokens.shards.TokenStream."""

    @property
    def n_tokens(self) -> int: ...

    def read(self, start: int, count: int) -> np.ndarray: ...

    def read_mask(self, start: int, count: int) -> np.ndarray | None: ...


@dataclass(frozen=True)
class Validation:
    """Result of :func:`validation_loss`."""

    loss: float  # mean nll, in nats a token
    bits_per_byte: float
    tokens: int  # targets scored


def mixture_loss(model: GPT, streams: Mapping[str, Stream], shares: Mapping[str, float],
                 token_bytes: np.ndarray, process: Process, **options: Any
                 ) -> tuple[Validation, dict[str, Validation]]:
    """:func:`validation_loss` of each corpus of a mixture, and of the whole."""
    parts = {name: validation_loss(model, stream, token_bytes, process, **options)
             for name, stream in streams.items()}
    return (weighted(parts, shares) if shares else parts[""]), parts


def weighted(parts: Mapping[str, Validation], shares: Mapping[str, float]) -> Validation:
    """The loss on text that is drawn from each corpus of a mixture by its share of the tokens; bits
    per byte likewise of its nats and bytes."""
    loss = sum(shares[name] * part.loss for name, part in parts.items())
    size = sum(shares[name] * part.loss / part.bits_per_byte for name, part in parts.items())
    return Validation(loss, loss / size, sum(part.tokens for part in parts.values()))


@torch.no_grad()
def validation_loss(model: GPT, stream: Stream, token_bytes: np.ndarray, process: Process, *,
                    val_tokens: int | None, block_size: int, at_once: int | None = None
                    ) -> Validation:
    """Loss over the first ``val_tokens`` tokens of a split (None: all), distributed over the
    processes; the result is the same on each.

    ``model`` is the unwrapped module; ``token_bytes`` (n_vocab,) is the tokenizer's. ``at_once``:
    tokens in a forward pass. Raises ValueError when the split is shorter than one window.
    """
    total = stream.n_tokens if val_tokens is None else min(val_tokens, stream.n_tokens)
    # A window's last target is one token past it, so a split of exactly n windows has n - 1.
    windows = min(total // block_size, (stream.n_tokens - 1) // block_size)
    if windows < 1:
        raise ValueError(f"the validation split has {stream.n_tokens} tokens, of which val_tokens "
                         f"scores {total}: not one window of model.block_size = {block_size}; "
                         "hold out more text (tokenize.val_fraction), or raise val_tokens")
    batch_rows = max(1, (at_once or tokens_at_once(process.device)) // block_size)
    sums = torch.zeros(windows, 3, dtype=torch.float64)  # nll, targets, bytes of each window
    head = None
    bytes_of = torch.from_numpy(np.asarray(token_bytes, dtype=np.int64))
    for first in range(process.rank * batch_rows, windows, process.world_size * batch_rows):
        rows = min(batch_rows, windows - first)
        idx, targets = read_windows(stream, first * block_size, rows, block_size)
        hidden = model(idx.to(process.device))
        head = head or Head.of(model)  # after a forward, which gathers a sharded model's weight
        nll = head.nll(hidden, targets.to(process.device))
        valid = targets != MASKED
        counted = torch.where(valid, bytes_of[targets.clamp(min=0)], 0)
        here = (nll.cpu().double().sum(1), valid.sum(1), counted.sum(1))  # MPS has no float64
        sums[first:first + rows] = torch.stack([s.double() for s in here], 1)
    nll_sum, count, byte_count = process.sum(sums).sum(0).tolist()
    nats = nll_sum / count if count else math.nan
    bits = nll_sum / math.log(2) / byte_count if byte_count else math.nan
    return Validation(nats, bits, int(count))


def read_windows(stream: Stream, start: int, rows: int, T: int
                 ) -> tuple[torch.Tensor, torch.Tensor]:
    """Successive windows of T tokens from token ``start``: idx, targets (rows, T) int64."""
    tokens = torch.from_numpy(stream.read(start, rows * T + 1).astype(np.int64))
    mask = stream.read_mask(start + 1, rows * T)
    targets = tokens[1:]
    if mask is not None:
        targets = torch.where(torch.from_numpy(mask != 0), targets, MASKED)
    return tokens[:-1].view(rows, T), targets.view(rows, T)
