"""The loss under watch: every step's numbers are looked at before anything is built on them."""

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from reprogpt.training import checkpoint
from reprogpt.training.loader import Loader

TREND = 100
"""Steps whose mean loss is what train.max_loss_spike compares with."""


class NotFinite(ValueError):
    """The loss or the gradient stopped being a number, or the loss left its trend."""


class LossWatch:
    """``check`` raises NotFinite with the step, where its tokens came from, and what is left."""

    def __init__(self, loader: Loader, run: Path, max_spike: float | None, scaled: bool) -> None:
        """``scaled``: float16, where a gradient overflows now and then: its scaler skips that
        step and halves its scale, and only the loss must be finite."""
        self.loader, self.run, self.max_spike, self.scaled = loader, run, max_spike, scaled

    def check(self, step: int, loss: float, norm: float, before: Sequence[float]) -> None:
        """Of the update that makes ``step``; ``before`` are the losses until then."""
        if not math.isfinite(loss):
            raise NotFinite(f"step {step}: the loss is not finite; {self._where(step)}")
        if not math.isfinite(norm) and not self.scaled:
            raise NotFinite(f"step {step}: the gradient is not finite; {self._where(step)}")
        trend = before[-TREND:]
        if self.max_spike is None or len(trend) < TREND // 5:
            return
        mean = sum(trend) / len(trend)
        if loss > self.max_spike * mean:
            raise NotFinite(f"step {step}: loss {loss:.4f} is over train.max_loss_spike="
                            f"{self.max_spike:g} times its running mean {mean:.4f}; "
                            f"{self._where(step)}")

    def _where(self, step: int) -> str:
        found = checkpoint.steps(self.run)
        last = (f"the last good checkpoint is {self.run.name}/step_{found[-1]:06d}.pt" if found
                else "there is no checkpoint yet")
        return (f"its batch is {self.loader.describe(step - 1)}; {last}: lower train.lr or look "
                "at those tokens")


def recent_losses(eval_interval: int) -> deque[float]:
    """The losses that are kept: enough for the trend, and for train.json's mean."""
    return deque(maxlen=max(TREND, eval_interval))
