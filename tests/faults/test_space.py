"""Full disks, small quotas and read-only folders: one line that names the file, then all is well.

Each command of the project that writes a file is run in a project on a small tmpfs (as root), under
`ulimit -f`, and as a user who may not write there.
"""

import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.faults import projects
from tests.faults.conftest import Trial
from tests.formats.test_nanogpt import nanogpt_state
from tests.small_models import random_model

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]
OUTS = {"download": ["data/raw", "data/hellaswag", "data/init"], "tokenize": ["data/tokens"],
        "train": ["models", "metrics/train.csv", "metrics/train.json", "runs"],
        "evaluate": ["metrics/eval.json", "metrics/hellaswag.jsonl"],
        "sample": ["metrics/samples.md"], "report": ["report.html"], "convert": ["converted"],
        "preset tiny": [], "plan --measure": []}
"""Command -> what it writes."""
ROOMS = (0, 100_000, 2_000_000)
"""Bytes that are free: another file does not fit each time."""
NAMED = r"(/[\w./-]+|params\.yaml|converted[\w./-]*): "
"""How a line names the file that did not fit."""
NOBODY = 65534
NO_RIGHTS = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"]
"""Starts a command as root without root's right to write everywhere."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after `dvc repro`, with a checkpoint to convert. DVC's cache is thrown away, so
    that no out shares its space."""
    project = projects.new_project(tmp_path_factory.mktemp("finished"), train__max_steps="10")
    projects.repro(project)
    shutil.rmtree(project / ".dvc/cache")
    args = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8, "bias": True}
    model = random_model(50257, n_layer=1, n_head=1, n_embd=8, block_size=8)
    torch.save({"model": nanogpt_state(model, 50257), "model_args": args}, project / "ckpt.pt")
    return project


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def run_there(command: str, project: Path, cache: Path, *before: str, **popen: object
              ) -> "subprocess.CompletedProcess[str]":
    words = command.split()
    extra = ["ckpt.pt", "converted"] if words[0] == "convert" else []
    env = projects.environment(project) | {"REPROGPT_CACHE": str(cache)}
    start = [*before, "python", "-m", f"pipeline.{words[0]}", *words[1:], *extra]
    return subprocess.run(start,
                          cwd=project, env=env, capture_output=True, text=True, check=False,
                          timeout=300, **popen)  # type: ignore[call-overload]


def line_of(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line that a failed command says, less progress bars and warnings of packages."""
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip() and "\r" not in line
             and "it/s]" not in line and "%|" not in line]
    return lines[-1]


@pytest.fixture
def small(place: Path, finished: Path) -> Iterator[Path]:
    """A copy of the project in a tmpfs, the cache in it too."""
    if os.getuid() or shutil.which("mount") is None:
        pytest.skip("only root may mount a tmpfs")
    disk = place / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", disk],
                             capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no tmpfs may be mounted here")
    try:
        shutil.copytree(finished, disk / "project", symlinks=True)
        shutil.copytree(finished.parent / "cache", disk / "cache", symlinks=True)
        yield disk / "project"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path, room: int) -> Path:
    """Takes all free space but ``room`` bytes."""
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free
    with filler.open("wb") as file:
        for _ in range((free - room) // 4096):
            file.write(bytes(4096))
    return filler


def clear(project: Path, command: str, cache: Path) -> None:
    """Removes what the command writes, and what of it the cache holds."""
    for name in OUTS[command]:
        path = project / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if command in ("download", "tokenize"):
        for folder in ("raw", "chunks", "shards"):
            shutil.rmtree(cache / folder, ignore_errors=True)


@pytest.mark.parametrize("command", OUTS)
def test_a_full_disk(command: str, small: Path, trial: Trial) -> None:
    disk = small.parent
    failed = 0
    for room in ROOMS:
        clear(small, command, disk / "cache")
        filler = fill(disk, room)
        done = run_there(command, small, disk / "cache")
        if done.returncode:
            line = line_of(done)
            assert "No space left on device" in line, line
            assert re.search(NAMED, line), line
            failed += 1
        filler.unlink()
        done = run_there(command, small, disk / "cache")
        assert done.returncode == 0, done.stderr
    assert failed or not OUTS[command]
    trial(f"{command}: a full disk (tmpfs; {len(ROOMS)} amounts of room)",
          f"{failed} times one line that names the file, {len(ROOMS) - failed} times room enough; "
          "with space again the same command works", len(ROOMS))


@pytest.mark.parametrize("command", OUTS)
def test_a_limit_of_file_size(command: str, place: Path, finished: Path, trial: Trial) -> None:
    project, cache = place / "project", place / "cache"
    shutil.copytree(finished, project, symlinks=True)
    shutil.copytree(finished.parent / "cache", cache, symlinks=True)
    clear(project, command, cache)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100, 100))
    done = run_there(command, project, cache, preexec_fn=limit)
    if done.returncode:
        line = line_of(done)
        assert "File too large" in line, line
        assert re.search(NAMED, line), line
    done = run_there(command, project, cache)
    assert done.returncode == 0, done.stderr
    trial(f"{command}: ulimit -f", "one line that names the file; without the limit the same "
          "command works")


@pytest.mark.parametrize("command", OUTS)
def test_another_user_s_folder(command: str, place: Path, finished: Path, trial: Trial) -> None:
    if os.getuid() or shutil.which("setpriv") is None:
        pytest.skip("only root may give a project to another user")
    project, cache = place / "project", place / "cache"
    shutil.copytree(finished, project, symlinks=True)
    shutil.copytree(finished.parent / "cache", cache, symlinks=True)
    clear(project, command, cache)
    for path in (place, *place.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    (place / "tmp").mkdir()
    done = run_there(command, project, cache, *NO_RIGHTS)
    if done.returncode:
        line = line_of(done)
        assert "Permission denied" in line, line
        assert re.search(NAMED, line), line
    else:
        assert command == "plan --measure", done.stderr
    trial(f"{command}: as a user who may not write here",
          "one line that names the file" if done.returncode else "works")


@pytest.mark.parametrize("command", OUTS)
def test_a_read_only_disk(command: str, small: Path, trial: Trial) -> None:
    disk = small.parent
    clear(small, command, disk / "cache")
    (disk / "tmp").mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = run_there(command, small, disk / "cache")
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    if done.returncode:
        line = line_of(done)
        assert "Read-only file system" in line, line
        assert re.search(NAMED, line), line
    assert run_there(command, small, disk / "cache").returncode == 0
    trial(f"{command}: a read-only disk", "one line that names the file; writable again, the same "
          "command works" if done.returncode else "works")
