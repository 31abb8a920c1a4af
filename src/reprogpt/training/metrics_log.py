"""metrics/train.csv, written during a run, and metrics/train.json, written at its end.

The rows are part of the checkpoint, and the file is rebuilt from them on resume.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from reprogpt.evaluation.reference_band import Band
from reprogpt.launch.run_dir import RunDir
from reprogpt.runtime.device import synchronize
from reprogpt.storage.files import naming, write_json
from reprogpt.training.tracker import Tracker

COLUMNS = ("step", "train_loss", "val_loss", "lr", "grad_norm", "tokens", "seconds",
           "tokens_per_second")
SMOOTHED = 25
"""Rows of metrics/train.csv over which metrics/loss.csv averages the training loss."""
Row = dict[str, float]


def open_log(run: RunDir, rows: list[Row], is_first: bool) -> "MetricsLog":
    """The log of a run with ``rows`` so far, and on rank 0 all that follows it."""
    if not is_first:
        return MetricsLog(None, rows)
    band = Band.read(run.paths.reference)
    followers: list[Callable[[Row], None]] = [BandWatch(band)]
    if run.paths.probes:
        followers.append(LossPlot(Path(run.paths.probes, "loss.csv"), rows, band.at))
    if run.config.runtime.tracker != "none":
        followers.append(Tracker(run, int(rows[-1]["step"]) if rows else -1))
    return MetricsLog(Path(run.paths.csv), rows, followers)


class MetricsLog:
    """metrics/train.csv: a header, then one flushed line per logged step. A value that was not
    measured is ``nan``: DVC would draw an empty field as 0."""

    def __init__(self, path: Path | None, rows: list[Row],
                 followers: Sequence[Callable[[Row], None]] = ()) -> None:
        """Writes the ``rows`` so far; with ``path`` None (ranks above 0) they stay in memory.
        ``followers`` get every row that is written from now on."""
        self.rows = rows
        self._followers: list[Callable[[Row], None]] = [*followers]
        if path:
            self._followers.append(CsvFile(path, COLUMNS, rows))

    def write(self, row: Row) -> None:
        self.rows.append(row)
        for follow in self._followers:
            follow(row)

    def speed(self, tokens: int, seconds: float) -> float:
        """Tokens a second since the last row, with ``tokens`` and ``seconds`` so far; nan in the
        first one."""
        return ((tokens - self.rows[-1]["tokens"]) / (seconds - self.rows[-1]["seconds"])
                if self.rows else math.nan)

    def close(self) -> None:
        """Ends what a tracker keeps open."""
        for follower in self._followers:
            if isinstance(follower, Tracker):
                follower.close()

    def last(self, column: str) -> float:
        """The newest measured value of a column; nan when there is none."""
        values = (row[column] for row in reversed(self.rows))
        return next((v for v in values if not math.isnan(v)), math.nan)


class LossPlot:
    """metrics/loss.csv, which `dvc plots` draws: as ``train_loss`` its mean over the last
    SMOOTHED rows (near the start fewer: there it falls fast), and a reference band's limits."""

    def __init__(self, path: Path, rows: Iterable[Row],
                 band: Callable[[int], tuple[float, float]]) -> None:
        """``rows``: those so far. ``band``: lowest and highest validation loss by step."""
        self._file = CsvFile(path, ("step", "train_loss", "val_loss", "reference_low",
                                    "reference_high"))
        self._losses: list[float] = []
        self._band = band
        for row in rows:
            self(row)

    def __call__(self, row: Row) -> None:
        if not math.isnan(row["train_loss"]):
            self._losses.append(row["train_loss"])
        last = self._losses[-min(SMOOTHED, 1 + len(self._losses) // 4):]
        low, high = self._band(int(row["step"]))
        self._file({"step": row["step"], "val_loss": row["val_loss"],
                    "train_loss": sum(last) / len(last) if last else math.nan,
                    "reference_low": low, "reference_high": high})


class BandWatch:
    """Warns in one line, once, when a validation loss leaves the reference band."""

    def __init__(self, band: Band) -> None:
        self._band, self._warned = band, False

    def __call__(self, row: Row) -> None:
        warning = self._band.warning(int(row["step"]), row["val_loss"])
        if warning and not self._warned:
            tqdm.write(warning, file=sys.stderr)
            self._warned = True


class CsvFile:
    """A CSV file of numbers, flushed line by line; it begins with the ``rows`` so far."""

    def __init__(self, path: Path, columns: Sequence[str], rows: Iterable[Row] = ()) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # it may be a hard link into DVC's cache
        self._columns, self._path = columns, path
        self._file = path.open("w", encoding="utf-8", buffering=1)
        with naming(path):
            self._file.write(",".join(columns) + "\n")
        for row in rows:
            self(row)

    def __call__(self, row: Row) -> None:
        values = (row[column] for column in self._columns)
        with naming(self._path):
            self._file.write(",".join(str(v) if isinstance(v, int) else f"{v:.8g}"
                                      for v in values) + "\n")


def write_metrics(path: Path, values: dict[str, Any]) -> None:
    """Writes a metrics file: JSON with null for numbers that are not finite."""
    write_json(path, {k: None if isinstance(v, float) and not math.isfinite(v) else v
                      for k, v in values.items()})


class Clock:
    """A stopwatch, from ``seconds`` on, that can be stopped. Reading it first waits until the
    device has finished its work."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self._device = device
        self._began = self._now() - seconds

    def seconds(self) -> float:
        """All seconds so far."""
        return self._now() - self._began

    @contextmanager
    def stopped(self) -> Iterator[float]:
        """Does not count the body's time. Yields all seconds so far."""
        at = self._now()
        yield at - self._began
        self._began += self._now() - at

    def _now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()
