"""Requests to stop, and the death of the parent process. Needs no torch.

SIGTERM, SIGINT and SIGUSR1 (which Slurm sends before it takes a node away) all mean: save and stop.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """While entered, records the first signal in ``received`` instead of ending the process."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {s: signal.signal(s, self._record) for s in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _record(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(signum)


def die_with_parent(parent: int | None = None) -> None:
    """Makes the system send this process SIGTERM when its parent dies, by kill -9 too. ``parent``:
    its process id where the caller knows it, so that an earlier death is noticed."""
    parent = parent or os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG of linux/prctl.h
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
    else:
        threading.Thread(target=_poll_parent, args=(parent,), daemon=True).start()


def _poll_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
