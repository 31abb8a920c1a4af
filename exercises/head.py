"""Exercise 3: one head of self-attention.

Lecture 1, "the crux: version 4, self-attention" and "note 6: scaled self-attention".
See it train: python -m exercises.use head
"""

from torch import Tensor, nn


class Head(nn.Module):
    """A weighted mean of values, the weights from query . key.

        weights = softmax over s of (q[t] . k[s] / sqrt(size)), for s <= t     (B, T, T)
        out[t] = sum over s of weights[t, s] v[s]                              (B, T, size)
    """

    def __init__(self, n_embd: int, size: int) -> None:
        """Makes ``self.query``, ``self.key`` and ``self.value``: nn.Linear n_embd -> size, without
        bias."""
        super().__init__()
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> (B, T, size); no position may see a later one."""
        raise NotImplementedError
