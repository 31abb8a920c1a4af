"""Two at once: clones on one cache, runs in one checkout, readers of a run that trains."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprogpt.encoding import chunks
from reprogpt.encoding.tokenize_corpus import tokenize
from tests.conftest import ROOT, run
from tests.encoding.small_corpora import config, raw
from tests.faults import projects
from tests.faults.conftest import Trial
from tests.faults.projects import environment, start, those, wait_for

TRAINER = "reprogpt.training.process"
TEXTS = [f"{number} " + " ".join(projects.WORDS[number % 7:]) * 3 for number in range(60)]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    projects.kill_rest(tmp_path / "project")


def test_tokens_that_another_clone_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         trial: Trial) -> None:
    """Whatever is dropped, at whatever moment, is made again."""
    monkeypatch.setenv("REPROGPT_CACHE", str(tmp_path / "cache"))
    raw(tmp_path / "raw", TEXTS)
    straight = tokenize(config(), tmp_path / "raw", tmp_path / "straight", chunk_bytes=2000)
    shutil.rmtree(tmp_path / "cache")
    real, calls = chunks.encode_chunk, []

    def encode_and_lose(settings, chunk):
        encoded = real(settings, chunk)
        calls.append(chunk)
        if len(calls) % 3:
            encoded.drop()
        return encoded

    monkeypatch.setattr("reprogpt.encoding.tokenize_corpus.encode_chunk", encode_and_lose)
    assert tokenize(config(), tmp_path / "raw", tmp_path / "out", chunk_bytes=2000) == straight
    assert len(calls) > 3
    trial("tokens in the cache dropped by another clone right after they were made",
          "made again, the same shards")


CLONE = """
import sys
from pathlib import Path
from reprogpt.encoding.tokenize_corpus import tokenize
from tests.encoding.small_corpora import config
folder, size = Path(sys.argv[1]), int(sys.argv[2])
print(tokenize(config(shard_tokens=size), folder / "raw", folder / f"out_{size}", chunk_bytes=2000))
"""


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", range(10))
def test_two_clones_of_other_shard_sizes(tmp_path: Path, number: int, trial: Trial) -> None:
    raw(tmp_path / "raw", TEXTS * 5)

    def clones(cache: str, together: bool) -> list[str]:
        out = []
        started = []
        for size in (1100, 1700):
            started.append(subprocess.Popen(
                [sys.executable, "-c", CLONE, tmp_path, str(size)], text=True, cwd=ROOT,
                env={**environment(tmp_path / "project"), "REPROGPT_CACHE": str(tmp_path / cache),
                     "PYTHONPATH": "src:."}, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
            if not together:
                started[-1].wait()
        for clone in started:
            text, error = clone.communicate(timeout=600)
            assert clone.returncode == 0, error
            out.append(text)
        return out

    alone = clones("alone", together=False)
    assert clones("shared", together=True) == alone
    trial("two clones of other shard sizes tokenize at once with one cache",
          "both have the shards that each has alone")


@pytest.fixture
def training(folder: Path) -> Path:
    """A project whose `dvc repro` is in the middle of a long training."""
    project = projects.new_project(folder, train__max_steps="100000")
    start(project, "dvc", "repro")
    wait_for(lambda: list(project.glob("runs/*/step_*.pt")), "a checkpoint")
    return project


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_others_in_a_checkout_that_trains(training: Path, trial: Trial) -> None:
    project, trainer = training, those(training, TRAINER)
    second = run("dvc", "repro", cwd=project, **environment(project))
    assert second.returncode != 0
    assert "Traceback" not in second.stderr
    assert "lock" in second.stderr or "is busy" in second.stderr
    trial("a second `dvc repro` in one checkout", "refused by DVC's lock")
    alone = run("python", "-m", "pipeline.train", cwd=project, **environment(project))
    assert alone.returncode == 2
    assert len(alone.stderr.strip().splitlines()) == 1
    assert "another trainer" in alone.stderr
    trial("`python -m pipeline.train` beside a `dvc repro`", "one line that names the other one")
    report = run("python", "-m", "pipeline.report", cwd=project, **environment(project))
    assert report.returncode == 0, report.stderr
    trial("`make report` while it trains", "works")
    plots = run("dvc", "plots", "show", cwd=project, **environment(project))
    assert "Traceback" not in plots.stderr
    trial("`dvc plots show` while it trains",
          "works" if plots.returncode == 0 else "one line of DVC's")
    for command in (["dvc", "status", "dvc.yaml"], ["dvc", "metrics", "show"]):
        done = run(*command, cwd=project, **environment(project))
        assert "Traceback" not in done.stderr
        trial(f"`{' '.join(command)}` while it trains",
              "works" if done.returncode == 0 else "refused by DVC's lock")
    assert those(project, TRAINER) == trainer, "none of this disturbs the training"


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_one_experiment_started_twice(folder: Path, trial: Trial) -> None:
    project = projects.new_project(folder)
    projects.repro(project)
    for command in (("add", "-A"), ("commit", "-q", "-m", "run")):
        run("git", *command, cwd=project)
    command = ["dvc", "exp", "run", "--temp", "-S", "train.max_steps=400"]
    env = environment(project)
    both = [subprocess.Popen(command, cwd=project, env=env, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, start_new_session=True) for _ in range(2)]
    texts = [child.communicate(timeout=900)[0] for child in both]
    assert 0 in [child.returncode for child in both], texts
    for child, text in zip(both, texts, strict=True):
        assert "Traceback" not in text, text
        assert child.returncode == 0 or "another trainer" in text or "lock" in text, text
    trial("one `dvc exp run --temp` started twice at once",
          "one trains; the other is told so in a line, or finds the result")
