"""What a worker of DVC's queue may use: cores and GPUs that no other worker uses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.queue_share import place, share, take_share
from tests.conftest import ROOT


@pytest.mark.parametrize(("items", "count"), [(8, 2), (8, 3), (2, 2), (5, 4), (1, 1), (16, 16)])
def test_shares_are_disjoint_and_use_everything(items: int, count: int) -> None:
    parts = [share(range(items), index, count) for index in range(count)]
    assert [item for part in parts for item in part] == list(range(items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_where_there_are_fewer_each_has_one() -> None:
    assert [share("ab", index, 5) for index in range(5)] == [["a"], ["b"], ["a"], ["b"], ["a"]]


def processes(folder: Path, table: dict[int, tuple[int, str]]) -> Path:
    """A /proc of (parent, command) by process id."""
    for pid, (parent, command) in table.items():
        (folder / str(pid)).mkdir(parents=True)
        (folder / str(pid) / "cmdline").write_bytes(command.replace(" ", "\0").encode() + b"\0")
        (folder / str(pid) / "stat").write_text(f"{pid} (a) b) c) S {parent} 1 1\n")
    return folder


WORKERS = {7: (1, "python /bin/dvc exp queue-worker dvc-exp-0f-1@localhost --clean"),
           3: (1, "python /bin/dvc exp queue-worker dvc-exp-0f-3@localhost"),
           9: (1, "python /bin/dvc exp queue-worker dvc-exp-ee-2@localhost"),  # another project's
           20: (3, "dvc exp exec-run"), 21: (20, "sh")}


def test_a_worker_finds_its_place(tmp_path: Path) -> None:
    table = WORKERS | {os.getpid(): (21, "python -m pipeline.train")}
    assert place(processes(tmp_path / "proc", table)) == (1, 2)
    table = {1: (0, "init"), os.getpid(): (1, "python -m pipeline.train")} | WORKERS
    assert place(processes(tmp_path / "no_queue", table)) == (0, 1)
    assert place(tmp_path / "no /proc") == (0, 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_cores_and_gpus_are_set(tmp_path: Path) -> None:
    processes(tmp_path, WORKERS)
    script = ("import os, sys, pathlib, pipeline.queue_share as q\n"
              "here = pathlib.Path(sys.argv[1], str(os.getpid())); here.mkdir()\n"
              "(here / 'cmdline').write_bytes(b'python')\n"
              "(here / 'stat').write_text('1 (p) S 21')\n"
              "q.visible_gpus = lambda: ['4', '5', '6', '7']\n"
              "q.take_share('cuda', here.parent)\n"
              "print(len(os.sched_getaffinity(0)), os.environ['CUDA_VISIBLE_DEVICES'])")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, text=True,
                          capture_output=True, check=True)
    cores = len(os.sched_getaffinity(0))
    assert done.stdout == f"{max(1, cores - cores // 2)} 6,7\n"


def test_outside_of_a_queue_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    before = os.sched_getaffinity(0)
    take_share("auto")
    assert os.sched_getaffinity(0) == before
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
