"""Whole `dvc repro`s, killed and stopped: the next one works and ends with the same weights."""

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import run
from tests.faults import projects
from tests.faults.conftest import Trial
from tests.faults.projects import at_work, files_of, said, start, those, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
TRAINER = "reprogpt.training.process"
SEED = random.randrange(1000)
SAME = "the next `dvc repro` finished with the straight run's weights and files"


@dataclass(frozen=True)
class Straight:
    """A run that was left in peace, and a copy of its project from before it."""

    untouched: Path
    weights: bytes
    files: set[str]
    seconds: float


def straight(folder: Path, **params: str) -> Straight:
    untouched = projects.new_project(folder / "untouched", **params)
    project = projects.fresh(untouched, folder / "straight")
    begun = time.monotonic()
    projects.repro(project)
    return Straight(untouched, projects.weights(project), files_of(project),
                    time.monotonic() - begun)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    return straight(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    return straight(tmp_path_factory.mktemp("two"), runtime__nproc="2", runtime__timeout="10",
                    train__max_steps="100")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    projects.kill_rest(tmp_path / "project")


def ended(project: Path) -> str:
    """Waits until nothing of the project runs any more; says how soon that was."""
    seconds = wait_for(lambda: not at_work(project), f"the end of {at_work(project)}", 60)
    return "nothing runs after " + ("5 s" if seconds < 5 else f"{seconds:.0f} s")


def finishes(project: Path, before: Straight) -> str:
    """Runs `dvc repro` to its end; says what came of it.

    DVC writes dvc.lock and its rwlock in place: a signal at that moment leaves one torn, and DVC
    says so.
    """
    torn = start(project, "dvc", "repro").wait(timeout=600) != 0
    if torn:
        assert "dvc.lock" in said(project) or "rwlock" in said(project), said(project)
        file = "dvc.lock" if "dvc.lock" in said(project) else ".dvc/tmp/rwlock"
        checked = run("python", "-m", "pipeline.check", cwd=project)
        assert checked.returncode == 2
        assert f"{file}: is torn" in checked.stderr
        if file == "dvc.lock":
            assert run("git", "checkout", "dvc.lock", cwd=project).returncode == 0
        else:
            (project / file).unlink()
        projects.repro(project)
    assert projects.weights(project) == before.weights
    assert files_of(project) == before.files
    return f"DVC left {file} torn; mended as `make repro` says, {SAME}" if torn else SAME


def moment(before: Straight, number: int) -> float:
    return random.Random(f"{SEED} {number}").uniform(0, before.seconds)


@pytest.mark.parametrize("number", range(20))
def test_sigkill(folder: Path, one: Straight, number: int, trial: Trial) -> None:
    """Of dvc, of its process group, of the stage or launcher, of the training process."""
    victim = ("dvc", "dvc's process group", "the stage or launcher",
              "the training process")[number % 4]
    project = projects.fresh(one.untouched, folder)
    child = start(project, "dvc", "repro")
    if victim == "the training process":
        wait_for(lambda: those(project, TRAINER), victim)
        time.sleep(moment(one, number) / 8)
    else:
        time.sleep(moment(one, number))
    if victim == "dvc":
        child.kill()
    elif victim == "dvc's process group":
        os.killpg(child.pid, signal.SIGKILL)
    else:
        part = TRAINER if victim == "the training process" else "-m pipeline."
        for pid in those(project, part)[:1]:
            os.kill(pid, signal.SIGKILL)
    if victim.startswith("dvc"):
        child.wait()
        gone = ended(project)
    else:  # dvc goes on, to the end where the launcher has started the training again
        child.wait(timeout=600)
        gone = ended(project)
    assert "Traceback" not in said(project), said(project)
    trial(f"SIGKILL of {victim} at a random moment of `dvc repro`",
          f"{gone}; {finishes(project, one)}")


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_sigterm_and_sigint(folder: Path, one: Straight, name: str, number: int,
                            trial: Trial) -> None:
    project = projects.fresh(one.untouched, folder)
    child = start(project, "dvc", "repro")
    time.sleep(moment(one, number))
    if name == "SIGTERM":
        child.terminate()
        what = "SIGTERM to dvc"
    else:
        os.killpg(child.pid, signal.SIGINT)
        what = "Ctrl-C (SIGINT to the group)"
    child.wait(timeout=60)
    gone = ended(project)
    trial(f"{what} at a random moment", f"{gone}; {finishes(project, one)}")


@pytest.mark.parametrize(("what", "command", "number", "last"), [
    *(("the stage train", "-m pipeline.train", number, 7) for number in range(8)),
    *(("the training process", TRAINER, number, 3) for number in range(4))])
def test_dvc_killed_as_a_process_starts(folder: Path, one: Straight, what: str, command: str,
                                        number: int, last: int, trial: Trial) -> None:
    """Within 0.3 s of its start, before it can tie itself to its parent."""
    project = projects.fresh(one.untouched, folder)
    child = start(project, "dvc", "repro")
    wait_for(lambda: those(project, command), what)
    time.sleep(0.3 * number / last)
    child.kill()
    child.wait()
    gone = ended(project)
    trial(f"SIGKILL of dvc within 0.3 s of the start of {what}",
          f"{gone}; {finishes(project, one)}")


@pytest.mark.parametrize("number", range(2))
def test_one_of_two_ranks_is_killed(folder: Path, two: Straight, number: int,
                                    trial: Trial) -> None:
    project = projects.fresh(two.untouched, folder)
    child = start(project, "dvc", "repro")
    wait_for(lambda: list(project.glob("runs/*/step_*.pt")), "a checkpoint")
    os.kill(those(project, TRAINER)[number], signal.SIGKILL)
    assert child.wait(timeout=600) == 0, said(project)
    assert "was killed by SIGKILL" in said(project)
    gone = ended(project)
    trial("2 processes, one killed", f"both started again from the last checkpoint; {gone}; "
          f"{finishes(project, two)}")


@pytest.mark.parametrize("number", range(2))
def test_one_of_two_ranks_is_stopped(folder: Path, two: Straight, number: int,
                                     trial: Trial) -> None:
    """A process that hangs: the other one waits runtime.timeout for it."""
    project = projects.fresh(two.untouched, folder)
    child = start(project, "dvc", "repro")
    wait_for(lambda: list(project.glob("runs/*/step_*.pt")), "a checkpoint")
    os.kill(those(project, TRAINER)[number], signal.SIGSTOP)
    status = child.wait(timeout=600)
    gone = ended(project)
    how = "started again" if status == 0 else "ended"
    assert "starting it again" in said(project) or "continues from the last" in said(project)
    trial("2 processes, one stopped by SIGSTOP",
          f"{how} after runtime.timeout; {gone}; {finishes(project, two)}")


@pytest.mark.parametrize("who", ["dvc", "-m pipeline.train"])
def test_stopped_and_continued(folder: Path, one: Straight, who: str, trial: Trial) -> None:
    project = projects.fresh(one.untouched, folder)
    child = start(project, "dvc", "repro")
    wait_for(lambda: list(project.glob("runs/*/step_*.pt")), "a checkpoint")
    pid = child.pid if who == "dvc" else those(project, who)[0]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(pid, signal.SIGCONT)
    assert child.wait(timeout=600) == 0, said(project)
    assert projects.weights(project) == one.weights
    assert files_of(project) == one.files
    trial(f"{'dvc' if who == 'dvc' else 'the launcher'} stopped for 3 s and continued",
          "finished with the straight run's weights and files")


def test_dvc_killed_while_the_launcher_is_stopped(folder: Path, one: Straight,
                                                  trial: Trial) -> None:
    """A stopped process gets no signal but SIGKILL and SIGCONT; when continued, it ends."""
    project = projects.fresh(one.untouched, folder)
    child = start(project, "dvc", "repro")
    wait_for(lambda: list(project.glob("runs/*/step_*.pt")), "a checkpoint")
    launcher = those(project, "-m pipeline.train")[0]
    os.kill(launcher, signal.SIGSTOP)
    child.kill()
    child.wait()
    os.kill(launcher, signal.SIGCONT)
    gone = ended(project)
    trial("dvc killed while the launcher is stopped, which is then continued",
          f"{gone}; {finishes(project, one)}")
