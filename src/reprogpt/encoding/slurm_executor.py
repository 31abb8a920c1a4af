"""Many small jobs as the tasks of datatrove's executors: on this machine, or on a Slurm cluster.

The tasks see the same files (raw text and cache) under the same paths, so on a cluster both lie on
its shared file system. What goes to and from a task is a file of names and numbers.
"""

import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from reprogpt.config import RuntimeConfig
from reprogpt.errors import ConfigError
from reprogpt.storage.files import write_bytes
from reprogpt.storage.paths import cache_dir

T = TypeVar("T")
R = TypeVar("R")

POLL_SECONDS = 5.0
LATE_SECONDS = 60.0
"""A shared file system may show a task's last file so long after the task has left the queue."""


class Task:
    """What every task runs: its share of the jobs of a folder."""

    def __init__(self, folder: str):
        self.folder = folder

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        folder = Path(self.folder)
        function, items = pickle.loads((folder / "jobs").read_bytes())  # noqa: S301 (our own)
        results = [function(item) for item in items[rank::world_size]]
        write_bytes(folder / f"result_{rank}", pickle.dumps(results))


class Tasks:
    """``map`` as in executors.Processes, through datatrove."""

    def __init__(self, runtime: RuntimeConfig, workers: int):
        try:
            import datatrove  # noqa: F401
        except ImportError:
            raise ConfigError(f"params.yaml: runtime.tokenize_executor="
                              f"{runtime.tokenize_executor!r} needs datatrove; pip install "
                              "'reprogpt[slurm]', or set it to local") from None
        self.runtime, self.workers = runtime, workers

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """``function`` of every item, in order, once all are done.

        Raises RuntimeError, naming the logs, when a task failed.
        """
        base = cache_dir() / "jobs"
        base.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=base))
        write_bytes(folder / "jobs", pickle.dumps((function, list(items))))
        count = max(1, min(self.runtime.tokenize_tasks, len(items)))
        if self.runtime.tokenize_executor == "slurm":
            self._on_slurm(folder, count)
        else:
            self._here(folder, count)
        results: list[Any] = [None] * len(items)
        for rank in range(count):
            file = folder / f"result_{rank}"
            results[rank::count] = pickle.loads(file.read_bytes())  # noqa: S301 (our own)
        shutil.rmtree(folder)
        yield from results

    def _here(self, folder: Path, count: int) -> None:
        from datatrove.executor import LocalPipelineExecutor

        LocalPipelineExecutor([Task(str(folder))], tasks=count, workers=self.workers,
                              logging_dir=str(folder / "logs"), start_method="spawn").run()

    def _on_slurm(self, folder: Path, count: int) -> None:
        from datatrove.executor import SlurmPipelineExecutor

        source, binaries = Path(__file__).parent.parent, Path(sys.executable).parent
        executor = SlurmPipelineExecutor(
            [Task(str(folder))], tasks=count, time=self.runtime.slurm_time,
            partition=self.runtime.slurm_partition, job_name="reprogpt-tokenize", qos="",
            logging_dir=str(folder / "logs"), mail_type="NONE",
            env_command=f'export PATH="{binaries}:$PATH" PYTHONPATH="{source}"')
        executor.run()
        _wait(folder, count, str(executor.job_id))


def _wait(folder: Path, count: int, job: str) -> None:
    """Until every task has written its result, or has left the queue without one."""
    gone_since = None
    while True:
        missing = [n for n in range(count) if not (folder / f"result_{n}").is_file()]
        if not missing:
            return
        if _queued(job):
            gone_since = None
        elif gone_since is None:
            gone_since = time.monotonic()
        elif time.monotonic() - gone_since > LATE_SECONDS:
            raise RuntimeError(f"{len(missing)} of {count} tasks of Slurm job {job} ended without "
                               f"a result (first: {missing[0]}); see {folder / 'logs'}, then run "
                               "the stage again: what is done stays done")
        time.sleep(POLL_SECONDS)


def _queued(job: str) -> bool:
    done = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True,
                          check=False)
    # Slurm forgets a finished job after a while, and then calls its number invalid.
    return done.returncode == 0 and bool(done.stdout.strip())
