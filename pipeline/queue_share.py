"""The part of this machine that one worker of DVC's queue uses (`dvc queue start -j N`)."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from reprogpt.runtime.workers import visible_gpus

T = TypeVar("T")
_WORKER = re.compile(rb"queue-worker\0(dvc-exp-\w+)-(\d+)@")
"""In the command line of a worker of DVC 3: the queue, and the worker's number."""


def take_share(device: str, processes: Path = Path("/proc")) -> None:
    """Under one of several queue workers, restricts this process and what it starts to the
    worker's own cores, and with ``device`` auto or cuda to its own GPUs. The shares are disjoint
    while there is enough. Elsewhere, or without /proc, does nothing."""
    index, count = place(processes)
    if count < 2:
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share(sorted(os.sched_getaffinity(0)), index, count))
    if device in ("auto", "cuda") and (gpus := visible_gpus()):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(share(gpus, index, count))


def share(items: Sequence[T], index: int, count: int) -> Sequence[T]:
    """Part ``index`` of ``count`` parts of ``items``; one item, shared, where there are fewer items
    than parts."""
    if len(items) < count:
        return [items[index % len(items)]]
    return items[index * len(items) // count:(index + 1) * len(items) // count]


def place(processes: Path) -> tuple[int, int]:
    """(index, count): this process's worker among those of its queue that run; (0, 1) if it has
    none. All N start together, whatever each of them has to do."""
    pid, own = os.getpid(), None
    while own is None:
        try:
            own = _WORKER.search((processes / str(pid) / "cmdline").read_bytes())
            # After the name in brackets: state, parent
            pid = int((processes / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return 0, 1
    found = {int(own[2])}
    for path in processes.glob("[0-9]*/cmdline"):
        try:
            other = _WORKER.search(path.read_bytes())
        except OSError:  # it has ended
            continue
        if other and other[1] == own[1]:
            found.add(int(other[2]))
    return sorted(found).index(int(own[2])), len(found)
