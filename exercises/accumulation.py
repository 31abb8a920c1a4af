"""Exercise 10: gradient accumulation with a sum of losses.

Lecture 2, "gradient accumulation". The lecture divides each micro-batch's mean by their number,
which is right only if all have as many targets. Here some targets are masked, so add sums and
divide by the number of targets in the whole batch.
"""

from torch import Tensor, nn


def accumulate(model: nn.Module, idx: Tensor, targets: Tensor, micro_batch: int) -> Tensor:
    """idx, targets (B, T) int64 -> the batch's mean loss, a detached scalar; adds the gradient of
    that mean to the ``.grad`` of the parameters, ``micro_batch`` rows at a time.

    ``model(rows)`` gives logits (rows, T, V). A target of -1 does not count. The last micro-batch
    may be smaller. No optimizer step.
    """
    raise NotImplementedError
