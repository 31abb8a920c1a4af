"""Causal attention, a block of queries at a time.

A query looks back only, so half of the square of scores is never needed: a block of queries is
multiplied with the keys up to its own end, and what lies beyond is not computed. On the processor
where it was measured this is quicker than torch's fused kernel (docs/speed.md), and unlike there
the weights can be seen, which dropout needs. The price is memory: they are kept for the backward
pass.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reprogpt.model.dropout import keep

BLOCK_BYTES = 256
"""The bytes that a key's scores in one block of queries take: 64 queries in float32, 128 in
bfloat16. Fewer make narrow products, more compute what is masked."""

LONGEST = 1024
"""Positions that a query may see, beyond which the kept weights are not worth their memory: half as
many a position, head and layer, 2 MB a row of 1024 in float32."""


def in_blocks_pays(device: torch.device, seen: int) -> bool:
    """Whether :func:`causal_attention` beats torch's fused kernel, a query seeing at most ``seen``
    positions: on a CPU, while they are not too many."""
    return device.type == "cpu" and seen <= LONGEST


def causal_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None = None,
                     dropout: float = 0.0, keys: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, each position seeing itself and those before it.

    q, k, v (B, n_head, T, D) -> (B, n_head, T, D). With ``window`` a position sees that many,
    itself among them. With ``keys`` (B,) int32 a share ``dropout`` of the weights is dropped
    (dropout.py).
    """
    assert q.dtype == k.dtype == v.dtype
    with torch.autocast(q.device.type, enabled=False):  # or softmax would be float32 on a GPU
        y: Tensor = _InBlocks.apply(q, k, v, window, dropout if keys is not None else 0.0, keys)
    return y


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for any ``mask`` (.., T, S) bool, True where a query may look;
    None is the causal triangle. q (B, n_head, T, D), k, v (B, n_head, S, D) -> (B, n_head, T, D).

    By torch's fused kernel, but where it takes twice as long as the formula: bfloat16 on a CPU,
    when nothing is kept for gradients.
    """
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=q.size(2) > 1)
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, mask)
    heads = q.shape[:2]
    scores = (q.flatten(0, 1) / math.sqrt(q.size(-1))) @ k.flatten(0, 1).mT
    scores.unflatten(0, heads).add_(torch.where(mask, 0.0, float("-inf")).to(scores.dtype))
    return (scores.softmax(-1) @ v.flatten(0, 1)).unflatten(0, heads)


class _InBlocks(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int | None, dropout: float,
                keys: Tensor | None) -> Tensor:
        heads, scale, backward = q.shape[:3], 1 / math.sqrt(q.size(-1)), any(ctx.needs_input_grad)
        q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)  # (B n_head, T, D)
        outputs, saved = [], []
        for seen, block in _blocks(q, window):
            weights = torch.baddbmm(_bias(seen, block, window, q), q[:, block], k[:, seen].mT,
                                    alpha=scale).softmax(-1)
            parts = [weights]
            if keys is not None and dropout:
                parts.append(_kept(seen, block, heads, keys, dropout))
                weights = _dropped(weights, parts[1], dropout)
            outputs.append(weights @ v[:, seen])
            saved += parts if backward else []
        ctx.save_for_backward(q, k, v, *saved)
        ctx.window, ctx.dropout, ctx.scale = window, dropout, scale
        return torch.cat(outputs, 1).unflatten(0, heads[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        shape, grad = grads[0].shape[:2], grads[0].flatten(0, 1)
        dq = []  # a key meets all later blocks: sums of bfloat16 would round in each of them
        dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        parts = iter(saved)
        for seen, block in _blocks(q, ctx.window):
            weights, g = next(parts), grad[:, block]
            d_weights = g @ v[:, seen].mT
            if ctx.dropout:
                kept = next(parts)
                dv[:, seen] += _dropped(weights, kept, ctx.dropout).mT @ g
                d_weights = _dropped(d_weights, kept, ctx.dropout)
            else:
                dv[:, seen] += weights.mT @ g
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_scores *= ctx.scale
            dq.append(d_scores @ k[:, seen])
            dk[:, seen] += d_scores.mT @ q[:, block]
        found = torch.cat(dq, 1), dk.to(k.dtype), dv.to(v.dtype)
        return *(x.unflatten(0, shape) for x in found), None, None, None


def _blocks(q: Tensor, window: int | None) -> Iterator[tuple[slice, slice]]:
    """(the keys that a block of queries sees at most, the block), of q (.., T, D)."""
    T = q.size(1)
    size = BLOCK_BYTES // q.element_size() if q.device.type == "cpu" else T  # a GPU wants it whole
    for start in range(0, T, size):
        end = min(T, start + size)
        yield slice(0 if window is None else max(0, start - window + 1), end), slice(start, end)


def _bias(seen: slice, block: slice, window: int | None, like: Tensor) -> Tensor:
    """What is added to a block's scores: 0 where a query may look, -inf where not."""
    columns = torch.arange(seen.start, seen.stop, device=like.device)
    back = columns[block.start - seen.stop:, None] - columns  # how far back each key lies
    hidden = back < 0 if window is None else (back < 0) | (back >= window)
    return like.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))


def _kept(seen: slice, block: slice, heads: torch.Size, keys: Tensor, dropout: float) -> Tensor:
    """Which of a block's weights dropout keeps: (B n_head, queries, keys) bool."""
    _, n_head, T = heads
    rows = torch.arange(n_head * T, dtype=torch.int32, device=keys.device).view(n_head, T)
    columns = torch.arange(seen.start, seen.stop, dtype=torch.int32, device=keys.device)
    return keep(rows[:, block, None] * T + columns, keys, dropout).flatten(0, 1)


def _dropped(x: Tensor, kept: Tensor, dropout: float) -> Tensor:
    return x * (kept.to(x.dtype) * (1 / (1 - dropout)))
