"""What the tests share. Nothing here trains, downloads or leaves a file behind."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from reprogpt.data.raw_text import Document, Meta

# Threads of small models wait for each other more than they work. Set before torch is imported,
# and handed down to every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


def copy_checkout(target: Path) -> Path:
    """This checkout as a fresh clone would have it, edits included, nothing git-ignored."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source, copy = ROOT / name, target / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
    return target


def clean_environment() -> dict[str, str]:
    """The environment of a shell in which this interpreter's folder comes first."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_", "PYTHONPATH"))}
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env["PATH"]))
    env.update(GIT_AUTHOR_NAME="test", GIT_AUTHOR_EMAIL="test@example.org",
               GIT_COMMITTER_NAME="test", GIT_COMMITTER_EMAIL="test@example.org")
    return env


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, its output captured; the caller looks at the exit code."""
    return subprocess.run(command, cwd=cwd, env={**clean_environment(), **environment},
                          capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout, to edit."""
    return copy_checkout(tmp_path / "project")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards for tiny trainings."""
    from tests.tiny_runs import write_tokens

    return write_tokens(tmp_path_factory.mktemp("tokens"))


def read_documents(folder: Path, meta: "Meta") -> "Iterator[Document]":
    """Every document of a raw corpus, in order."""
    from reprogpt.data.raw_text import read_part

    for part in meta.parts:
        yield from read_part(folder, part)


def edit(project: Path, key: str, value: str) -> None:
    """Sets `section.key` (or a top-level key) in params.yaml, leaving the rest as it is."""
    *section, name = key.split(".")
    text = (project / "params.yaml").read_text()
    head, body = ("", text) if not section else re.split(rf"(?m)(?<=^{section[0]}:\n)", text)
    indent = "  " * len(section)
    body, count = re.subn(rf"(?m)^{indent}{name}: \S.*?(?=  +#|$)", f"{indent}{name}: {value}",
                          body, count=1)
    assert count == 1, key
    (project / "params.yaml").write_text(head + body)
