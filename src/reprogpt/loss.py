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


def nll(hidden: Tensor, head_weight: Tensor, targets: Tensor, vocab_size: int,
        chunk_rows: int | None = None) -> Tensor:
    """Sum over the targets of -log p(target), in nats: a float32 scalar.

    hidden (..., C), head_weight (padded V, C), targets (...) int64 with MASKED where there is
    nothing to learn. With ``chunk_rows``, head and loss go through that many rows at a time and
    the logits never exist whole; same value and gradients, up to rounding.
    """
    hidden, targets = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
    if chunk_rows is None:
        logits = F.linear(hidden, head_weight)[:, :vocab_size].float()
        return F.cross_entropy(logits, targets, ignore_index=MASKED, reduction="sum")
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    total: Tensor = _ChunkedNll.apply(hidden, head_weight, targets, vocab_size, chunk_rows)
    return total


class _ChunkedNll(torch.autograd.Function):
    """Head, softmax and cross-entropy over a few rows at a time, gradients on the way.

    At a small width and a vocabulary of 50,257 the float32 logits are by far the largest tensor
    of a step, and on a CPU their page faults cost more than their arithmetic. Here one buffer
    that stays in cache serves all chunks. The gradients are computed in forward, while a chunk's
    softmax is still there, so nothing is recomputed in backward: it only scales them.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head_weight: Tensor, targets: Tensor,
                vocab_size: int, chunk_rows: int) -> Tensor:
        weight = head_weight[:vocab_size].to(hidden.dtype)  # (V, C)
        backward = any(ctx.needs_input_grad)
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if backward else None
        grad_weight = torch.zeros_like(head_weight) if backward else None
        for x, y, rows in _chunks(hidden, targets, chunk_rows):
            valid = y != MASKED
            index = y.clamp(min=0)[:, None]
            logp = torch.log_softmax((x @ weight.t()).float(), dim=1)  # (rows, V)
            total -= (logp.gather(1, index)[:, 0] * valid).sum()
            if grad_hidden is not None and grad_weight is not None:
                # d nll / d logits = softmax - onehot, and 0 where the target is masked
                grad = logp.exp_()
                grad[torch.arange(len(y), device=y.device), index[:, 0]] -= 1
                grad = grad.mul_(valid[:, None]).to(x.dtype)
                grad_hidden[rows] = grad @ weight
                grad_weight[:vocab_size].addmm_(grad.t().to(grad_weight.dtype),
                                                x.to(grad_weight.dtype))
        if backward:
            ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None, None, None


def _chunks(hidden: Tensor, targets: Tensor, size: int) -> Any:
    for start in range(0, len(targets), size):
        rows = slice(start, start + size)
        yield hidden[rows], targets[rows], rows
