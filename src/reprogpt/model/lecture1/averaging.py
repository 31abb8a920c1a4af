"""The step before attention: the mean over all positions so far, computed in three ways.

    out[b, t] = mean over s <= t of x[b, s]

The loop is the definition. The matrix product computes the same fast. The softmax has weights that
can be learned: attention (attention.py, Head) is it with scores that depend on the text.
"""

import torch
from torch import Tensor


def average_loop(x: Tensor) -> Tensor:
    """x (B, T, C) -> (B, T, C): the mean over each position and all before it, one by one."""
    out = torch.empty_like(x)
    for b in range(x.size(0)):
        for t in range(x.size(1)):
            out[b, t] = x[b, :t + 1].mean(0)
    return out


def average_product(x: Tensor) -> Tensor:
    """The same as one matrix product: row t of a triangular matrix holds 1/(t+1) at 0..t."""
    T = x.size(1)
    ones = torch.ones(T, T, device=x.device).tril()
    return ones / ones.sum(1, keepdim=True) @ x  # (T, T) @ (B, T, C): one matrix for every row


def average_softmax(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same by a softmax: positions score 0 where ``mask`` (.., T, T) bool is True (None: the
    causal mask), and minus infinity elsewhere."""
    if mask is None:
        mask = torch.ones(x.size(1), x.size(1), dtype=torch.bool, device=x.device).tril()
    scores = torch.zeros(mask.shape, device=x.device).masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(x.dtype) @ x
