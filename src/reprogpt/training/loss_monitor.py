"""Stops a run when its loss or gradient is not finite, or its loss spikes."""

import math
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from reprogpt.config import TrainConfig
from reprogpt.launch.run_dir import checkpoint_steps
from reprogpt.runtime.distributed import Process
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
                # The loss of step i is that of the weights after step i - 1, which are then bad.
                raise self._stop(i, problem, i - 1 if math.isfinite(loss) else i - 2)
            self.recent.append(loss)
        return losses[-1], norms[-1]

    def require_finite(self, step: int, model: nn.Module) -> None:
        """Raises NotFinite unless all weights after ``step`` updates are finite. A collective."""
        parts = [p.to_local() if hasattr(p, "to_local") else p for p in model.parameters()]
        if self.process.any(not all(bool(part.isfinite().all()) for part in parts)):
            raise self._stop(step, "the weights after it are not finite", step - 1)

    def _stop(self, step: int, problem: str, sound: int) -> NotFinite:
        """The error of a ``step``; loss, gradient and weights of steps up to ``sound`` are good. A
        checkpoint is good if the step after it is."""
        good = [n for n in checkpoint_steps(self.run) if n < sound]
        last = (f"the last good checkpoint is {self.run.name}/step_{good[-1]:06d}.pt" if good else
                "there is no good checkpoint yet")
        return NotFinite(f"step {step}: {problem}; its batch is {self.loader.describe(step - 1)}; "
                         f"{last}: lower train.lr or look at those tokens")

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
