"""Exercise 1: average the past in three ways.

Lecture 1, "version 1: averaging past context with for loops" to "version 3: adding softmax".

    out[b, t] = mean over s <= t of x[b, s]
"""

from torch import Tensor


def average_loop(x: Tensor) -> Tensor:
    """x (B, T, C) float -> (B, T, C): position t is the mean over positions 0..t of its row.

    Write it as two loops, over b and over t.
    """
    raise NotImplementedError


def average_product(x: Tensor) -> Tensor:
    """The same as one matrix product: weights (T, T) @ x (B, T, C).

    Row t of the weights holds 1 / (t + 1) at 0..t and 0 after it (torch.tril).
    """
    raise NotImplementedError


def average_softmax(x: Tensor) -> Tensor:
    """The same with weights from a softmax over scores (T, T).

    The scores are 0 for the past and -inf for the future (masked_fill). Attention replaces the
    zeros by numbers that depend on the text.
    """
    raise NotImplementedError
