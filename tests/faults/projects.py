"""Projects of this folder's tests: small, without the network, each with its own cache."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from reprogpt.storage.paths import cache_dir
from tests.conftest import clean_environment, copy_checkout, edit, run

WORDS = ("the king and a queen of all this land were not so old as they had been when men "
         "came from over the sea to ask what it is that makes one free").split()


def new_project(folder: Path, **params: str) -> Path:
    """A clone in ``folder``/project, not run yet: preset tiny on three short texts of its own.

    ``params``: section__key=value.
    """
    project = copy_checkout(folder / "project")
    assert run("python", "-m", "pipeline.preset", "tiny", cwd=project).returncode == 0
    for number in range(3):
        words = [WORDS[(i * i + i // 7 + number) % len(WORDS)] for i in range(20_000)]
        (project / f"text_{number}.txt").write_text(" ".join(words))
    values = {"download__corpus": "files", "download__files": "['text_*.txt']",
              "train__max_steps": "60", "train__eval_interval": "20",
              "runtime__checkpoint_interval": "5", **params}
    for key, value in values.items():
        edit_or_add(project, key.replace("__", "."), value)
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "clone")):
        assert run("git", *command, cwd=project).returncode == 0
    return project


def edit_or_add(project: Path, key: str, value: str) -> None:
    """Sets a param; one that params.yaml does not spell out is added to its section."""
    try:
        edit(project, key, value)
    except AssertionError:
        section, _, name = key.partition(".")
        text = (project / "params.yaml").read_text()
        (project / "params.yaml").write_text(
            text.replace(f"\n{section}:\n", f"\n{section}:\n  {name}: {value}\n", 1))


def environment(project: Path) -> dict[str, str]:
    """Own cache and own folder for temporary files. The files that are pinned by sha256 are the
    user's: no test fetches them again."""
    cache, temporary = project.parent / "cache", project.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    cache.mkdir(exist_ok=True)
    if not (cache / "files").exists():
        (cache_dir() / "files").mkdir(parents=True, exist_ok=True)
        (cache / "files").symlink_to(cache_dir() / "files")
    return clean_environment() | {"REPROGPT_CACHE": str(cache), "TMPDIR": str(temporary),
                                  "OMP_NUM_THREADS": "1"}


def start(project: Path, *command: str) -> "subprocess.Popen[str]":
    """Starts a command as a terminal does, leader of its session; its output goes to a file.

    A shell's background job, and so all that it starts, ignores SIGINT: here it is heard again.
    """
    with (project.parent / "said").open("w") as said:
        return subprocess.Popen(command, cwd=project, env=environment(project), text=True,
                                stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def said(project: Path) -> str:
    """What the last command wrote."""
    return (project.parent / "said").read_text(errors="replace")


def repro(project: Path) -> str:
    """Runs `dvc repro` to its end, which must be a success; returns what it said."""
    status = start(project, "dvc", "repro").wait(timeout=600)
    assert status == 0, said(project)
    return said(project)


def at_work(project: Path) -> dict[int, str]:
    """Process id -> command line of all that a project's commands have started and still runs."""
    mark = f"REPROGPT_CACHE={project.parent / 'cache'}\0".encode()
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes():
                words = (path / "cmdline").read_bytes().split(b"\0")
                found[int(path.name)] = b" ".join(words).decode().strip()
        except OSError:
            continue
    return {pid: command for pid, command in found.items() if command}  # a zombie has none


def those(project: Path, part: str) -> list[int]:
    """The processes with ``part`` in their command line."""
    return sorted(pid for pid, command in at_work(project).items() if part in command)


def wait_for(condition: Callable[[], object], what: str, seconds: float = 300) -> float:
    """Returns when ``condition()`` is true; the seconds that it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + seconds, f"waited too long for {what}"
        time.sleep(0.02)
    return time.monotonic() - begun


def kill_rest(project: Path) -> None:
    """For a test's end: nothing of it may disturb the tests after it."""
    for pid in at_work(project):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def files_of(project: Path) -> set[str]:
    """Every file of the project, its cache and its temporary folder, less DVC's and git's own and
    what Python compiles."""
    found = {str(path.relative_to(project.parent)) for path in project.parent.rglob("*")
             if path.is_file() or (path.is_dir() and not any(path.iterdir()))}
    return {name for name in found
            if not name.startswith(("project/.git/", "project/.dvc/", "said"))
            and "__pycache__" not in name}


def weights(project: Path) -> bytes:
    return (project / "models/gpt/model.safetensors").read_bytes()


def fresh(project: Path, folder: Path) -> Path:
    """A copy of a project that has not run, in ``folder``/project."""
    shutil.copytree(project, folder / "project", symlinks=True)
    return folder / "project"
