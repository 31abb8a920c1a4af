"""Exercise 12: top-k and top-p.

Lecture 2, "sampling loop" has top-k; top-p is from "The Curious Case of Neural Text Degeneration"
(Holtzman et al., 2020).
"""

from torch import Tensor


def top_k(logits: Tensor, k: int) -> Tensor:
    """logits (B, V) -> (B, V): the k largest of each row stay as they are, where they are; the
    others become -inf."""
    raise NotImplementedError


def top_p(logits: Tensor, p: float) -> Tensor:
    """logits (B, V) -> (B, V): the most probable tokens stay as they are, where they are: as few as
    together reach a probability of p or more. The others become -inf.

    At least one stays. Sort, softmax, cumsum; then scatter back to the vocabulary's order.
    """
    raise NotImplementedError
