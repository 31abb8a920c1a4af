"""Causal attention, one block of queries at a time, and masked attention by its formula.

Half of the (T, T) scores are masked: each block of queries is multiplied with the keys up to its
end. On CPUs this is faster than torch's fused kernel (docs/speed.md), and dropout needs the
weights, which that one never holds. They are saved for backward, so memory grows with T^2.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from reprogpt.model.dropout import keep

BLOCK_BYTES = 256
"""Size of a key's scores in a block of queries on a CPU: 64 queries in float32, 128 in bfloat16."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None = None,
                     dropout: float = 0.0, dropout_keys: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v under the causal mask: q, k, v (B, n_head, T, D) -> the same.

    ``window``: a position attends to that many positions, itself included. With ``dropout_keys``
    (B,) int32 a fraction ``dropout`` of the attention weights is dropped (dropout.py).
    """
    assert q.dtype == k.dtype == v.dtype
    dropout = 0.0 if dropout_keys is None else dropout
    with torch.autocast(q.device.type, enabled=False):  # or softmax would be float32 on a GPU
        y: Tensor = _BlockAttention.apply(q, k, v, window, dropout, dropout_keys)
    return y


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v where ``mask`` (.., T, S) bool is True, for inference:
    q (B, n_head, T, D), k, v (B, n_head, S, D) -> (B, n_head, T, D)."""
    heads = q.shape[:2]
    scores = (q.flatten(0, 1) / math.sqrt(q.size(-1))) @ k.flatten(0, 1).mT
    scores.unflatten(0, heads).add_(torch.where(mask, 0.0, float("-inf")).to(scores.dtype))
    return (scores.softmax(-1) @ v.flatten(0, 1)).unflatten(0, heads)


class _BlockAttention(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int | None, dropout: float,
                dropout_keys: Tensor | None) -> Tensor:
        shape, scale, backward = q.shape[:3], 1 / math.sqrt(q.size(-1)), any(ctx.needs_input_grad)
        q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)  # (B n_head, T, D)
        outputs, saved = [], []
        for seen, block in _blocks(q, window):
            weights = torch.baddbmm(_bias(seen, block, window, q), q[:, block], k[:, seen].mT,
                                    alpha=scale).softmax(-1)
            saved += [weights] if backward else []
            if dropout_keys is not None and dropout:
                kept = _kept(seen, block, shape, dropout_keys, dropout)
                saved += [kept] if backward else []
                weights = _dropped(weights, kept, dropout)
            outputs.append(weights @ v[:, seen])
        ctx.save_for_backward(q, k, v, *saved)
        ctx.window, ctx.dropout, ctx.scale = window, dropout, scale
        return torch.cat(outputs, 1).unflatten(0, shape[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        heads, grad = grads[0].shape[:2], grads[0].flatten(0, 1)
        dq = []
        # Every later block adds to a key's gradient: in bfloat16 each of these sums would round.
        dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        tensors = iter(saved)
        for seen, block in _blocks(q, ctx.window):
            weights, g = next(tensors), grad[:, block]
            d_weights, dropped = g @ v[:, seen].mT, weights
            if ctx.dropout:
                kept = next(tensors)
                dropped = _dropped(weights, kept, ctx.dropout)
                d_weights = _dropped(d_weights, kept, ctx.dropout)
            dv[:, seen] += dropped.mT @ g
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_scores *= ctx.scale
            dq.append(d_scores @ k[:, seen])
            dk[:, seen] += d_scores.mT @ q[:, block]
        found = torch.cat(dq, 1), dk.to(k.dtype), dv.to(v.dtype)
        return *(x.unflatten(0, heads) for x in found), None, None, None


def _blocks(q: Tensor, window: int | None) -> Iterator[tuple[slice, slice]]:
    """(slice of the keys that a block of queries can see, slice of the block) of q (.., T, D)."""
    T = q.size(1)
    size = BLOCK_BYTES // q.element_size() if q.device.type == "cpu" else T  # a GPU: one block
    for start in range(0, T, size):
        end = min(T, start + size)
        yield slice(0 if window is None else max(0, start - window + 1), end), slice(start, end)


def _bias(seen: slice, block: slice, window: int | None, like: Tensor) -> Tensor:
    """What is added to a block's scores (queries, keys): 0 where visible, -inf where not."""
    columns = torch.arange(seen.start, seen.stop, device=like.device)
    distance = columns[block.start - seen.stop:, None] - columns  # from a query back to a key
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return like.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))


def _kept(seen: slice, block: slice, shape: torch.Size, dropout_keys: Tensor, dropout: float
          ) -> Tensor:
    """Which of a block's weights dropout keeps: (B n_head, queries, keys) bool."""
    _, n_head, T = shape
    device = dropout_keys.device
    rows = torch.arange(n_head * T, dtype=torch.int32, device=device).view(n_head, T)
    columns = torch.arange(seen.start, seen.stop, dtype=torch.int32, device=device)
    return keep(rows[:, block, None] * T + columns, dropout_keys, dropout).flatten(0, 1)


def _dropped(x: Tensor, kept: Tensor, dropout: float) -> Tensor:
    return x * (kept.to(x.dtype) * (1 / (1 - dropout)))
