"""Exercise 5: a text of sums, and a loss on the answers alone.

Lecture 1, its suggested exercise EX2: train a GPT to add. The digits of the answer come backwards,
because the carry goes that way; the question is random and cannot be predicted, so its targets are
masked with -1 (``F.cross_entropy(..., ignore_index=-1)``).
"""

from torch import Tensor


def addition_line(a: int, b: int, digits: int) -> str:
    """``012+345=7530`` for a=12, b=345, digits=3: operands with ``digits`` digits, the answer with
    one more and written backwards. No line break."""
    raise NotImplementedError


def masked_targets(ids: Tensor, equals: int) -> tuple[Tensor, Tensor]:
    """ids (B, T + 1) int64 -> idx (B, T), targets (B, T).

    targets[b, t] is the token after idx[b, t], and -1 where that token is not part of the answer:
    the answer is all that follows the token ``equals``, of which each row has one. idx is not
    masked.
    """
    raise NotImplementedError
