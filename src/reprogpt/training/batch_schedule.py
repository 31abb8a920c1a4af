"""The number of rows in each step's global batch: constant, or growing over the run's first part.

GPT-3's batch grew linearly from 32k tokens over the first 4 to 12 billion (Brown et al., 2020,
appendix B). A step's size depends on all earlier sizes: the ramp's are tabulated once.
"""

from reprogpt.config import TrainConfig


class BatchSizes:
    """``sizes.rows(step)`` and ``sizes.before(step)``, in rows of block_size tokens."""

    def __init__(self, rows: int, start: int | None = None, ramp: int = 0, steps: int = 0) -> None:
        """``rows`` at the full size. With ``start``: that many at first, growing in proportion to
        the rows seen until ``ramp`` of them. The run has ``steps`` steps."""
        self.full = rows
        before = [0]
        while start is not None and before[-1] < ramp and len(before) <= steps:
            before.append(before[-1] + start + (rows - start) * before[-1] // ramp)
        self._before = before  # rows before each step of the ramp
        self.settled = len(before) - 1
        """The first step whose batch has its full size."""

    def rows(self, step: int) -> int:
        """Rows of the batch of ``step``."""
        return self.before(step + 1) - self.before(step)

    def before(self, step: int) -> int:
        """Rows of all batches before ``step``."""
        growing = min(step, self.settled)
        return self._before[growing] + (step - growing) * self.full


def batch_sizes(cfg: TrainConfig, block_size: int) -> BatchSizes:
    """The batch sizes that ``train.batch_tokens`` and ``train.batch_ramp`` ask for."""
    rows, ramp = cfg.batch_tokens // block_size, cfg.batch_ramp
    if ramp is None:
        return BatchSizes(rows)
    return BatchSizes(rows, ramp.start_tokens // block_size, -(-ramp.tokens // block_size),
                      cfg.max_steps)
