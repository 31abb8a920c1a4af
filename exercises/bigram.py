"""Exercise 2: the bigram model, its loss and its samples.

Lecture 1, "simplest baseline: bigram language model, loss, generation".
"""

import torch
from torch import Tensor


def bigram_loss(table: Tensor, idx: Tensor, targets: Tensor) -> Tensor:
    """table (V, V) float, idx (B, T) int64, targets (B, T) int64 -> the mean loss, a scalar.

    Row i of the table holds the logits of the token after token i. The loss of one position is
    -log softmax(logits)[target], in nats; return its mean over all B * T positions.
    """
    raise NotImplementedError


def bigram_sample(table: Tensor, start: int, n: int, generator: torch.Generator) -> list[int]:
    """``start`` and n more tokens, each drawn from the softmax of the row of the one before it.

    Draw with ``torch.multinomial(p, 1, generator=generator)``.
    """
    raise NotImplementedError
