"""The seconds that tokens were trained on: no clock runs while a run validates or saves."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from reprogpt.runtime import synchronize


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
