"""What came before, averaged, in three ways that are one: the step before attention.

    out[b, t] = mean over s <= t of x[b, s]

Read in order. The loop says what is meant. The matrix product says the same to a machine that
multiplies matrices. The softmax says it in the one form in which the weights can be *learned*:
attention (heads.py, Head) is the third function with scores that depend on the text.
"""

import torch
from torch import Tensor


def average_loop(x: Tensor) -> Tensor:
    """x (B, T, C) -> (B, T, C): each position the mean of itself and all before it. One by one."""
    out = torch.empty_like(x)
    for b in range(x.size(0)):
        for t in range(x.size(1)):
            out[b, t] = x[b, :t + 1].mean(0)
    return out


def average_product(x: Tensor) -> Tensor:
    """The same as one product: row t of a triangular matrix holds 1/(t+1) at 0..t."""
    T = x.size(1)
    weights = torch.ones(T, T, device=x.device).tril()  # (T, T): row t may look at column s <= t
    weights = weights / weights.sum(1, keepdim=True)
    return weights @ x  # (T, T) @ (B, T, C): every row of the batch by the same matrix


def average_softmax(x: Tensor, look: Tensor | None = None) -> Tensor:
    """The same as a softmax: every past position scores 0, every future one minus infinity.

    ``look`` (.., T, T) bool, True where a position may look, instead of the triangle.
    """
    T = x.size(1)
    if look is None:
        look = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
    scores = torch.zeros(look.shape, device=x.device).masked_fill(~look, float("-inf"))
    return scores.softmax(-1).to(x.dtype) @ x
