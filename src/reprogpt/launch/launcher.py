"""Starts and supervises a training: its processes on this machine, or a Slurm job.

    python -m reprogpt.launch.launcher RUN_DIR          what sbatch starts on the first node
    python -m reprogpt.launch.launcher RUN_DIR node     what srun starts on every node

The launcher is the process that DVC sees. It holds the run's lock, starts one process per rank,
forwards signals to them, restarts all of them when one fails, and ends after the last of them,
or when its own parent dies. It never imports torch. The processes of one machine meet by a file in
a private folder and use the loopback interface, so that nobody else can reach them.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import reprogpt
from reprogpt.errors import ConfigError
from reprogpt.launch.run_dir import RunDir, checkpoint_steps
from reprogpt.runtime.signals import StopSignals, die_with_parent
from reprogpt.runtime.workers import usable_cores

Child = subprocess.Popen[bytes]

GRACE_SECONDS = 30.0
"""From SIGTERM to SIGKILL: time to save a checkpoint."""
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""glibc then asks for pages of 2 MB: a step at 124M on a CPU takes 3 to 5% less (docs/speed.md)."""
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


class TrainingFailed(RuntimeError):
    """The training did not finish; the message says why and how to continue."""


def launch(run: RunDir) -> None:
    """Trains ``run`` to its end in ``runtime.nproc`` processes. Raises TrainingFailed, and
    ConfigError where the reason is a param."""
    die_with_parent()
    held = [run.lock()]
    run.write()
    if _asks_slurm(run):  # the launcher that Slurm starts takes the lock
        os.close(held.pop())
    run.failure.unlink(missing_ok=True)
    run.done.unlink(missing_ok=True)
    with StopSignals() as stop:
        try:
            status = _train(run, held, stop)
        finally:
            for descriptor in held:
                os.close(descriptor)
    if run.failure.exists():
        reason = run.failure.read_text(encoding="utf-8") or "training failed, the reason is above"
        raise (ConfigError if reason.startswith("params.yaml: ") else TrainingFailed)(reason)
    if run.done.exists() or (status == 0 and not stop.received):
        return
    what = f"stopped by {stop.received.name}" if stop.received else _describe(status)
    then = (f"continues from the last checkpoint in runs/{run.path.name}"
            if checkpoint_steps(run.path) else "starts it anew, there was no checkpoint yet")
    raise TrainingFailed(f"training {what}; the same command {then}")


def _describe(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name} (is memory short?)"
    return f"ended with status {status}, the reason is above"


def _train(run: RunDir, held: list[int], stop: StopSignals) -> int:
    """Starts the processes, and after a failure all of them again, runtime.max_restarts times.
    Returns 0 or the exit status of the first failure."""
    restarts = 0 if _asks_slurm(run) else run.config.runtime.max_restarts
    slurm = run.config.runtime.launcher == "slurm"
    while True:
        children = [_start(*_slurm(run), held)] if slurm else _start_ranks(run, held)
        status = _wait(children, run, stop)
        final = run.failure.exists() or run.done.exists() or stop.received
        if not status or final or not restarts:
            return status
        restarts -= 1
        print(f"training {_describe(status)}; starting it again ({restarts} restarts left)",
              file=sys.stderr, flush=True)


def _start_ranks(run: RunDir, held: list[int]) -> list[Child]:
    """Starts the training processes of this machine, which may be one of several under Slurm."""
    env, node, nodes = _environment(run), 0, 1
    if run.config.runtime.launcher == "slurm":
        node, nodes = int(os.environ["SLURM_NODEID"]), int(os.environ["SLURM_JOB_NUM_NODES"])
    if nodes == 1:
        meeting = run.path / "rendezvous"  # private: only this user's processes may join
        shutil.rmtree(meeting, ignore_errors=True)
        meeting.mkdir(mode=0o700)
        env |= {"RENDEZVOUS_FILE": str(meeting / "store"),
                "GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
    local = processes(run)
    return [_start([sys.executable, "-m", "reprogpt.training.trainer", str(run.path)],
                   env | {"RANK": str(node * local + rank), "LOCAL_RANK": str(rank),
                          "WORLD_SIZE": str(nodes * local)}, held)
            for rank in range(local)]


def _start(command: list[str], env: dict[str, str], held: list[int]) -> Child:
    """Starts one child, in a session of its own: Ctrl-C reaches the launcher alone."""
    return subprocess.Popen(command, env=env, pass_fds=held, start_new_session=True,
                            preexec_fn=partial(die_with_parent, os.getpid()))


def _wait(children: list[Child], run: RunDir, stop: StopSignals) -> int:
    """Waits for all children; returns 0 or the exit status of the first that failed. After a signal
    or a failure all are asked to stop. What still runs after that, or a finished run, is killed."""
    status, deadline = 0, None
    while True:
        statuses = [child.poll() for child in children]
        status = status or min(filter(None, statuses), default=0)  # a kill before what it caused
        if None not in statuses:
            return status
        ending = status or stop.received or run.failure.exists()
        if deadline is None and (ending or run.done.exists()):
            deadline = time.monotonic() + GRACE_SECONDS
            if ending:
                _terminate(children, run)
        elif deadline is not None and time.monotonic() > deadline:
            for child in children:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
        time.sleep(0.05)


def _terminate(children: list[Child], run: RunDir) -> None:
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
    env = _environment(run)
    if _asks_slurm(run):
        return ["sbatch", "--wait", "--signal=B:USR1@120", f"--job-name=reprogpt-{run.path.name}",
                f"--wrap=exec {shlex.join(command)}"], env
    hosts = subprocess.run(["scontrol", "show", "hostnames"], check=True, text=True,
                           capture_output=True).stdout.split()
    port = 20000 + int(os.environ["SLURM_JOB_ID"]) % 10000
    return (["srun", "--kill-on-bad-exit=1", "--ntasks-per-node=1", *command, "node"],
            env | {"MASTER_ADDR": hosts[0], "MASTER_PORT": str(port)})


def _environment(run: RunDir) -> dict[str, str]:
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
    try:
        run = RunDir.open(Path(sys.argv[1]))
        if sys.argv[2:] == ["node"]:
            die_with_parent()
            with StopSignals() as stop:
                return abs(_wait(_start_ranks(run, []), run, stop))
        launch(run)
    except (TrainingFailed, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
