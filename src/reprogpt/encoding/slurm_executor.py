"""Jobs as tasks of datatrove's executors: on this machine, or on a Slurm cluster.

One task runs one job, whose result goes into the cache. On a cluster raw text and cache lie on its
shared file system, under the same paths everywhere.
"""

import functools
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reprogpt.config import RuntimeConfig
from reprogpt.errors import ConfigError
from reprogpt.storage.files import write_bytes
from reprogpt.storage.paths import cache_dir

POLL_SECONDS = 5.0
LATE_SECONDS = 60.0
"""A shared file system may show a task's last file so long after the task has left the queue."""


def _run_task(jobs: Path, data: object, rank: int, world_size: int) -> None:
    """A step of a datatrove pipeline: task ``rank`` runs the job of that number."""
    function, items = pickle.loads(jobs.read_bytes())  # noqa: S301 (our own)
    function(items[rank])


def run_tasks(runtime: RuntimeConfig, workers: int, function: Callable[[Any], Any],
              items: Sequence[Any]) -> None:
    """Calls ``function`` with every item, each in a task, and returns when all are done. Raises
    RuntimeError, naming the logs, when a task failed."""
    try:
        from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
    except ImportError:
        raise ConfigError("params.yaml: runtime.tokenize_executor="
                          f"{runtime.tokenize_executor!r} needs datatrove; pip install "
                          "-c constraints.txt -e '.[slurm]', or set it to local") from None
    base = cache_dir() / "jobs"
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=base))
    write_bytes(folder / "jobs", pickle.dumps((function, list(items))))
    pipeline, logs = [functools.partial(_run_task, folder / "jobs")], str(folder / "logs")
    if runtime.tokenize_executor == "slurm":
        source, binaries = Path(__file__).parent.parent.parent, Path(sys.executable).parent
        executor = SlurmPipelineExecutor(
            pipeline, tasks=len(items), logging_dir=logs, time=runtime.slurm_time,
            tasks_per_job=-(-len(items) // runtime.tokenize_tasks), qos="", mail_type="NONE",
            partition=runtime.slurm_partition, job_name="reprogpt-tokenize",
            env_command=f'export PATH="{binaries}:$PATH" PYTHONPATH="{source}"')
        executor.run()
        _wait(executor, logs)
    else:
        LocalPipelineExecutor(pipeline, tasks=len(items), logging_dir=logs, start_method="spawn",
                              workers=min(workers, runtime.tokenize_tasks)).run()
    shutil.rmtree(folder)


def _wait(executor: Any, logs: str) -> None:
    """Returns when every task is complete. Raises RuntimeError when some left the queue undone."""
    seen = time.monotonic()
    while missing := executor.get_incomplete_ranks(skip_completed=True):
        queue = subprocess.run(["squeue", "--noheader", "--jobs", str(executor.job_id)],
                               capture_output=True, text=True, check=False)
        # Slurm forgets a finished job after a while, and then calls its number invalid.
        if queue.returncode == 0 and queue.stdout.strip():
            seen = time.monotonic()
        elif time.monotonic() - seen > LATE_SECONDS:
            raise RuntimeError(f"{len(missing)} of {executor.world_size} tasks of Slurm job "
                               f"{executor.job_id} ended without a result (first: {missing[0]}); "
                               f"see {logs}, then run the stage again: what is done stays done")
        time.sleep(POLL_SECONDS)
