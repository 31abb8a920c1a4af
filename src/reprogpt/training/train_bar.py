"""The progress of a training: losses, tokens a second, MFU where it is known, and the time left."""

import math
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from reprogpt.runtime.contention import ProcessorWait
from reprogpt.runtime.progress import progress
from reprogpt.training.metrics_log import MetricsLog

QUIET_SECONDS = 60.0
"""Without a terminal: a line is printed at each validation, and after this long without one."""


class TrainBar:
    """A bar that is redrawn on a terminal; elsewhere, lines. Rank 0 alone shows one."""

    def __init__(self, log: MetricsLog, mfu: Callable[[float], float | None], shown: bool) -> None:
        """``mfu``: of tokens a second."""
        self.log, self.mfu, self.shown = log, mfu, shown
        self._rows, self._waiting = len(log.rows), ProcessorWait()
        self._first: tuple[int, float] | None = None  # step and time of the first update
        self._lines = not sys.stderr.isatty()
        self._bar = progress(
            desc="train", disable=not shown, leave=not self._lines,
            bar_format="train: step {n_fmt}/{total_fmt}{postfix}" if self._lines else
                       "train {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}")

    def update(self, step: int, end: float) -> None:
        """Shows the state after ``step`` updates; the run will have ``end``."""
        if not self.shown:
            return
        now, speed = time.perf_counter(), self.log.last("tokens_per_second")
        new, self._rows = self.log.rows[self._rows:], len(self.log.rows)
        if new and not math.isnan(speed):
            self._waiting.tell(speed)
        said = [f"{name} {value:{form}}" for name, column, form in (
                    ("loss", "train_loss", ".3f"), ("val", "val_loss", ".3f"),
                    ("tok/s", "tokens_per_second", ",.0f"))
                if not math.isnan(value := self.log.last(column))]
        if not math.isnan(speed) and (mfu := self.mfu(speed)) is not None:
            said.append(f"MFU {mfu:.1%}")
        said += filter(None, [self._waiting.shown()])
        first, began = self._first = self._first or (step, now)
        if step > first:  # the first step compiles, and says nothing of the others
            pace = (now - began) / (step - first)
            said.append(f"{tqdm.format_interval(max(0.0, pace * (end - step)))} left")
        self._bar.set_postfix_str(", ".join(said), refresh=False)
        self._bar.total = max(step, round(end))
        if self._lines:
            validated = any(not math.isnan(row["val_loss"]) for row in new)
            self._bar.mininterval = 0.0 if validated else QUIET_SECONDS
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        self._bar.close()
