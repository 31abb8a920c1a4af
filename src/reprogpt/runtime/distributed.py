"""The process group: which of how many processes this one is, joining and leaving.

Only this file reads RANK, LOCAL_RANK and WORLD_SIZE.
"""

import contextlib
import datetime
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from reprogpt.runtime.device import keep_freed_memory, pick_device


@dataclass(frozen=True)
class Process:
    """One of ``world_size`` training processes, and the device that is its own."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Rank 0 writes, prints and shows progress; the others only compute."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """True on every process when it is true on one. All must call it."""
        if self.world_size == 1:
            return flag
        votes = torch.tensor(int(flag))
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return bool(votes)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The element-wise sum over all processes, in place. All must call it."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's ``value``, on every process. All must call it."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


@contextlib.contextmanager
def process_group(device_setting: str, timeout_seconds: float) -> Iterator[Process]:
    """Joins the group that torchrun started (or runs alone).

    A collective that waits longer than ``timeout_seconds`` for a process that hangs raises. Whoever
    joined a group ends by :func:`leave`.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = pick_device(device_setting, int(os.environ.get("LOCAL_RANK", 0)))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type == "cpu":
        keep_freed_memory()
    if world > 1:
        # CPU tensors go through gloo (stop votes, statistics), CUDA tensors through NCCL.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        timeout = datetime.timedelta(seconds=timeout_seconds)
        dist.init_process_group(backend, timeout=timeout)
    yield Process(rank, world, device)


def leave(status: int = 0) -> NoReturn:
    """Ends the process at once. A process of a group goes this way, once all is on the disk.

    A group is never taken apart. gloo's destructor waits, with Python's lock held, for its thread,
    which may be waiting for that lock to free the last collective's tensors (torch 2.13; about one
    group of three processes in 150 never ended). NCCL's waits for processes that may have failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
