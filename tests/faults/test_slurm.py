"""The real Slurm, where this machine is one of its nodes (Debian: slurm-wlm and munge)."""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprogpt.launch.run_dir import RunDir
from tests.launch.test_launcher import LONG, members, wait_for, wait_for_step
from tests.tiny_runs import launch, make_run, read_csv, weights, without_times


def answers() -> bool:
    """Whether a controller has an idle or busy node for us."""
    if shutil.which("sbatch") is None:
        return False
    done = subprocess.run(["sinfo", "--noheader", "--format=%t"], capture_output=True, text=True,
                          check=False)
    return done.returncode == 0 and bool(re.search("idle|mix", done.stdout))


pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800),
              pytest.mark.skipif(not answers(), reason="no Slurm with a free node here")]


@pytest.fixture
def run(tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDir]:
    """Two processes on one node; whatever is left of its job is cancelled."""
    for key, value in {"OUTPUT": str(tmp_path / "job.txt"), "TIMELIMIT": "30"}.items():
        monkeypatch.setenv(f"SBATCH_{key}", value)
    found = make_run(tmp_path, tokens, train=LONG, runtime={"launcher": "slurm", "nproc": 2})
    yield found
    subprocess.run(["scancel", f"--name=reprogpt-{found.path.name}"], check=False)


def jobs(run: RunDir) -> list[str]:
    """The ids of the run's jobs that wait or run."""
    return subprocess.run(["squeue", "--noheader", "--format=%i", "--states=PD,R,CG",
                           f"--name=reprogpt-{run.path.name}"],
                          capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("way", ["SIGTERM to the launcher", "SIGUSR1 to the job", "scancel"])
def test_stopped_and_continued_it_ends_with_the_same_weights(
        tmp_path: Path, tokens: Path, run: RunDir, way: str) -> None:
    straight = make_run(tmp_path / "straight", tokens, train=LONG, runtime={"nproc": 2})
    _, said = (child := launch(straight)).communicate(timeout=600)
    assert child.returncode == 0, said
    child = launch(run)
    wait_for_step(run, 20, child)
    (job,) = jobs(run)
    if way == "SIGTERM to the launcher":
        child.send_signal(signal.SIGTERM)
    else:  # what Slurm itself sends before the time is over, and at a requeue
        subprocess.run(["scancel", *(["--signal=USR1", "--batch"] if "USR1" in way else []), job],
                       check=True)
    _, said = child.communicate(timeout=300)
    assert child.returncode == 1
    assert "the same command continues from the last checkpoint" in said
    wait_for(lambda: not jobs(run) and not members(run), "the job to end")
    assert not Path(run.paths.model).exists()
    _, said = (child := launch(run)).communicate(timeout=600)
    assert child.returncode == 0, said
    assert "continuing run" in (tmp_path / "job.txt").read_text()
    assert weights(run) == weights(straight)
    assert without_times(read_csv(run)) == without_times(read_csv(straight))


def test_requeued_it_goes_on_by_itself(tmp_path: Path, tokens: Path, run: RunDir) -> None:
    child = launch(run)
    wait_for_step(run, 20, child)
    (job,) = jobs(run)
    subprocess.run(["scontrol", "requeue", job], check=True)
    _, said = child.communicate(timeout=900)
    assert child.returncode == 0, said
    assert "continuing run" in (tmp_path / "job.txt").read_text()
    assert len(read_csv(run)) == LONG["max_steps"] + 1
