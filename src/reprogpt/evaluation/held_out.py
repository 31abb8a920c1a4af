"""A model's loss on held-out text in detail: by position in the window, and token by token."""

import numpy as np
import torch
from torch import Tensor

from reprogpt.evaluation.scoring import Head
from reprogpt.evaluation.validation import Stream
from reprogpt.model.gpt import GPT
from reprogpt.model.loss import MASKED


@torch.no_grad()
def window_nll(model: GPT, stream: Stream, starts: list[int], T: int, at_once: int = 8192
               ) -> tuple[Tensor, Tensor]:
    """The nll of each target of the windows of T tokens at ``starts``: targets (N, T) int64, MASKED
    where there is nothing to predict, and nll (N, T) float32 in nats, nan there."""
    device = model.wte.weight.device
    rows, found = max(1, at_once // T), []
    targets = torch.stack([_targets(stream, start, T) for start in starts])
    idx = torch.stack([_tokens(stream, start, T) for start in starts])
    head = None
    for x, y in zip(idx.split(rows), targets.split(rows), strict=True):
        hidden = model(x.to(device))
        head = head or Head.of(model)
        found.append(head.nll(hidden, y.to(device)).cpu())
    return targets, torch.where(targets == MASKED, torch.nan, torch.cat(found))


def loss_by_position(nll: np.ndarray, points: int = 16) -> list[tuple[float, float, float]]:
    """(position, mean, standard error) of nll (N, T), nan ignored, over ranges of positions that
    widen geometrically; position 1 has one token of context."""
    T = nll.shape[1]
    edges = np.unique(np.round(np.geomspace(1, T + 1, points + 1)).astype(int))
    found = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        part = nll[:, low - 1:high - 1]
        values = part[~np.isnan(part)]
        if len(values) > 1:
            found.append((float(low + high - 1) / 2, float(values.mean()),
                          float(values.std(ddof=1) / len(values) ** 0.5)))
    return found


def passage(model: GPT, stream: Stream, T: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """A passage from the middle of the split: ids (n,) uint16 and nll (n,), n about ``length``.

    Each token is predicted from at least T // 2 tokens of context: windows overlap by half, and of
    each the second half counts. nll is nan for a token that is no target.
    """
    half = max(1, T // 2)
    count = max(1, min(length // half, (stream.n_tokens - T - 1) // half))
    first = max(0, (stream.n_tokens - T - 1 - count * half) // 2)
    starts = [first + k * half for k in range(count)]
    _, nll = window_nll(model, stream, starts, T)
    ids = stream.read(first + T - half + 1, count * half)
    return ids, nll[:, T - half:].reshape(-1).numpy()


def _tokens(stream: Stream, start: int, T: int) -> Tensor:
    return torch.from_numpy(stream.read(start, T).astype(np.int64))


def _targets(stream: Stream, start: int, T: int) -> Tensor:
    tokens, mask = _tokens(stream, start + 1, T), stream.read_mask(start + 1, T)
    return tokens if mask is None else torch.where(torch.from_numpy(mask != 0), tokens, MASKED)
