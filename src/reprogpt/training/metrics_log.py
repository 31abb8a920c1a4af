"""metrics/train.csv, written during a run, and metrics/train.json, written at its end.

The rows are part of the checkpoint, and the file is rebuilt from them on resume.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from reprogpt.runtime.device import synchronize
from reprogpt.storage.files import write_json

COLUMNS = ("step", "train_loss", "val_loss", "lr", "grad_norm", "tokens", "seconds",
           "tokens_per_second")
Row = dict[str, float]


class MetricsLog:
    """metrics/train.csv: a header, then one flushed line per logged step. A value that was not
    measured is ``nan``: DVC would draw an empty field as 0."""

    def __init__(self, path: Path | None, rows: list[Row]) -> None:
        """Writes the ``rows`` so far; with ``path`` None (ranks above 0) they stay in memory."""
        self.rows = rows
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # it may be a hard link into DVC's cache
        path = path or Path(os.devnull)
        self._file = path.open("w", encoding="utf-8", buffering=1)  # flushed line by line
        self._file.writelines([",".join(COLUMNS) + "\n", *map(_line, rows)])

    def write(self, row: Row) -> None:
        self.rows.append(row)
        self._file.write(_line(row))

    def last(self, column: str) -> float:
        """The newest measured value of a column; nan when there is none."""
        values = (row[column] for row in reversed(self.rows))
        return next((v for v in values if not math.isnan(v)), math.nan)


def _line(row: Row) -> str:
    values = (row[column] for column in COLUMNS)
    return ",".join(str(v) if isinstance(v, int) else f"{v:.8g}" for v in values) + "\n"


def write_metrics(path: Path, values: dict[str, Any]) -> None:
    """Writes a metrics file: JSON with null for numbers that are not finite."""
    write_json(path, {k: None if isinstance(v, float) and not math.isfinite(v) else v
                      for k, v in values.items()})


class Clock:
    """A stopwatch that first waits until the device has finished its work; from ``seconds`` on."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self._device, self.seconds = device, seconds
        self.start()

    def start(self) -> None:
        """Begins a lap; time since the last lap is not counted."""
        self._since = self._now()

    def lap(self) -> float:
        """Ends the lap, adds it to ``seconds`` and returns it; the next one begins."""
        now = self._now()
        elapsed, self._since = now - self._since, now
        self.seconds += elapsed
        return elapsed

    @property
    def total(self) -> float:
        """All seconds so far, the present lap included."""
        return self.seconds + self._now() - self._since

    @contextmanager
    def stopped(self) -> Iterator[float]:
        """Does not count the body's time. Yields all seconds so far, the present lap included."""
        began = self._now()
        yield self.seconds + began - self._since
        self._since += self._now() - began

    def _now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()
