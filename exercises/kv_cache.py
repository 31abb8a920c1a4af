"""Exercise 16: causal attention with a KV cache.

Beyond lecture 2's "sampling loop", which computes all positions again for each token: with the keys
and values of the past at hand, a new token costs one position.
"""

from torch import Tensor

Past = tuple[Tensor, Tensor]
"""Keys and values of the S positions so far, each (B, n_head, S, D)."""


def attend(q: Tensor, k: Tensor, v: Tensor, past: Past | None) -> tuple[Tensor, Past]:
    """q, k, v (B, n_head, T, D) of T new positions -> their attention (B, n_head, T, D), and the
    keys and values of all S + T positions.

    The new positions follow the S of ``past`` (None: S = 0). New position t sees all of the past
    and the new positions 0..t. Scores are q . k / sqrt(D).
    """
    raise NotImplementedError
