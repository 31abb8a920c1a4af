"""Starting a training: torchrun on this machine, or srun + torchrun on a Slurm cluster.

The launcher is the process DVC sees. It holds the run's lock, hands signals on, notices when its
own parent dies, and stays until the last training process is gone. It never imports torch.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import reprogpt
from reprogpt.errors import ConfigError
from reprogpt.launch.run_dir import RunDir
from reprogpt.runtime.signals import SIGNALS, die_with_parent
from reprogpt.runtime.workers import usable_cores

GRACE_SECONDS = 40.0
"""After a signal: time for a checkpoint. torchrun itself kills its workers after 30 s."""


HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""glibc asks for pages of 2 MB: a step at 124M on a CPU takes 3 to 5% less (docs/speed.md). It is
read when a process starts; no effect where the system never gives them, or on another libc."""


class TrainingFailed(RuntimeError):
    """The training did not finish; the message says why and how to go on."""


def launch(run: RunDir) -> None:
    """Trains ``run`` to its end in ``runtime.nproc`` processes.

    Raises TrainingFailed, and ConfigError where the reason is a param.
    """
    die_with_parent()
    held = [run.lock()]
    run.write()
    if _queues(run):  # the launcher that the queue starts takes the lock
        os.close(held.pop())
    run.failure.unlink(missing_ok=True)
    run.done.unlink(missing_ok=True)
    command = LAUNCHERS[run.config.runtime.launcher](run)
    received: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)

    before = {s: signal.signal(s, note) for s in SIGNALS}
    try:
        # A session of its own: Ctrl-C reaches only this process, which hands it on once.
        child = subprocess.Popen(command, env=_environment(run), pass_fds=held,
                                 start_new_session=True, preexec_fn=die_with_parent)
        status = _wait(child, run, received)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for descriptor in held:
            os.close(descriptor)
    if run.failure.exists():
        reason = run.failure.read_text(encoding="utf-8") or "training failed, the reason is above"
        raise (ConfigError if reason.startswith("params.yaml: ") else TrainingFailed)(reason)
    if run.done.exists():
        return
    if received:
        name = signal.Signals(received[0]).name
        raise TrainingFailed(f"training stopped by {name}; {_left(run)}")
    if status < 0:
        raise TrainingFailed(f"training was killed by {signal.Signals(-status).name} (is memory "
                             f"short?); {_left(run)}")
    if status != 0:
        raise TrainingFailed(f"training ended with status {status}, the reason is above; "
                             f"{_left(run)}")


def _left(run: RunDir) -> str:
    """How a run that did not finish goes on."""
    if any(run.path.glob("step_*.pt")):
        return ("the same command continues from the last checkpoint in "
                f"runs/{run.path.name}")
    return "it had no checkpoint yet, and the same command starts it anew"


def _wait(child: subprocess.Popen[bytes], run: RunDir, received: list[int]) -> int:
    """Waits for the child; hands on the first signal; ends a group whose failure is final, or
    that has written everything and does not go."""
    told, deadline = False, None
    while (status := child.poll()) is None:
        time.sleep(0.05)
        if not told and (received or run.failure.exists()):
            _tell(child, run, received[0] if received else signal.SIGTERM)
            told, deadline = True, time.monotonic() + GRACE_SECONDS
        elif not told and not run.done.exists():
            deadline = None
        elif deadline is None or time.monotonic() > deadline:
            if deadline is not None:
                os.killpg(child.pid, signal.SIGKILL)
            deadline = time.monotonic() + GRACE_SECONDS
    return status


def _tell(child: subprocess.Popen[bytes], run: RunDir, signum: int) -> None:
    if _queues(run):
        subprocess.run(["scancel", "--batch", "--signal=TERM", f"--name={_job_name(run)}"],
                       check=False)
    else:  # srun takes SIGINT for a question, and passes others on
        slurm = run.config.runtime.launcher == "slurm"
        child.send_signal(signal.SIGTERM if slurm else signum)


def processes(run: RunDir) -> int:
    """Training processes on this machine: ``runtime.nproc``, or one per GPU, or one."""
    runtime = run.config.runtime
    return max(1, gpu_count(runtime.device)) if runtime.nproc == "auto" else runtime.nproc


def gpu_count(device_setting: str) -> int:
    """GPUs that training could use. Counted without torch, whose import takes seconds that the
    launcher would only wait for: the driver's device files, or what the user left visible."""
    if device_setting not in ("auto", "cuda"):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = [p for p in Path("/dev").glob("nvidia*") if p.name[6:].isdigit()]
    if visible is None or not present:
        return len(present)
    return len([v for v in visible.split(",") if v.strip() not in ("", "-1")])


def _torchrun(run: RunDir) -> list[str]:
    return [sys.executable, "-m", "reprogpt.launch.torchrun", "--standalone",
            f"--nproc-per-node={processes(run)}", *_torchrun_options(run)]


def _torchrun_options(run: RunDir) -> list[str]:
    return [f"--max-restarts={run.config.runtime.max_restarts}", "--monitor-interval=0.2",
            "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1", "-m", "reprogpt.training.trainer",
            str(run.path)]


def _slurm(run: RunDir) -> list[str]:
    """Inside an allocation: one torchrun per node, meeting at the first node. Outside of one,
    sbatch asks for it with the options in SBATCH_* variables, and waits."""
    if _queues(run):
        return ["sbatch", "--wait", "--signal=B:USR1@120", f"--job-name={_job_name(run)}",
                "--wrap=exec " + shlex.join([sys.executable, "-m", "reprogpt.launch.launcher",
                                             str(run.path)])]
    nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    hosts = subprocess.run(["scontrol", "show", "hostnames"], check=True, text=True,
                           capture_output=True).stdout.split()
    port = 20000 + int(os.environ["SLURM_JOB_ID"]) % 10000
    return ["srun", "--kill-on-bad-exit=1", "--ntasks-per-node=1", sys.executable,
            "-m", "reprogpt.launch.torchrun", f"--nnodes={nodes}",
            f"--nproc-per-node={processes(run)}", f"--rdzv-id={os.environ['SLURM_JOB_ID']}",
            "--rdzv-backend=c10d", f"--rdzv-endpoint={hosts[0]}:{port}", *_torchrun_options(run)]


def _queues(run: RunDir) -> bool:
    """Whether this launcher only asks Slurm for the nodes on which another one will launch."""
    return run.config.runtime.launcher == "slurm" and "SLURM_JOB_ID" not in os.environ


def _job_name(run: RunDir) -> str:
    return f"reprogpt-{run.path.name}"


LAUNCHERS = {"torchrun": _torchrun, "slurm": _slurm}


def _environment(run: RunDir) -> dict[str, str]:
    env = HUGE_PAGES | os.environ
    # The training processes import the code of this checkout, whatever is installed.
    source = str(Path(reprogpt.__file__).parents[1])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (source, env.get("PYTHONPATH"))))
    # Restarts hang now and then when the rendezvous store is shared with the workers.
    env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    env.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes(run))))
    env.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if run.config.train.deterministic:
        env.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return env


def main() -> int:
    """``python -m reprogpt.launch.launcher RUN_DIR``: what sbatch starts on the first node."""
    try:
        launch(RunDir.open(Path(sys.argv[1])))
    except (TrainingFailed, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
