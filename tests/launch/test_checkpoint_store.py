"""Checkpoints outside the machine, in a folder and in S3 as moto serves it."""

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reprogpt.errors import ConfigError
from reprogpt.launch.checkpoint_store import COPY, CheckpointCopies, Store, check, fetch
from reprogpt.launch.run_dir import RunDir, checkpoint_steps
from reprogpt.storage.files import sha256_of
from reprogpt.training import checkpoint
from tests.s3_server import s3_server
from tests.slow_proxy import SlowProxy
from tests.tiny_runs import launch, make_run, members_in, weights, write_tokens

LONG = {"train": {"max_steps": 60, "keep": "best", "eval_interval": 20},
        "runtime": {"checkpoint_interval": 20}}
RATE = 300e3
"""Bytes a second of a store that is slow: a checkpoint takes longer than a second."""
SLOW_COPYFILE = f"""
import shutil, time
def slowly(source, target):
    with open(source, "rb") as a, open(target, "wb") as b:
        while piece := a.read(16 << 10):
            b.write(piece), b.flush(), time.sleep(len(piece) / {RATE})
shutil.copyfile = slowly
"""
NAME = "0123456789abcdef"


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[int, dict[str, str]]]:
    with s3_server() as server:
        yield server


@pytest.fixture
def port(s3: tuple[int, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> int:
    """The port of an S3 server, to which boto is sent."""
    for name, value in s3[1].items():
        monkeypatch.setenv(name, value)
    return s3[0]


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, port: int) -> str:
    (tmp_path / "store").mkdir()
    return str(tmp_path / "store") if request.param == "folder" else f"s3://bucket/{tmp_path.name}/runs"


def save(run: Path, step: int, name: str = "step") -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text("{}")
    checkpoint.save(run, f"{name}_{step:06d}", state_of(step))


def state_of(step: int) -> dict[str, Any]:
    """All that Trainer saves, of a model without weights."""
    return {"step": step, "model": {}, "optimizer": {}, "scaler": {}, "seconds": 1.0, "best": None,
            "rows": [], "recent": [], "numerics": {},
            "resolved": {"precision": "float32", "micro_batch": 1, "compile": False}}


def copy(url: str, run: Path, step: int, best: int | None = None) -> None:
    copies = CheckpointCopies(url, run, keep=2, patience=10)
    copies.start(step, best)
    copies.wait()


def stored(url: str, run: Path) -> list[str]:
    """The copies of a run by their short names, after each has been compared with its checksum."""
    store = Store(url, run)
    found = store.fs.ls(store.path, detail=False) if store.fs.exists(store.path) else []
    names = [path.rpartition("/")[2] for path in found]
    assert all(COPY.fullmatch(name) for name in names
               if name != "run.json" and not name.startswith(".")), names
    for name in store.names():
        store.fs.get_file(f"{store.path}/{name}", str(run / "compared"))
        assert sha256_of(run / "compared") == name.split(".")[1]
    return [name[:11] for name in store.names()]


def test_another_machine_gets_the_newest(url: str, tmp_path: Path) -> None:
    here, there = (tmp_path / machine / "runs" / NAME for machine in "ab")
    for step in (2, 4, 6):
        save(here, step)
        save(here, step, "best")
        copy(url, here, step, best=step if step < 6 else 4)
    assert sorted(stored(url, here)) == ["best_000004", "step_000004", "step_000006"]
    fetch(url, there)
    assert checkpoint_steps(there) == [6]
    assert checkpoint.latest(there) == state_of(6)
    assert (there / "best_000004.pt").read_bytes() == (here / "best_000004.pt").read_bytes()
    assert (there / "run.json").read_text() == "{}"
    save(there, 8)
    copy(url, there, 8)
    assert stored(url, here) == ["step_000006", "step_000008"]
    before = sorted(there.iterdir())
    fetch(url, there)  # nothing is newer than what it has
    assert sorted(there.iterdir()) == before


def test_a_damaged_copy_is_passed_over(url: str, tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    here, there = (tmp_path / machine / "runs" / NAME for machine in "ab")
    for step in (2, 4):
        save(here, step)
        copy(url, here, step)
    store = Store(url, here)
    name = store.names()[-1]
    content = store.fs.cat_file(f"{store.path}/{name}")
    store.fs.pipe_file(f"{store.path}/{name}", content[:-100])
    fetch(url, there)
    assert checkpoint_steps(there) == [2]
    assert re.search("step_000004.*its sha256 is another; using the checkpoint before it",
                     capsys.readouterr().err)


@pytest.mark.parametrize(("bad", "said"), [
    ("nowhere", "there is no such folder"), ("s3://missing/runs", "bucket does not exist")])
def test_a_store_that_is_not_there_is_one_line(tmp_path: Path, port: int, bad: str, said: str
                                               ) -> None:
    for refused in (lambda: fetch(bad, tmp_path / "runs" / NAME),
                    lambda: check(bad, tmp_path / "runs")):
        with pytest.raises(ConfigError) as caught:
            refused()
        assert re.fullmatch(f"params.yaml: runtime.checkpoint_store={bad} .*{said}.*; .*null",
                            str(caught.value))


def test_a_server_that_does_not_answer_is_one_line(tmp_path: Path, port: int,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"^params.yaml: .*127.0.0.1:9.*; .*null$"):
        check("s3://bucket", tmp_path / "runs")


def test_a_store_that_fails_is_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                           ) -> None:
    run, store = tmp_path / "runs" / NAME, tmp_path / "store"
    save(run, 2)
    copy("store", run, 2)
    assert re.fullmatch("store: the checkpoint of step 2 was not copied: .*no such folder.*\n",
                        capsys.readouterr().err)
    store.mkdir()
    save(run, 4)
    copy("store", run, 4)
    assert stored("store", run) == ["step_000004"]


def test_a_slow_store_delays_by_no_more_than_patience(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
        ) -> None:
    run, real = tmp_path / "runs" / NAME, shutil.copyfile

    def slow(source: Path, target: Path) -> None:
        time.sleep(1)
        real(source, target)

    (tmp_path / "store").mkdir()
    monkeypatch.setattr(shutil, "copyfile", slow)
    copies = CheckpointCopies("store", run, keep=2, patience=0.2)
    took = []
    for step in (2, 4):
        save(run, step)
        start = time.monotonic()
        copies.start(step)
        took.append(time.monotonic() - start)
    copies.wait()
    assert took[0] < 0.1
    assert 0.2 <= took[1] < 0.9
    assert "too slow, the checkpoint of step 4 is not copied" in capsys.readouterr().err
    assert stored("store", run) == ["step_000002"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run that nothing disturbed, and its tokens beside it."""
    folder = tmp_path_factory.mktemp("straight")
    run = make_run(folder, write_tokens(folder / "tokens"), **LONG)
    _, said = launch(run).communicate(timeout=300)
    assert run.done.exists(), said
    return run


@pytest.mark.slow
def test_killed_in_a_copy_it_continues_elsewhere(
        url: str, tmp_path: Path, port: int, straight: RunDir, monkeypatch: pytest.MonkeyPatch
        ) -> None:
    """The second checkpoint is on its way to a slow store when the machine is lost."""
    tokens = Path(straight.paths.tokens)
    changes = {**LONG, "runtime": {"checkpoint_interval": 20, "checkpoint_store": url}}
    first = make_run(tmp_path / "first", tokens, **changes)
    proxy = SlowProxy(port, rate=RATE)
    with monkeypatch.context() as slow:
        slow.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        slow.setenv("PYTHONPATH", str(tmp_path))
        (tmp_path / "sitecustomize.py").write_text(SLOW_COPYFILE)
        child = launch(first)
    deadline = time.monotonic() + 120
    while "step_000020" not in stored(url, first.path):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.05)
    proxy.limit = proxy.passed + 150_000  # less than one checkpoint
    while not ([*Path(url).rglob(".step_000040*")] or proxy.passed >= proxy.limit):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.05)
    for pid in members_in(first.path):
        os.kill(pid, signal.SIGKILL)
    child.communicate(timeout=60)
    proxy.close()
    assert {"step_000020", "step_000040"} & set(stored(url, first.path)) == {"step_000020"}
    assert [*Path(url).rglob(".step_000040*")] or url.startswith("s3")

    second = make_run(tmp_path / "second", tokens, **changes)
    fetch(url, second.path)
    assert checkpoint_steps(second.path) == [20]
    second.write()
    _, said = launch(second).communicate(timeout=300)
    assert "continuing run" in said
    assert weights(second) == weights(straight)
    kept = [name for name in stored(url, second.path) if name.startswith("step_")]
    assert kept == ["step_000040", "step_000060"]
    assert not [*Path(url).rglob(".*")]
