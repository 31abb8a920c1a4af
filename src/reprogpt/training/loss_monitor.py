"""Stops a run when its loss or gradient is not finite, or its loss spikes."""

import math
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from reprogpt.config import TrainConfig
from reprogpt.runtime.distributed import Process
from reprogpt.training import checkpoint
from reprogpt.training.loader import Loader

TREND = 100
"""Steps over which train.max_loss_spike's running mean is taken."""


class NotFinite(ValueError):
    """The loss or the gradient is not finite, or the loss spiked."""


class LossMonitor:
    """Collects each step's loss and gradient norm on the device, and checks them at each flush."""

    def __init__(self, loader: Loader, run: Path, process: Process, cfg: TrainConfig,
                 scaled: bool, recent: Iterable[float]) -> None:
        """``scaled``: float16, where the scaler skips a step whose gradient overflows, so only the
        loss must be finite. ``recent``: losses before this start."""
        self.loader, self.run, self.process, self.scaled = loader, run, process, scaled
        self.max_spike = cfg.max_loss_spike
        self.recent = deque(recent, maxlen=max(TREND, cfg.eval_interval))
        """The last steps' global mean losses."""
        self._pending: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        """``values`` (2,): what train_step returned."""
        self._pending.append(values)

    def flush(self, step: int) -> tuple[float, float]:
        """Checks the steps since the last flush, after ``step`` updates; returns the last global
        mean loss and gradient norm, nan without a new step. A collective. Raises NotFinite."""
        if not self._pending:
            return math.nan, math.nan
        values = torch.stack(self._pending)  # (steps, 2)
        self._pending.clear()
        losses = self.process.sum(values[:, 0].contiguous()).tolist()
        norms = values[:, 1].tolist()
        for i, (loss, norm) in enumerate(zip(losses, norms, strict=True), step - len(losses) + 1):
            if problem := self._problem(loss, norm):
                found = checkpoint.steps(self.run)
                last = (f"the last good checkpoint is {self.run.name}/step_{found[-1]:06d}.pt"
                        if found else "there is no checkpoint yet")
                raise NotFinite(f"step {i}: {problem}; its batch is {self.loader.describe(i - 1)}; "
                                f"{last}: lower train.lr or look at those tokens")
            self.recent.append(loss)
        return losses[-1], norms[-1]

    def mean(self, steps: int) -> float:
        """The mean loss of the last ``steps`` steps; nan without any."""
        last = list(self.recent)[-steps:]
        return sum(last) / len(last) if last else math.nan

    def _problem(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not math.isfinite(norm) and not self.scaled:
            return "the gradient is not finite"
        if self.max_spike is None or len(self.recent) < TREND // 5:
            return None
        mean = self.mean(TREND)
        return None if loss <= self.max_spike * mean else (
            f"loss {loss:.4f} is over train.max_loss_spike={self.max_spike:g} times its running "
            f"mean {mean:.4f}")
