"""The group of training processes. Only this file reads RANK, LOCAL_RANK and WORLD_SIZE."""

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from reprogpt.runtime.device import keep_freed_memory, pick_device

BROADCAST_BYTES = 1 << 26


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
        """Rank 0's ``value``, made of what JSON knows, on every process. A collective."""
        return self._from(0, value)

    def first_of(self, value: Any) -> Any:
        """The value of the lowest rank on which it is not None, on every process. A collective."""
        lowest = torch.tensor(self.world_size if value is None else self.rank)
        if self.world_size > 1:
            dist.all_reduce(lowest, dist.ReduceOp.MIN)
        return None if lowest == self.world_size else self._from(int(lowest), value)

    def _from(self, source: int, value: Any) -> Any:
        if self.world_size == 1:
            return value
        text = json.dumps(value).encode() if self.rank == source else b""
        return json.loads(self.broadcast(text, source))

    def broadcast(self, content: bytes, source: int = 0) -> bytes:
        """Rank ``source``'s bytes on every process. A collective; no pickle, which could run
        code."""
        length = torch.tensor(len(content))
        dist.broadcast(length, source)
        box = (torch.frombuffer(bytearray(content), dtype=torch.uint8) if self.rank == source
               else torch.empty(int(length), dtype=torch.uint8))
        for part in box.split(BROADCAST_BYTES):
            dist.broadcast(part, source)
        return box.numpy().tobytes()


@contextlib.contextmanager
def process_group(device_setting: str, timeout_seconds: float) -> Iterator[Process]:
    """Joins the group that the environment describes; alone where no launcher of ours set it.

    The processes meet by the file that RENDEZVOUS_FILE names, or at the address in RENDEZVOUS,
    where rank 0 listens on the socket RENDEZVOUS_FD that the launcher bound. A collective that
    waits longer than ``timeout_seconds`` raises. End by :func:`leave`.
    """
    # RANK alone may be another program's.
    ours = "RENDEZVOUS_FILE" in os.environ or "RENDEZVOUS" in os.environ
    rank, world, local_rank = (int(os.environ[name]) if ours else alone for name, alone in
                               (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    device = pick_device(device_setting, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type == "cpu":
        keep_freed_memory()
    if world > 1:
        # gloo for CPU tensors (votes, statistics), NCCL for CUDA tensors
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        timeout = datetime.timedelta(seconds=timeout_seconds)
        dist.init_process_group(backend, store=_store(rank, world, timeout), rank=rank,
                                world_size=world, timeout=timeout)
    yield Process(rank, world, device, local_rank == 0)


def _store(rank: int, world: int, timeout: datetime.timedelta) -> Any:
    """The key-value store by which the processes find each other's addresses."""
    if file := os.environ.get("RENDEZVOUS_FILE"):
        return dist.FileStore(file, world)  # type: ignore[attr-defined]
    host, port = os.environ["RENDEZVOUS"].split()
    descriptor = os.environ.get("RENDEZVOUS_FD") if rank == 0 else None
    # Left to itself, the store would listen on every interface.
    return dist.TCPStore(host, int(port), world, rank == 0, timeout,  # type: ignore[attr-defined]
                         master_listen_fd=int(descriptor) if descriptor else None)


def leave(status: int = 0) -> NoReturn:
    """Ends the process at once, without taking its group apart; all must be on the disk.

    gloo's destructor waits, holding Python's lock, for its thread, which may wait for that lock to
    free the last collective's tensors (torch 2.13: about one group of three processes in 150 never
    ended). NCCL's destructor waits for processes that may have failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
