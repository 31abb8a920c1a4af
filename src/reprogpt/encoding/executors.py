"""Running many small jobs in processes of this machine."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def usable_cores() -> int:
    """Cores this process may use: a container may have fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(workers: int | str) -> int:
    """`runtime.workers` as a number: auto is one per core that this process may use."""
    return workers if isinstance(workers, int) else usable_cores()


class Processes:
    """Spawned processes, started when there is something for them to do, ended with the block."""

    def __init__(self, workers: int):
        self.workers = workers
        self._pool: Any = None

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """``function`` of every item, in order; in this process when there is but one worker.

        Items and results are pickled, so they are small: names and numbers, never text or tokens.
        """
        if self.workers == 1 or len(items) < 2:
            yield from map(function, items)
            return
        if self._pool is None:
            # spawn: the same on every system, and safe beside threads.
            self._pool = multiprocessing.get_context("spawn").Pool(self.workers)
        yield from self._pool.imap(function, items)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()
