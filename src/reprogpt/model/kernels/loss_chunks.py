"""Head, softmax and cross-entropy for a chunk of rows at a time.

The logits are by far the largest tensor of a training step. On a CPU their page faults cost more
than their arithmetic, on a GPU every pass over them is memory traffic. Here one buffer serves all
chunks, and gradients are computed in forward, while the softmax exists; backward only scales them.
"""

from typing import Any

import torch
from torch import Tensor

TILE_LOGITS = 32 * 50304
"""Logits that one pass of the CPU's softmax covers: 6.4 MB of float32, which fit in a cache."""


def nll_in_chunks(hidden: Tensor, head_weight: Tensor, targets: Tensor, vocab_size: int,
                  chunk_rows: int, cap: float | None) -> Tensor:
    """loss.nll for hidden (N, C), head_weight (padded V, C), targets (N,) int64, negative where
    masked -> a float32 scalar. The logits (chunk_rows, padded V) have autocast's dtype."""
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    total: Tensor = _ChunkedNll.apply(hidden, head_weight, targets, vocab_size, chunk_rows, cap)
    return total


class _ChunkedNll(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head_weight: Tensor, targets: Tensor,
                vocab_size: int, chunk_rows: int, cap: float | None) -> Tensor:
        weight = head_weight.to(hidden.dtype)  # with its padding: whole tiles multiply faster
        backward = any(ctx.needs_input_grad)
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if backward else None
        grad_weight: Tensor | None = None
        buffer = hidden.new_empty((min(chunk_rows, len(hidden)), len(weight)))
        for start in range(0, len(targets), chunk_rows):
            rows = slice(start, start + chunk_rows)
            x = hidden[rows]
            logits = torch.mm(x, weight.t(), out=buffer[:len(x)])  # (rows, padded V)
            total += _differentiate(logits, targets[rows], vocab_size, cap).sum()
            if grad_hidden is not None:
                torch.mm(logits, weight, out=grad_hidden[rows])
                left = logits.t()
                if grad_weight is None:
                    grad_weight = (left @ x).to(head_weight.dtype)
                elif left.dtype == grad_weight.dtype:
                    grad_weight.addmm_(left, x)
                else:
                    grad_weight += left @ x
        if backward:
            if grad_weight is None:  # a rank whose part of the batch has no rows
                grad_weight = torch.zeros_like(head_weight)
            ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # In place: nothing else holds these tensors, and they are used once.
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden.mul_(grads[0]), grad_weight.mul_(grads[0]), None, None, None, None


def _differentiate(logits: Tensor, targets: Tensor, vocab_size: int, cap: float | None) -> Tensor:
    """Overwrites logits (rows, padded V) with the gradient of their nll; returns the nll (rows,)
    float32. Both are 0 in a row whose target is masked."""
    if logits.is_cuda:
        from reprogpt.model.kernels.loss_triton import differentiate

        return differentiate(logits, targets, vocab_size, cap)
    losses = _differentiate_tiles(logits, targets.clamp(min=0)[:, None], vocab_size, cap)[:, 0]
    masked = (targets < 0).nonzero()[:, 0]  # indices: a boolean mask would touch every logit
    logits.index_fill_(0, masked, 0)
    return losses.index_fill_(0, masked, 0)


def _differentiate_tiles(logits: Tensor, index: Tensor, vocab_size: int, cap: float | None
                         ) -> Tensor:
    """The same on a CPU for index (rows, 1), the target of every row: a few rows at a time, in
    float32, so that all passes but the first read from the cache."""
    losses, rows = [], max(1, TILE_LOGITS // logits.size(1))
    wide = logits.dtype == torch.float32
    scratch = None if wide else logits.new_empty(rows, logits.size(1), dtype=torch.float32)
    for tile, i in zip(logits.split(rows), index.split(rows), strict=True):
        p = tile if scratch is None else scratch[:len(tile)].copy_(tile)
        tanh = None
        if cap is not None:
            tanh = torch.tanh(p / cap)
            torch.mul(tanh, cap, out=p)
        p[:, vocab_size:] = float("-inf")
        at_target, highest = p.gather(1, i), p.amax(1, True)
        torch.softmax(p, 1, out=p)
        # log-sum-exp from the largest probability, which is at least 1 / V and never 0
        losses.append(highest - p.amax(1, True).log() - at_target)
        p.scatter_add_(1, i, -torch.ones_like(at_target))  # softmax - onehot
        if tanh is not None:
            p.addcmul_(p, tanh.square_(), value=-1)  # the derivative of tanh is 1 - tanh^2
        if p is not tile:
            tile.copy_(p)
    return torch.cat(losses)
