"""Starts and supervises a training: its processes on this machine, on several, or a Slurm job.

    python -m reprogpt.launch.launcher RUN_DIR          what sbatch starts on the first node
    python -m reprogpt.launch.launcher RUN_DIR node     what srun starts on every node

The launcher is the process that DVC sees. It holds the run's lock, starts one process per rank,
forwards signals to them, restarts all of them when one fails, and ends after the last of them,
or when its own parent dies. It never imports torch. The processes of one machine meet by a file in
a private folder and use the loopback interface, so that nobody else can reach them. Those of
several machines meet at a port of rank 0, which listens on one interface only.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import reprogpt
from reprogpt.errors import ConfigError
from reprogpt.launch import network
from reprogpt.launch.nodes import LOST, Node, Nodes
from reprogpt.launch.run_dir import RunDir, checkpoint_steps
from reprogpt.runtime.signals import StopSignals, die_with_parent
from reprogpt.runtime.workers import usable_cores
from reprogpt.storage.files import write_json

GRACE_SECONDS = 30.0
"""From SIGTERM to SIGKILL: time to save a checkpoint."""
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""glibc then asks for pages of 2 MB: a step at 124M on a CPU takes 3 to 5% less (docs/speed.md)."""
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


class TrainingFailed(RuntimeError):
    """The training did not finish; the message says why and how to continue."""


class Child(subprocess.Popen[bytes]):
    """A process in a session of its own, so that Ctrl-C reaches the launcher alone."""

    def kill(self) -> None:
        """Kills it and what it has started."""
        os.killpg(self.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Part:
    """The share of one node in a training over several: its ranks, and where rank 0 listens."""

    node: int
    first_rank: int
    world: int
    host: str
    port: int


def launch(run: RunDir, code: Mapping[str, str] | None = None) -> None:
    """Trains ``run`` to its end. Raises TrainingFailed, and ConfigError where the reason is a
    param. ``code``: path -> sha256 of the sources, which other nodes must have as well."""
    die_with_parent()
    held = [run.lock()]
    run.write()
    if _asks_slurm(run):  # the launcher that Slurm starts takes the lock
        os.close(held.pop())
    run.failure.unlink(missing_ok=True)
    run.done.unlink(missing_ok=True)
    nodes = None
    with StopSignals() as stop:
        try:
            if run.config.runtime.launcher == "c10d":
                nodes = Nodes(run, network.Rendezvous.of(run.config.runtime), code or {})
            status = _train(run, held, stop, nodes)
        finally:
            for descriptor in held:
                os.close(descriptor)
            if nodes is not None:
                nodes.end(**_ending(run))
    if run.failure.exists():
        reason = run.failure.read_text(encoding="utf-8") or "training failed, the reason is above"
        raise (ConfigError if reason.startswith("params.yaml: ") else TrainingFailed)(reason)
    if run.done.exists() or (status == 0 and not stop.received):
        return
    what = f"stopped by {stop.received.name}" if stop.received else _describe(status)
    then = (f"continues from the last checkpoint in runs/{run.path.name}"
            if checkpoint_steps(run.path) else "starts it anew, there was no checkpoint yet")
    raise TrainingFailed(f"training {what}; the same command {then}")


def _ending(run: RunDir) -> dict[str, Any]:
    """What the other nodes are told at the end; nothing when the run is to be continued."""
    if run.failure.exists():
        return {"failed": run.failure.read_text(encoding="utf-8")}
    return {"done": True} if run.done.exists() else {}


def _describe(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name} (is memory short?)"
    return f"ended with status {status}, the reason is above"


def _train(run: RunDir, held: list[int], stop: StopSignals, nodes: Nodes | None) -> int:
    """Starts the processes, and after a failure all of them again, runtime.max_restarts times; a
    node that was lost may come back any number of times. Returns 0 or the first failure's exit
    status."""
    restarts = 0 if _asks_slurm(run) else run.config.runtime.max_restarts
    while True:
        others = nodes.gather(stop) if nodes and not run.trained else []
        if stop.received:
            return LOST
        if run.config.runtime.launcher == "slurm":
            children: list[Child | Node] = [_start(*_slurm(run), held)]
        else:
            children = [*_start_with(run, others, nodes, held), *others]
        status = wait_for(children, run, stop)
        if reasons := [f"node {node.name}: {node.reason}" for node in others if node.reason]:
            run.failure.write_text(reasons[0], encoding="utf-8")
        final = run.failure.exists() or run.done.exists() or stop.received
        lost = [node.name for node in others if node.lost]
        if not status or final or not (restarts or lost):
            return status
        restarts -= not lost
        print(f"node {', '.join(lost)} was lost; it may come back" if lost else
              f"training {_describe(status)}; starting it again ({restarts} restarts left)",
              file=sys.stderr, flush=True)


def _start_with(run: RunDir, others: Sequence[Node], nodes: Nodes | None, held: list[int]
                ) -> list[Child]:
    """Starts the training processes of this machine as node 0, and has the others start theirs."""
    if nodes is None:
        return start_ranks(run, held)
    with network.listen(nodes.address, 0) as server:
        port, rank = server.getsockname()[1], processes(run)
        world = rank + sum(node.processes for node in others)
        for number, node in enumerate(others, 1):
            node.start(asdict(Part(number, rank, world, nodes.address, port)))
            rank += node.processes
        return start_ranks(run, held, Part(0, 0, world, nodes.address, port), nodes.address,
                           server.fileno())


def start_ranks(run: RunDir, held: list[int], part: Part | None = None, own_address: str = "",
                server: int | None = None) -> list[Child]:
    """Starts the training processes of this machine: all, or ``part`` of them, which use the
    interface of ``own_address``. ``server``: the socket on which rank 0 listens."""
    return start_group([sys.executable, "-m", "reprogpt.training.trainer", str(run.path)],
                       run.path / "rendezvous", environment(run), processes(run), held, part,
                       own_address, server)


def start_group(command: list[str], meeting: Path, env: dict[str, str], count: int,
                held: list[int], part: Part | None = None, own_address: str = "",
                server: int | None = None) -> list[Child]:
    """Starts ``count`` processes that form a group. Without ``part`` they are all of it, and meet
    by a file in the folder ``meeting``, which only this user can read."""
    if part is None:
        shutil.rmtree(meeting, ignore_errors=True)
        meeting.mkdir(mode=0o700, parents=True)
        part = Part(0, 0, count, "", 0)
        env = env | {"RENDEZVOUS_FILE": str(meeting / "store"),
                     "GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
    else:
        env = (env | network.bind_to(own_address)
               | {"RENDEZVOUS": f"{part.host} {part.port}", "RENDEZVOUS_FD": str(server or "")})
    return [_start(command, env | {"RANK": str(part.first_rank + rank), "LOCAL_RANK": str(rank),
                                   "WORLD_SIZE": str(part.world)},
                   held if server is None or rank else [*held, server])
            for rank in range(count)]


def _start(command: list[str], env: dict[str, str], held: list[int]) -> Child:
    return Child(command, env=env, pass_fds=held, start_new_session=True,
                 preexec_fn=partial(die_with_parent, os.getpid()))


def wait_for(children: Sequence[Child | Node], run: RunDir, stop: StopSignals,
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
        end = status or stop.received or run.failure.exists() or ending()
        if deadline is None and (end or run.done.exists()):
            deadline = time.monotonic() + GRACE_SECONDS
            if end:
                _terminate(children, run)
        elif deadline is not None and time.monotonic() > deadline:
            for child in children:
                if child.poll() is None:
                    child.kill()
        time.sleep(0.05)


def _terminate(children: Sequence[Child | Node], run: RunDir) -> None:
    """Asks all training processes to save and stop; by SIGTERM, as srun takes SIGINT otherwise."""
    if _asks_slurm(run):
        subprocess.run(["scancel", "--batch", "--signal=TERM", f"--name=reprogpt-{run.path.name}"],
                       check=False)
        return
    for child in children:
        child.terminate()


def processes(run: RunDir) -> int:
    """Training processes on one machine: ``runtime.nproc``, or one per GPU, or one."""
    runtime = run.config.runtime
    return max(1, gpu_count(runtime.device)) if runtime.nproc == "auto" else runtime.nproc


def gpu_count(device_setting: str) -> int:
    """GPUs that training could use; without torch, which would take seconds to import."""
    if device_setting not in ("auto", "cuda"):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = list(Path("/dev").glob("nvidia[0-9]*"))
    if visible is None or not present:
        return len(present)
    return len([v for v in visible.split(",") if v.strip() not in ("", "-1")])


def _asks_slurm(run: RunDir) -> bool:
    """Whether this launcher only asks Slurm for the nodes, on which another one then launches."""
    return run.config.runtime.launcher == "slurm" and "SLURM_JOB_ID" not in os.environ


def _slurm(run: RunDir) -> tuple[list[str], dict[str, str]]:
    """The command and its environment. In an allocation: srun, which starts this file on every
    node. Outside: sbatch, which waits for an allocation by the options in SBATCH_* variables."""
    command = [sys.executable, "-m", "reprogpt.launch.launcher", str(run.path)]
    env = environment(run)
    if _asks_slurm(run):
        return ["sbatch", "--wait", "--signal=B:USR1@120", f"--job-name=reprogpt-{run.path.name}",
                f"--wrap=exec {shlex.join(command)}"], env
    meeting = run.path / "rendezvous"  # on the file system that all nodes share
    shutil.rmtree(meeting, ignore_errors=True)
    meeting.mkdir(mode=0o700)
    return ["srun", "--kill-on-bad-exit=1", "--ntasks-per-node=1", *command, "node"], env


def _start_slurm_node(run: RunDir) -> list[Child]:
    """Starts the training processes of one node of a Slurm job. Node 0 chooses a free port of the
    interface that has its name, and tells the others by a file that only this user can read."""
    node, nodes = int(os.environ["SLURM_NODEID"]), int(os.environ["SLURM_JOB_NUM_NODES"])
    if nodes == 1:
        return start_ranks(run, [])
    local, file = processes(run), run.path / "rendezvous/address.json"
    part = Part(node, node * local, nodes * local, "", 0)
    if node == 0:
        name = network.first_host(os.environ["SLURM_JOB_NODELIST"])
        with network.listen(name, 0, "the first node of SLURM_JOB_NODELIST") as server:
            host, port = server.getsockname()[:2]
            write_json(file, [host, port])
            return start_ranks(run, [], replace(part, host=host, port=port), host, server.fileno())
    while not file.exists():
        time.sleep(0.1)
    host, port = json.loads(file.read_text(encoding="utf-8"))
    return start_ranks(run, [], replace(part, host=host, port=port), network.route_to(host, port))


def environment(run: RunDir) -> dict[str, str]:
    """The training processes' environment. What the user has set stays."""
    env = HUGE_PAGES | os.environ
    # The training processes import the code of this checkout, whatever is installed.
    source = str(Path(reprogpt.__file__).parents[1])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (source, env.get("PYTHONPATH"))))
    env.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes(run))))
    env.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if run.config.train.deterministic:
        env.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return env


def main() -> int:
    """Launches the run, or under srun its part on this node; returns the exit status."""
    run = RunDir.open(Path(sys.argv[1]))
    if sys.argv[2:] == ["node"]:
        die_with_parent()
        with StopSignals() as stop:
            return abs(wait_for(_start_slurm_node(run), run, stop))
    try:
        launch(run)
    except (TrainingFailed, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
