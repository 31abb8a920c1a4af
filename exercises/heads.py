"""Exercise 4: all heads at once, as a dimension of the batch.

Lecture 1, its suggested exercise EX1: "combine the Head and MultiHeadAttention into one class that
processes all the heads in parallel, treating the heads as another batch dimension".
See it train: python -m exercises.use heads
"""

from torch import Tensor, nn


class Heads(nn.Module):
    """n_head heads of size n_embd / n_head, side by side, without a loop over them."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        """Makes ``self.c_attn``: nn.Linear n_embd -> 3 n_embd, without bias.

        The first n_embd outputs are the queries, then come the keys, then the values. Within each,
        head h has the channels h * size to (h + 1) * size.
        """
        super().__init__()
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, n_embd) -> (B, T, n_embd): the heads' outputs, head 0's channels first.

        On the way q, k and v are (B, n_head, T, size). Causal and scaled, as in exercise 3.
        """
        raise NotImplementedError
