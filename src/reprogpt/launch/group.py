"""A group of processes on this machine: starting them, and watching until the last has ended."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import reprogpt
from reprogpt.config import RuntimeConfig
from reprogpt.launch.nodes import Node
from reprogpt.launch.run_dir import RunDir
from reprogpt.runtime.contention import bound_spinning
from reprogpt.runtime.signals import StopSignals, die_with_parent
from reprogpt.runtime.workers import usable_cores, visible_gpus

GRACE_SECONDS = 30.0
"""From SIGTERM to SIGKILL: time to save a checkpoint."""
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""glibc then asks for pages of 2 MB: a step at 124M on a CPU takes 3 to 5% less (docs/speed.md)."""
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


class Child(subprocess.Popen[bytes]):
    """A process in a session of its own, so that Ctrl-C reaches the launcher alone. It ends when
    this process does."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None,
                 held: Sequence[int] = (), log: Path | None = None) -> None:
        """``held``: descriptors that it inherits; ``log``: the file for its standard error."""
        with log.open("wb") if log else nullcontext() as file:
            super().__init__(command, env=env, pass_fds=held, start_new_session=True, stderr=file,
                             preexec_fn=partial(die_with_parent, os.getpid()))

    def kill(self) -> None:
        """Kills it and what it has started."""
        os.killpg(self.pid, signal.SIGKILL)


def meet_here(folder: Path) -> dict[str, str]:
    """The environment of processes that meet by a file in ``folder``, which is made anew, and
    which only this user can read."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    return {"RENDEZVOUS_FILE": str(folder / "store"),
            "GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}


def start_group(command: list[str], env: dict[str, str], ranks: range, world: int,
                held: Sequence[int] = (), logs: Path | None = None) -> list[Child]:
    """Starts one process per rank. The standard error of all but the first goes to ``logs``."""
    return [Child(command, env | {"RANK": str(rank), "LOCAL_RANK": str(local),
                                  "WORLD_SIZE": str(world)},
                  held, logs / f"rank_{local}.txt" if logs and local else None)
            for local, rank in enumerate(ranks)]


def wait_for(children: Sequence[Child | Node], run: RunDir | None, stop: StopSignals,
             ending: Callable[[], bool] = bool) -> int:
    """Waits for all children; returns 0 or the exit status of the first that failed. After a
    signal, a failure, or once ``ending()``, all are asked to stop. What still runs after that, or
    a finished run, is killed."""
    status, deadline = 0, None
    while True:
        statuses = [child.poll() for child in children]
        status = status or min(filter(None, statuses), default=0)  # a kill before what it caused
        if None not in statuses:
            return status
        end = ending() or status or stop.received or (run and run.failure.exists())
        if deadline is None and (end or (run and run.done.exists())):
            deadline = time.monotonic() + GRACE_SECONDS
            if end:
                for child in children:
                    child.terminate()
        elif deadline is not None and time.monotonic() > deadline:
            for child in children:
                if child.poll() is None:
                    child.kill()
        time.sleep(0.05)


def describe(status: int) -> str:
    """How a process ended, for a message."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name} (is memory short?)"
    return f"ended with status {status}, the reason is above"


def processes(runtime: RuntimeConfig) -> int:
    """Processes of a group on one machine: ``runtime.nproc``, or one per GPU, or one."""
    return max(1, gpu_count(runtime.device)) if runtime.nproc == "auto" else runtime.nproc


def gpu_count(device_setting: str) -> int:
    """GPUs that training could use; without torch, which would take seconds to import."""
    return len(visible_gpus()) if device_setting in ("auto", "cuda") else 0


def environment(count: int, deterministic: bool = False) -> dict[str, str]:
    """The environment of ``count`` processes that share this machine. What the user has set
    stays."""
    env = HUGE_PAGES | os.environ
    # The processes import the code of this checkout, whatever is installed.
    source = str(Path(reprogpt.__file__).parents[1])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (source, env.get("PYTHONPATH"))))
    env.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    bound_spinning(env)
    env.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if deterministic:
        env.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return env


def run_group(command: list[str], meeting: Path, count: int) -> int:
    """Runs ``command`` in ``count`` processes that form a group on this machine, and returns 0 or
    the first failure's exit status. Only rank 0 writes to standard error, and the rank that failed
    first, so that a line is said once. Raises KeyboardInterrupt."""
    env = environment(count) | meet_here(meeting)
    env.pop("DVC_STAGE", None)
    failed: list[int] = []

    def note_failures() -> bool:
        failed.extend(r for r, child in enumerate(children) if child.returncode and r not in failed)
        return bool(failed)

    with StopSignals() as stop:
        children = start_group(command, env, range(count), count, logs=meeting)
        status = wait_for(children, None, stop, note_failures)
    if stop.received == signal.SIGINT:
        raise KeyboardInterrupt
    if failed and failed[0]:
        said = (meeting / f"rank_{failed[0]}.txt").read_text(errors="replace")
        # A single line is a mistake of the user, which rank 0 has said as well, unless it ended.
        if said.count("\n") != 1 or children[0].returncode in (0, -signal.SIGTERM):
            print(said or f"process {failed[0]} {describe(status)}", file=sys.stderr)
    shutil.rmtree(meeting, ignore_errors=True)
    return status
