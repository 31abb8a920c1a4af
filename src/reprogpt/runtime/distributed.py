"""The group of training processes. Only this file reads RANK, LOCAL_RANK and WORLD_SIZE."""

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
    """One of ``world_size`` processes, and its device. Without a group: rank 0 of 1."""

    rank: int
    world_size: int
    device: torch.device
    first_here: bool = True
    """Whether this is the first process on its machine."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that writes files, prints and shows progress."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """True on every process if it is true on one. A collective."""
        return bool(self.sum(torch.tensor(int(flag))))

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The element-wise sum over all processes, in place. A collective."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's ``value``, on every process. A collective."""
        box = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def first_of(self, value: Any) -> Any:
        """The value of the lowest rank on which it is not None, on every process. A collective."""
        box = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(box, value)
        return next((found for found in box if found is not None), None)


@contextlib.contextmanager
def process_group(device_setting: str, timeout_seconds: float) -> Iterator[Process]:
    """Joins the group that the environment describes; alone where WORLD_SIZE is absent or 1.

    The processes meet by the file that RENDEZVOUS_FILE names, or else at the address that torchrun
    gives. A collective that waits longer than ``timeout_seconds`` raises. End by :func:`leave`.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = pick_device(device_setting, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type == "cpu":
        keep_freed_memory()
    if world > 1:
        # gloo for CPU tensors (votes, statistics), NCCL for CUDA tensors
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        file = os.environ.get("RENDEZVOUS_FILE")
        store = dist.FileStore(file, world) if file else None  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=world,
                                timeout=datetime.timedelta(seconds=timeout_seconds))
    yield Process(rank, world, device, local_rank == 0)


def leave(status: int = 0) -> NoReturn:
    """Ends the process at once, without taking its group apart; all must be on the disk.

    gloo's destructor waits, holding Python's lock, for its thread, which may wait for that lock to
    free the last collective's tensors (torch 2.13: about one group of three processes in 150 never
    ended). NCCL's destructor waits for processes that may have failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
