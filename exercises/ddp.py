"""Exercise 11: a rank's slice of the global batch.

Lecture 2, "distributed data parallel (DDP)": the data loader of several processes.
"""

from torch import Tensor


def ddp_batch(tokens: Tensor, step: int, B: int, T: int, rank: int, world_size: int
              ) -> tuple[Tensor, Tensor]:
    """tokens (N,) int64 -> idx (B, T), targets (B, T) of one rank at one step (0, 1, ...).

    The text is rows of T tokens, one after the other. A step takes the next world_size * B rows:
    rank 0 the first B of them, rank 1 the next B, and so on. targets[b, t] is the token after
    idx[b, t].
    """
    raise NotImplementedError
