"""What a run writes about itself: metrics/train.csv as it goes, metrics/train.json at its end.

The rows live in the checkpoint, and the file is rebuilt from there on resume, so that no step
stands in it twice or is missing, however often the run was killed.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from reprogpt.runtime.device import synchronize
from reprogpt.storage.files import write_json

COLUMNS = ("step", "train_loss", "val_loss", "lr", "grad_norm", "tokens", "seconds",
           "tokens_per_second")
Row = dict[str, float]


class Journal:
    """metrics/train.csv: a header, then one flushed line per logged step.

    A value that was not measured is ``nan`` (an empty field would be drawn as 0).
    """

    def __init__(self, path: Path | None, rows: list[Row]) -> None:
        """Writes the ``rows`` so far; ``path`` None keeps them in memory only (ranks above 0)."""
        self.rows = rows
        self._file: IO[str] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # it may be a hard link into a cache
            self._file = path.open("w", encoding="utf-8")
            self._file.write(",".join(COLUMNS) + "\n" + "".join(map(_line, rows)))
            self._file.flush()

    def write(self, row: Row) -> None:
        """Adds one step's row."""
        self.rows.append(row)
        if self._file is not None:
            self._file.write(_line(row))
            self._file.flush()

    def last(self, column: str) -> float:
        """The newest measured value of a column; nan when there is none."""
        values = (row[column] for row in reversed(self.rows))
        return next((v for v in values if not math.isnan(v)), math.nan)


def _line(row: Row) -> str:
    values = (row[column] for column in COLUMNS)
    return ",".join(str(v) if isinstance(v, int) else f"{v:.8g}" for v in values) + "\n"


def write_metrics(path: Path, values: dict[str, Any]) -> None:
    """Writes a metrics file: readable JSON in which what is not a number is null."""
    write_json(path, {k: None if isinstance(v, float) and not math.isfinite(v) else v
                      for k, v in values.items()})


class Clock:
    """Reads the clock once the device has done all it was given."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        """``seconds``: those that were counted before, of a run that continues."""
        self._device, self.seconds = device, seconds
        self.start()

    def start(self) -> None:
        """A lap begins here; what was not counted is forgotten."""
        self._since = self._now()

    def lap(self) -> float:
        """The seconds since the last lap's end, which count now in ``seconds``."""
        now = self._now()
        elapsed, self._since = now - self._since, now
        self.seconds += elapsed
        return elapsed

    @contextmanager
    def stopped(self) -> Iterator[float]:
        """Whatever the body takes is not counted. Yields all seconds so far, this lap's too."""
        began = self._now()
        yield self.seconds + began - self._since
        self._since += self._now() - began

    def _now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()
