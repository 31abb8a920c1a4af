"""One process needs no group; several meet by a file."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from reprogpt.launch.group import LOOPBACK
from reprogpt.runtime.distributed import Process, process_group


def test_one_process_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RENDEZVOUS_FILE", "RENDEZVOUS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):  # as other launchers set them
        monkeypatch.setenv(name, "3")
    with process_group("cpu", 5) as process:
        assert process == Process(0, 1, torch.device("cpu"))
        assert not dist.is_initialized()
        assert process.is_first
        assert process.any(True) and not process.any(False)
        assert process.sum(torch.tensor([1.5])).tolist() == [1.5]
        assert process.from_first({"a": 1}) == {"a": 1}


def _member(rank: int, folder: Path, world: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
                   "RENDEZVOUS_FILE": str(folder / "store"), "GLOO_SOCKET_IFNAME": LOOPBACK}
    with process_group("cpu", 30) as process:
        found = (process.rank, process.is_first, process.any(rank == 1), process.any(False),
                 process.sum(torch.tensor([float(rank), 1.0])).tolist(),
                 process.from_first(f"from {rank}"))
        torch.save(found, folder / f"{rank}.pt")
        dist.destroy_process_group()


@pytest.mark.slow
def test_three_meet_by_a_file(tmp_path: Path) -> None:
    mp.spawn(_member, (tmp_path, 3), nprocs=3)
    for rank in range(3):
        assert torch.load(tmp_path / f"{rank}.pt") == (rank, rank == 0, True, False, [3.0, 3.0],
                                                       "from 0")
