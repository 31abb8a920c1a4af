"""A bit that flips in an out and in DVC's cache at once: what is said, and that dvc repro heals."""

import hashlib
import os
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo

from pipeline.checks.rot import healed

PIPELINE = """stages:
  make:
    cmd: mkdir -p data/raw && echo good text > data/raw/a.txt && echo more > data/raw/b.txt
    outs: [data/raw]
"""


def project(root: Path, link: str) -> Path:
    """A project of one stage, reproduced; ``link`` is DVC's cache.type."""
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text(f"[core]\n    no_scm = true\n[cache]\n    type = {link}\n")
    assert reproduced(root) == ["make"]
    return root


def reproduced(root: Path) -> list[str]:
    """The stages that `dvc repro` runs."""
    with chdir(root), Repo() as repo:
        return [stage.name for stage in repo.reproduce()]


def flip(file: Path) -> None:
    """Changes a bit in place, and leaves the time as it was."""
    before = file.stat()
    with file.open("r+b") as opened:
        first = opened.read(1)
        opened.seek(0)
        opened.write(bytes([first[0] ^ 0x10]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def cached(root: Path, content: bytes) -> Path:
    digest = hashlib.md5(content).hexdigest()
    return root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


@pytest.mark.parametrize("link", ["hardlink", "copy", "copy of rot"])
def test_dvc_repro_makes_a_rotten_file_anew(tmp_path: Path, link: str) -> None:
    root = project(tmp_path, link.partition(" ")[0])
    file, good = root / "data/raw/a.txt", cached(root, b"good text\n")
    file.chmod(0o644)
    flip(file)
    if link == "copy of rot":
        good.chmod(0o644)
        flip(good)
    assert (good.read_bytes() == b"good text\n") == (link == "copy")
    assert reproduced(root) == [], "DVC sees no damage"

    message = healed(f"{file}: is damaged", root)
    assert message.startswith(f"{file}: is damaged. ")
    assert "dvc repro" in message
    assert (str(good) in message) == (link != "copy") == (not good.exists())
    assert reproduced(root) == ["make"]
    assert file.read_bytes() == good.read_bytes() == b"good text\n"


def test_what_is_as_recorded_is_left_alone(tmp_path: Path) -> None:
    root = project(tmp_path, "hardlink")
    before = {file: file.stat() for file in root.rglob("*") if file.is_file()}
    for message in (f"{root}/data/raw/a.txt: has a word that the vocabulary has not",
                    f"{root}/data/raw: is too short", f"{root}/data/rawer/a.txt: is damaged",
                    "params.yaml: train.lr=1 must be less", ""):
        assert healed(message, root) == message
    flip(root / "data/raw/b.txt")
    assert healed(f"{root}/elsewhere: is damaged", root) == f"{root}/elsewhere: is damaged"
    assert {file: file.stat().st_ino for file in before} == {
        file: stat.st_ino for file, stat in before.items()}
    assert "b.txt" not in healed(f"{root}/data/raw: is damaged", root)
    assert not (root / "data/raw/b.txt").exists()
    assert (root / "data/raw/a.txt").exists()
