"""The training loss: the sum of negative log-likelihoods, and nothing averaged.

A mean taken here would be a mean over whatever happens to share a micro-batch or a process. The
caller divides the sum by the number of valid targets of the whole global batch instead, so the
gradient is the same however the batch was cut.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MASKED = -1
"""The target of a position that is not trained on."""

PIECE_LOGITS = 32 * 50304
"""Logits that go through the softmax at a time: 6.4 MB of float32."""


def softcap(logits: Tensor, cap: float) -> Tensor:
    """cap * tanh(logits / cap): no logit beyond +-cap (Gemma 2, section 2)."""
    return cap * torch.tanh(logits / cap)


def nll(hidden: Tensor, head_weight: Tensor, targets: Tensor, vocab_size: int,
        chunk_rows: int | None = None, cap: float | None = None) -> Tensor:
    """Sum over the targets of -log p(target), in nats: a float32 scalar.

    hidden (..., C), head_weight (padded V, C), targets (...) int64 with MASKED where there is
    nothing to learn. ``cap``: see :func:`softcap`. With ``chunk_rows``, head and loss go through
    that many rows at a time and the logits never exist whole; same value and gradients, up to
    rounding.
    """
    hidden, targets = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
    if chunk_rows is None:
        logits = F.linear(hidden, head_weight)[:, :vocab_size].float()
        logits = logits if cap is None else softcap(logits, cap)
        return F.cross_entropy(logits, targets, ignore_index=MASKED, reduction="sum")
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    total: Tensor = _ChunkedNll.apply(hidden, head_weight, targets, vocab_size, chunk_rows, cap)
    return total


class _ChunkedNll(torch.autograd.Function):
    """Head, softmax and cross-entropy over a few rows at a time, gradients on the way.

    With a vocabulary of 50,257 the logits are by far the largest tensor of a step. On a CPU their
    page faults cost more than their arithmetic, on a GPU every look at them counts. Here one
    buffer serves all chunks. The gradients are computed in forward, while a chunk's softmax is
    still there, so nothing is recomputed in backward: it only scales them.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head_weight: Tensor, targets: Tensor,
                vocab_size: int, chunk_rows: int, cap: float | None) -> Tensor:
        weight = head_weight.to(hidden.dtype)  # (padded V, C): whole tiles are the faster product
        backward = any(ctx.needs_input_grad)
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if backward else None
        grad_weight: Tensor | None = None
        buffer = hidden.new_empty((min(chunk_rows, len(hidden)), len(weight)))
        for x, y, rows in _chunks(hidden, targets, chunk_rows):
            logits = torch.mm(x, weight.t(), out=buffer[:len(x)])  # (rows, padded V)
            total += _differentiate(logits, y, vocab_size, cap).sum()
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
            if grad_weight is None:  # a process whose share has no rows
                grad_weight = torch.zeros_like(head_weight)
            ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # In place: they are this function's own, and used once.
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden.mul_(grads[0]), grad_weight.mul_(grads[0]), None, None, None, None


def _chunks(hidden: Tensor, targets: Tensor, size: int) -> Any:
    for start in range(0, len(targets), size):
        rows = slice(start, start + size)
        yield hidden[rows], targets[rows], rows


def _differentiate(logits: Tensor, targets: Tensor, vocab_size: int, cap: float | None) -> Tensor:
    """logits (rows, padded V) become the gradient of their nll; returns the nll (rows,) float32.

    Both are 0 in a row without a target.
    """
    if logits.is_cuda:
        from reprogpt.model.kernels.loss_triton import (
            differentiate,  # triton, which a CPU need not have
        )

        return differentiate(logits, targets, vocab_size, cap)
    losses = _by_pieces(logits, targets.clamp(min=0)[:, None], vocab_size, cap)[:, 0]
    masked = (targets == MASKED).nonzero()[:, 0]  # row by row: a mask would touch every logit
    logits.index_fill_(0, masked, 0)
    return losses.index_fill_(0, masked, 0)


def _by_pieces(logits: Tensor, index: Tensor, vocab_size: int, cap: float | None) -> Tensor:
    """The same for index (rows, 1), a target in every row, on a CPU: a few rows at a time, in
    float32, so that all passes but the first find them in the cache."""
    losses, rows = [], max(1, PIECE_LOGITS // logits.size(1))
    wide = logits.dtype == torch.float32
    scratch = None if wide else logits.new_empty(rows, logits.size(1), dtype=torch.float32)
    for piece, i in zip(logits.split(rows), index.split(rows), strict=True):
        p = piece if scratch is None else scratch[:len(piece)].copy_(piece)
        bend = None
        if cap is not None:
            bend = torch.tanh(p / cap)
            torch.mul(bend, cap, out=p)
        p[:, vocab_size:] = float("-inf")
        at_target, highest = p.gather(1, i), p.amax(1, True)
        torch.softmax(p, 1, out=p)
        # log-sum-exp from the largest probability, which is at least 1 / V and never 0
        losses.append(highest - p.amax(1, True).log() - at_target)
        p.scatter_add_(1, i, -torch.ones_like(at_target))  # softmax - onehot
        if bend is not None:
            p.addcmul_(p, bend.square_(), value=-1)  # d tanh = 1 - tanh^2
        if p is not piece:
            piece.copy_(p)
    return torch.cat(losses)
