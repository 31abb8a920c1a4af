"""Damaged checkpoints: set aside with a line, and the one before serves, to the same weights."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from reprogpt.training import checkpoint
from tests.faults import projects
from tests.faults.conftest import Trial
from tests.tiny_runs import make_run, train, weights, write_tokens

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
SEED = int(time.time())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run, whose two last checkpoints are kept."""
    folder = tmp_path_factory.mktemp("run")
    run = make_run(folder, write_tokens(folder / "tokens"))
    train(run)
    assert len(checkpoint.steps(run.path)) >= 2
    return run.path


def damage(path: Path, how: str, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    if how == "flip":
        content[place] ^= 1 << rng.randrange(8)
    else:
        del content[place:]
    path.write_bytes(content)


@pytest.mark.parametrize(("how", "times"), [("flip", 200), ("cut", 100)])
@pytest.mark.parametrize("suffix", ["pt", "sha256"])
def test_random_damage(trained: Path, tmp_path: Path, how: str, times: int, suffix: str,
                       trial: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(SEED)
    *_, before, last = checkpoint.steps(trained)
    names = [f"step_{step:06d}.{end}" for step in (before, last) for end in ("pt", "sha256")]
    times = times if suffix == "pt" else times // 10
    for _ in range(times):
        for name in names:
            shutil.copyfile(trained / name, tmp_path / name)
        damage(tmp_path / f"step_{last:06d}.{suffix}", how, rng)
        state = checkpoint.latest(tmp_path)
        said = capsys.readouterr().err
        assert state is not None
        assert state["step"] == before, SEED
        assert len(said.splitlines()) == 1
        assert f"step_{last:06d}" in said
        (tmp_path / f"step_{last:06d}.spoiled").unlink()
    what = {"flip": "a bit flipped", "cut": "cut"}[how]
    trial(f"{'the checkpoint' if suffix == 'pt' else 'its checksum'} {what} at a random place",
          "set aside in one line, the checkpoint before it used", times)


@pytest.mark.parametrize("how", ["flip", "cut"])
def test_training_goes_on_to_the_same_weights(tmp_path: Path, how: str, trial: Trial) -> None:
    rng = random.Random(SEED)
    tokens = write_tokens(tmp_path / "tokens")
    straight = make_run(tmp_path / "straight", tokens)
    train(straight)
    run = make_run(tmp_path / "damaged", tokens)
    train(run)
    damage(run.path / f"step_{checkpoint.steps(run.path)[-1]:06d}.pt", how, rng)
    shutil.rmtree(run.paths.model)
    train(run)
    assert weights(run) == weights(straight)
    trial("the last checkpoint damaged, training started again", "the straight run's weights")


@pytest.mark.parametrize("number", range(6))
def test_through_dvc_repro(tmp_path: Path, number: int, trial: Trial) -> None:
    """Killed while it trains; its newest checkpoint is damaged, and every third time all are."""
    rng = random.Random(SEED + number)
    untouched = projects.new_project(tmp_path / "untouched")
    straight = projects.fresh(untouched, tmp_path / "straight")
    projects.repro(straight)
    project = projects.fresh(untouched, tmp_path / "damaged")
    child = projects.start(project, "dvc", "repro")
    projects.wait_for(lambda: len(list(project.glob("runs/*/step_*.pt"))) > 1, "checkpoints")
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    projects.wait_for(lambda: not projects.at_work(project), "the end")
    every = sorted(project.glob("runs/*/step_*.pt"))
    for path in every if number % 3 == 2 else every[-1:]:
        damage(path, ("flip", "cut")[number % 2], rng)
    said = projects.repro(project)
    assert "set aside as" in said
    assert projects.weights(project) == projects.weights(straight)
    trial(f"{'all checkpoints' if number % 3 == 2 else 'the newest checkpoint'} damaged between "
          "two `dvc repro`", "set aside in a line; the straight run's weights")
