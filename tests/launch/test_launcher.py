"""The launcher: real processes, really killed.

`python -m tests.launch.test_launcher 20` kills 20 times.
"""

import contextlib
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from reprogpt.errors import ConfigError
from reprogpt.launch.group import HUGE_PAGES, environment, processes
from reprogpt.launch.launcher import launch as start
from reprogpt.launch.run_dir import RunDir
from reprogpt.training import checkpoint
from tests.tiny_runs import (
    config,
    launch,
    make_run,
    members_in,
    read_csv,
    weights,
    without_times,
    write_tokens,
)

pytestmark = pytest.mark.timeout(900)  # starting takes minutes on a machine that is busy
LONG = {"max_steps": 150, "batch_tokens": 12 * 16, "eval_interval": 100}
"""Some seconds of training: time enough to be killed in."""


def members(run: RunDir) -> list[int]:
    """Process ids of everything that works on a run: launcher and training processes."""
    return members_in(run.path)


def workers(run: RunDir) -> list[int]:
    """The training processes among them."""
    return [pid for pid in members(run)
            if "reprogpt.training.process" in Path(f"/proc/{pid}/cmdline").read_text()]


def wait_for(condition: object, what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.02)


def last_step(run: RunDir) -> int:
    """The step of the last checkpoint, 0 if there is none."""
    return (checkpoint.steps(run.path) or [0])[-1]


def wait_for_step(run: RunDir, step: int, child: subprocess.Popen[str] | None = None) -> None:
    """Returns when a checkpoint of ``step`` or a later one is there, or ``child`` has ended."""
    wait_for(lambda: last_step(run) >= step or (child is not None and child.poll() is not None),
             f"step {step}")


def finish(run: RunDir) -> None:
    child = launch(run)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 0, said


def torture(folder: Path, tokens: Path, kills: int, seed: int) -> tuple[str, str, list[str]]:
    """One run killed with -9 ``kills`` times at random moments, one left in peace.

    Most kills wait until the run has come a random part further and saved once more, so that on a
    slow machine, too, there is something to lose; every fifth falls while the run starts.
    Returns the sha256 of both models and what was killed when.
    """
    rng = random.Random(seed)
    peace = make_run(folder / "peace", tokens, train=LONG)
    finish(peace)
    run = make_run(folder / "torture", tokens, train=LONG)
    log: list[str] = []
    nothing_to_lose = 0
    while len(log) < kills:
        before = last_step(run)
        # The last step is left alone: a run that has ended cannot be killed.
        share = (LONG["max_steps"] - 10) / kills
        goal = max(before + 1, round((len(log) + rng.random()) * share))
        child = launch(run)
        if len(log) % 5 == 4:
            time.sleep(rng.uniform(0.0, 5.0))
        else:
            wait_for_step(run, goal, child)
            time.sleep(rng.uniform(0.0, 0.1))  # about as long as from one save to the next
        alive = members(run)
        if child.poll() is not None or not alive:
            for path in run.path.glob("*.pt"):  # it finished: begin the run anew
                path.unlink()
            continue
        nothing_to_lose += not checkpoint.steps(run.path)
        victims = rng.choice([alive, [rng.choice(alive)]])
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        child.communicate(timeout=300)
        wait_for(lambda: not members(run), "the others to notice")
        log.append(f"{len(victims)} of {len(alive)} processes killed, checkpoints at "
                   f"{checkpoint.steps(run.path)}")
    assert nothing_to_lose < kills / 2, log
    finish(run)
    assert without_times(read_csv(run)) == without_times(read_csv(peace))
    sums = [hashlib.sha256(weights(r)).hexdigest() for r in (peace, run)]
    return sums[0], sums[1], log


@pytest.mark.slow
def test_killed_at_random_it_ends_with_the_same_weights(tmp_path: Path, tokens: Path) -> None:
    straight, tortured, log = torture(tmp_path, tokens, kills=2, seed=int(time.time()))
    assert straight == tortured, log


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_saves_and_stops(tmp_path: Path, tokens: Path, name: str) -> None:
    run = make_run(tmp_path, tokens, train=LONG | {"max_steps": 100_000},
                   runtime={"checkpoint_interval": 50_000})
    child = launch(run)
    table = Path(run.paths.csv)  # whole lines counted: the last one may be half written
    wait_for(lambda: table.exists() and table.read_text().count("\n") > 4, "a few steps")
    child.send_signal(signal.Signals[name])
    _, said = child.communicate(timeout=30)
    assert child.returncode == 1
    assert f"stopped by {name}" in said
    assert "the same command continues from there" in said
    assert checkpoint.steps(run.path), "it should have saved on the way out"
    assert not members(run)


@pytest.mark.slow
def test_nothing_outlives_what_started_it(tmp_path: Path, tokens: Path) -> None:
    """The launcher's parent (DVC, say) is killed alone: training saves and ends by itself."""
    run = make_run(tmp_path, tokens, train=LONG | {"max_steps": 100_000})
    run.write()
    parent = subprocess.Popen([sys.executable, "-c", (
        "import sys; from reprogpt.launch.run_dir import RunDir;"
        "from tests.tiny_runs import launch;"
        "from pathlib import Path; launch(RunDir.open(Path(sys.argv[1]))).wait()"),
        str(run.path)], env=os.environ | {"PYTHONPATH": "src:."})
    wait_for_step(run, 4)
    parent.kill()
    parent.wait()
    wait_for(lambda: not members(run), "everything to end", 30)


@pytest.mark.slow
def test_a_group_that_loses_one_starts_again(tmp_path: Path, tokens: Path) -> None:
    """Two processes; one is killed alone; both start again from the last checkpoint."""
    changes = {"train": LONG, "runtime": {"nproc": 2, "max_restarts": 2}}
    straight = make_run(tmp_path / "straight", tokens, **changes)
    finish(straight)
    run = make_run(tmp_path / "restarted", tokens, **changes)
    child = launch(run)
    wait_for_step(run, 40)
    os.kill(workers(run)[-1], signal.SIGKILL)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 0, said
    assert "was killed by SIGKILL (is memory short?); starting it again (1 restarts left)" in said
    assert "continuing run" in said
    assert weights(run) == weights(straight)


@pytest.mark.slow
def test_a_process_that_hangs_is_noticed(tmp_path: Path, tokens: Path) -> None:
    """One of two is stopped, not killed: after runtime.timeout the run ends instead of waiting."""
    run = make_run(tmp_path, tokens, train=LONG | {"max_steps": 100_000},
                   runtime={"nproc": 2, "max_restarts": 0, "timeout": 5})
    child = launch(run)
    wait_for_step(run, 4)
    os.kill(workers(run)[-1], signal.SIGSTOP)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 1
    assert "the same command continues from the last checkpoint" in said
    assert not members(run)


def listening(pids: list[int]) -> set[str]:
    """The addresses, in hexadecimal, on which any of these processes has a listening TCP socket."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                inodes.add(str(descriptor.readlink()))
    found = set()
    for table in (f"/proc/{pid}/net/{name}" for pid in pids for name in ("tcp", "tcp6")):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:  # TCP_LISTEN
                found.add(fields[1].partition(":")[0])
    return found


LOOPBACK = {"0100007F", "0" * 24 + "01000000"}
"""127.0.0.1 and ::1, as /proc/net has them."""


@pytest.mark.slow
@pytest.mark.parametrize("nproc", [1, 2])
def test_nothing_listens_beyond_this_machine(tmp_path: Path, tokens: Path, nproc: int) -> None:
    run = make_run(tmp_path, tokens, train=LONG | {"max_steps": 100_000},
                   runtime={"nproc": nproc})
    child = launch(run)
    seen: set[str] = set()
    while last_step(run) < 4:  # from the first moment on: who listens only at the start is seen too
        assert child.poll() is None
        seen |= listening(members(run))
        time.sleep(0.02)
    seen |= listening(members(run))
    assert len(workers(run)) == nproc
    assert seen <= LOOPBACK
    assert (nproc == 1) == (not seen), "one process opens no port, and two meet by one each"
    if nproc == 2:
        assert (run.path / "rendezvous").stat().st_mode & 0o777 == 0o700
    child.terminate()
    child.communicate(timeout=60)


def test_listening_sees_a_socket_of_any_address() -> None:
    with socket.create_server(("0.0.0.0", 0)):
        assert "00000000" in listening([os.getpid()])


@pytest.mark.slow
def test_a_second_trainer_is_told(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path, tokens, train=LONG | {"max_steps": 100_000})
    first = launch(run)
    wait_for_step(run, 4)
    second = launch(run)
    _, said = second.communicate(timeout=30)
    assert second.returncode == 1
    assert f"another trainer (process {first.pid}) is at work on this run" in said
    assert "Traceback" not in said
    first.terminate()
    first.communicate(timeout=30)


@pytest.mark.slow
def test_what_cannot_get_better_is_not_tried_again(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path, tokens, train={"lr": 1e30, "warmup_steps": 0, "grad_clip": 0.0},
                   runtime={"max_restarts": 50})
    child = launch(run)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 1
    assert "is not finite" in said.splitlines()[-1]


@pytest.mark.slow
def test_what_hangs_on_the_way_out_is_ended(tmp_path: Path, tokens: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """A training process has written everything and never exits: the launcher sees to it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "if 'RANK' in os.environ:\n    os._exit = lambda status: time.sleep(9999)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("reprogpt.launch.group.GRACE_SECONDS", 1.0)
    run = make_run(tmp_path, tokens)
    before = time.monotonic()
    start(run)
    assert time.monotonic() - before > 1.0  # it did hang
    assert run.done.exists()
    assert (Path(run.paths.model) / "model.safetensors").exists()
    assert not members(run)


FAKE_SLURM = {  # at once, all nodes on this machine: what the options ask of the real programs
    "sbatch": 'for a in "$@"; do case $a in --wrap=*) job="${a#--wrap=}";; esac; done\n'
              'echo "$@" > $LOG\nexport SLURM_JOB_ID=77 SLURM_JOB_NUM_NODES=$NODES '
              'SLURM_JOB_NODELIST=localhost\n'
              'exec sh -c "$job"',
    "srun": 'echo "$@" >> $LOG\nwhile [ "${1#--}" != "$1" ]; do shift; done\n'
            '[ $SLURM_JOB_NUM_NODES = 2 ] && SLURM_NODEID=1 "$@" &\n'
            'SLURM_NODEID=0 "$@"; status=$?; wait; exit $status',
}


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_slurm(tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch, nodes: int) -> None:
    """sbatch -> launcher -> srun -> a launcher a node, with stand-ins for Slurm's own programs."""
    for name, script in FAKE_SLURM.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("NODES", str(nodes))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    run = make_run(tmp_path, tokens, runtime={"launcher": "slurm"})
    finish(run)
    assert len(read_csv(run)) == 21
    state = checkpoint.latest(run.path)
    assert state is not None
    assert state["numerics"]["processes"] == str(nodes)
    asked = (tmp_path / "log").read_text()
    assert f"--job-name=reprogpt-{run.fingerprint}" in asked
    assert "--signal=B:USR1@120" in asked
    assert "--kill-on-bad-exit=1 --ntasks-per-node=1" in asked


def test_what_is_at_work_is_not_written_over(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path, tokens)
    run.write()
    lock = run.lock()
    before = (run.path / "run.json").read_text()
    with pytest.raises(ConfigError, match="another trainer"):
        start(make_run(tmp_path, tokens, runtime={"nproc": 7}))
    assert (run.path / "run.json").read_text() == before
    os.close(lock)


def test_processes() -> None:
    assert processes(config(runtime={"nproc": 3}).runtime) == 3
    assert processes(config(runtime={"nproc": "auto"}).runtime) == 1


def test_huge_pages_are_asked_for_unless_the_user_says_otherwise(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert HUGE_PAGES.items() <= environment(1).items()
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    assert environment(1)["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=0"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
        a, b, log = torture(Path(name), write_tokens(Path(name) / "tokens"), count, seed=count)
        print("\n".join(log))
        print(f"straight {a}\ntortured {b}\n{'the same' if a == b else 'NOT THE SAME'}")
        sys.exit(a != b)
