"""What a trained model shows of itself: its loss token by token, and its attention weights."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from reprogpt.errors import ConfigError
from reprogpt.evaluation.scoring import Head
from reprogpt.evaluation.validation import read_windows
from reprogpt.model.gpt import GPT
from reprogpt.model.loss import MASKED
from reprogpt.tokens.shards import TokenStream


@torch.no_grad()
def window_nll(model: GPT, stream: TokenStream, starts: Sequence[int], T: int) -> np.ndarray:
    """nll (N, T) of the targets of the windows of T tokens at ``starts``, in nats; nan where there
    is nothing to predict."""
    windows = [read_windows(stream, start, 1, T) for start in starts]
    idx, targets = (torch.cat(part) for part in zip(*windows, strict=True))
    head, device, rows = Head.of(model), model.head_weight.device, max(1, 8192 // T)
    nll = [head.nll(model(x.to(device)), y.to(device)).cpu()
           for x, y in zip(idx.split(rows), targets.split(rows), strict=True)]
    return torch.where(targets == MASKED, torch.nan, torch.cat(nll)).numpy()


def loss_by_position(nll: np.ndarray) -> list[tuple[float, float, float]]:
    """(position, mean, standard error) of nll (N, T) over ranges of positions that widen
    geometrically. Position 1 has one token of context."""
    T = nll.shape[1]
    edges = np.unique(np.geomspace(1, T + 1, 17).round().astype(int))
    points = []
    for low, high in itertools.pairwise(edges.tolist()):
        part = nll[:, low - 1:high - 1]
        values = part[~np.isnan(part)]
        if len(values):
            error = values.std() / len(values) ** 0.5
            points.append(((low + high - 1) / 2, float(values.mean()), float(error)))
    return points


def passage(model: GPT, stream: TokenStream, T: int, length: int
            ) -> tuple[np.ndarray, np.ndarray]:
    """About ``length`` tokens from the middle of a split: ids (n,) uint16 and nll (n,).

    Windows overlap by half and the second half counts: each token has T // 2 of context at least.
    """
    half, room = max(1, T // 2), stream.n_tokens - T - 1
    count = min(length // half, room // half) + 1
    first = (room - (count - 1) * half) // 2
    nll = window_nll(model, stream, [first + k * half for k in range(count)], T)
    return stream.read(first + T - half + 1, count * half), nll[:, T - half:].reshape(-1)


class _Recorder(TorchFunctionMode):
    """Records the attention weights at each call of scaled_dot_product_attention, which itself
    does not return them."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            q, k, _, mask = args
            scores = (q @ k.mT / math.sqrt(q.size(-1))).masked_fill(~mask, -torch.inf)
            self.weights.append(scores.softmax(-1)[0].float().cpu())
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def attention_weights(model: GPT, ids: Sequence[int]) -> np.ndarray:
    """Attention weights (n_layer, n_head, T, T) over T token ids: row t is what position t takes
    from each position up to t, and sums to 1.

    Raises ConfigError for more than block_size tokens, and for a model of lecture 1.
    """
    T, cfg = len(ids), model.cfg
    if cfg.architecture != "gpt" or cfg.block_size < T:
        raise ConfigError(f"--prompt has {T} tokens and must have at most {cfg.block_size}, for a "
                          f"model of architecture gpt, not {cfg.architecture}; shorten it")
    device = model.head_weight.device
    causal = torch.ones(T, T, dtype=torch.bool, device=device).tril()
    with _Recorder() as recorder:
        model(torch.tensor([ids], device=device), mask=causal)  # a mask rules out faster paths
    return torch.stack(recorder.weights).numpy()
