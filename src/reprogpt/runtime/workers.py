"""Worker processes: many small jobs on this machine, their results in order."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Self, TypeVar

from reprogpt.runtime.signals import die_with_parent

T = TypeVar("T")
R = TypeVar("R")


def usable_cores() -> int:
    """Cores this process may use: a container may have fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    present = len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not present:
        return [str(index) for index in range(present)]
    return [v.strip() for v in visible.split(",") if v.strip() not in ("", "-1")]


def worker_count(workers: int | str) -> int:
    """`runtime.workers` as a number: auto is one per core that this process may use."""
    return workers if isinstance(workers, int) else usable_cores()


class Processes:
    """A pool of spawned processes, started at the first jobs and ended with the block."""

    def __init__(self, workers: int):
        self.workers = workers
        context = multiprocessing.get_context("spawn")  # safe beside threads
        self._pool = ProcessPoolExecutor(workers, context, _start_worker, (os.getpid(),))

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """``function`` of every item, in order; in this process if there is one worker or item.
        Raises ValueError when one of the processes was killed."""
        if self.workers == 1 or len(items) < 2:
            yield from map(function, items)
            return
        try:
            yield from self._pool.map(function, items)
        except BrokenProcessPool:
            raise ValueError("a process that tokenizes was killed, perhaps because memory ran out; "
                             "run the stage again, which goes on from the chunks that are "
                             "finished, with a lower runtime.workers") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    """Leaves Ctrl-C to the parent process, and ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)
