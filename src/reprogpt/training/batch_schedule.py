"""How many rows each step's batch has: all alike, or growing over the first part of a run.

GPT-3 was trained with a batch that grows linearly from 32k tokens to its full size over the first
4 to 12 billion tokens (Brown et al., 2020, appendix B). A step's size follows from how many rows
came before it, and that from the sizes before: a table of the ramp's steps, made once, so that any
step can be asked for without a state.
"""

from collections.abc import Iterator

import numpy as np

from reprogpt.config import TrainConfig


class BatchSizes:
    """``sizes.rows(step)`` and ``sizes.before(step)``, in rows of block_size tokens."""

    def __init__(self, rows: int, start: int | None = None, ramp: int = 0, steps: int = 0) -> None:
        """``rows`` in the end, ``start`` at first, the rest of the way in proportion to the rows
        seen, of which ``ramp`` make it whole. Nothing beyond ``steps`` will be asked for."""
        self.full = rows
        growing = [] if start is None else list(_ramp(start, rows, ramp, steps))
        self._before = np.cumsum([0, *growing])
        """Rows before each step of the ramp, and before the first step that is past it."""

    @property
    def settled(self) -> int:
        """The first step whose batch has its full size."""
        return len(self._before) - 1

    def rows(self, step: int) -> int:
        """Rows of the batch of ``step``."""
        return self.before(step + 1) - self.before(step)

    def before(self, step: int) -> int:
        """Rows of all batches before ``step``."""
        growing = min(step, self.settled)
        return int(self._before[growing]) + (step - growing) * self.full


def _ramp(start: int, full: int, ramp: int, steps: int) -> Iterator[int]:
    before = 0
    for _ in range(steps):
        if before >= ramp:
            return
        rows = start + (full - start) * before // ramp
        yield rows
        before += rows


def batch_sizes(cfg: TrainConfig, block_size: int) -> BatchSizes:
    """Those of a run."""
    rows, ramp = cfg.batch_tokens // block_size, cfg.batch_ramp
    if ramp is None:
        return BatchSizes(rows)
    return BatchSizes(rows, ramp.start_tokens // block_size, -(-ramp.tokens // block_size),
                      cfg.max_steps)
