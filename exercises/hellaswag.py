"""Exercise 13: HellaSwag's scoring.

Lecture 2, "evaluation: HellaSwag, starting the run". Each question is four rows: the same context
with four endings. The model's answer is the ending that it finds most likely.
"""

from torch import Tensor


def ending_nll(logits: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """logits (4, T, V), tokens (4, T) int64, mask (4, T) int64 -> sums (4,), means (4,).

    mask is 1 at the tokens of the ending, 0 at the context and at padding. The loss of token t is
    -log softmax(logits[t - 1])[token t]. Sum it over the ending's tokens; the mean is that by
    their number.
    """
    raise NotImplementedError


def answers(sums: Tensor, means: Tensor) -> tuple[int, int]:
    """sums, means (4,) -> the ending chosen by the sum (``acc``) and by the mean (``acc_norm``)."""
    raise NotImplementedError
