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
        weight = head_weight.to(hidden.dtype)  # (padded V, C): whole tiles are the faster product
        backward = any(ctx.needs_input_grad)
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if backward else None
        grad_weight = torch.zeros_like(head_weight) if backward else None
        buffer = hidden.new_empty((min(chunk_rows, len(hidden)), len(weight)))
        for x, y, rows in _chunks(hidden, targets, chunk_rows):
            logits = torch.mm(x, weight.t(), out=buffer[:len(x)])  # (rows, padded V)
            logits[:, vocab_size:] = float("-inf")
            valid, each = y != MASKED, torch.arange(len(y), device=y.device)
            index = y.clamp(min=0)
            at_target, highest = logits[each, index].float(), logits.amax(1).float()
            p = torch.softmax(logits.float(), 1, out=logits if logits.dtype == torch.float32 else None)
            # log-sum-exp from the largest probability, which is at least 1 / V and never 0
            total += ((highest - p.amax(1).log() - at_target) * valid).sum()
            if grad_hidden is not None and grad_weight is not None:
                # d nll / d logits = softmax - onehot, and 0 where the target is masked
                p[each, index] -= 1
                grad = p.mul_(valid[:, None]).to(x.dtype) if not bool(valid.all()) else p.to(x.dtype)
                torch.mm(grad, weight, out=grad_hidden[rows])
                grad_weight.addmm_(grad.t().to(grad_weight.dtype), x.to(grad_weight.dtype))
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
