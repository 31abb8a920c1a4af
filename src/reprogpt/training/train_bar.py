"""The progress of a training: losses, tokens a second, MFU where it is known, and the time left."""

import math
import sys
import time

from tqdm import tqdm

from reprogpt.runtime.progress import progress
from reprogpt.training.metrics_log import MetricsLog

QUIET_SECONDS = 60.0
"""Without a terminal: a line is printed at each validation, and after this long without one."""


class TrainBar:
    """A bar that is redrawn on a terminal; elsewhere, lines. Rank 0 alone shows one."""

    def __init__(self, log: MetricsLog, step: int, shown: bool) -> None:
        """``step``: updates done before this start."""
        self.log, self._first, self._rows = log, step, len(log.rows)
        self._began, self._lines = time.perf_counter(), not sys.stderr.isatty()
        self._bar = progress(
            desc="train", initial=step, disable=not shown, leave=not self._lines,
            bar_format="train: step {n_fmt}/{total_fmt}{postfix}" if self._lines else
                       "train {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}")

    def update(self, step: int, end: float, mfu: float | None, *others: str) -> None:
        """Shows the state after ``step`` updates, and ``others``; the run will have ``end``."""
        pace = (time.perf_counter() - self._began) / (step - self._first)
        values = (("loss", "train_loss", ".3f"), ("val", "val_loss", ".3f"),
                  ("tok/s", "tokens_per_second", ",.0f"))
        known = [f"{name} {value:{form}}" for name, column, form in values
                 if not math.isnan(value := self.log.last(column))]
        known += [f"MFU {mfu:.1%}"] if mfu is not None else []
        left = tqdm.format_interval(max(0.0, pace * (end - step)))
        said = ", ".join([*known, *filter(None, others), f"{left} left"])
        self._bar.set_postfix_str(said, refresh=False)
        self._bar.total = max(step, round(end))
        if self._lines:
            new, self._rows = self.log.rows[self._rows:], len(self.log.rows)
            validated = any(not math.isnan(row["val_loss"]) for row in new)
            self._bar.mininterval = 0.0 if validated else QUIET_SECONDS
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        self._bar.close()
