"""Checkpoints: whole or not there, whatever happens to the disk."""

import errno
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from reprogpt.storage.files import sha256_of
from reprogpt.training import checkpoint
from reprogpt.training.metrics_log import COLUMNS

ROWS = [dict.fromkeys(COLUMNS, 1.5)]


def state(step: int) -> dict[str, object]:
    return {"step": step, "model": {"w": torch.arange(100.0) * step}, "rows": ROWS,
            "optimizer": {}, "scaler": {}, "seconds": 1.0, "best": None, "recent": [2.5],
            "resolved": {"precision": "float32", "micro_batch": 1, "compile": False},
            "numerics": {}}


def test_a_state_comes_back_exactly(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "step_000003", state(3))
    back = checkpoint.latest(tmp_path)
    assert back is not None
    assert torch.equal(back["model"]["w"], torch.arange(100.0) * 3)
    assert back["rows"] == ROWS


def test_the_name_is_not_in_the_bytes(tmp_path: Path) -> None:
    a = checkpoint.save(tmp_path, "step_000003", state(3))
    b = checkpoint.save(tmp_path, "step_000004", state(3))
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "no checksum"])
def test_a_spoiled_one_is_set_aside_and_the_one_before_serves(
        tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(tmp_path, "step_000003", state(3))
    path = checkpoint.save(tmp_path, "step_000006", state(6))
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "no checksum":
        path.with_suffix(".sha256").unlink()
    else:
        path.write_bytes(content[:500] if damage == "cut" else b"")
    back = checkpoint.latest(tmp_path)
    said = capsys.readouterr().err
    assert back is not None
    assert back["step"] == 3
    assert "step_000006" in said
    assert "set aside as step_000006.spoiled" in said
    assert checkpoint.steps(tmp_path) == [3]


class Forged:
    """A pickle that would run a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("content", ["forged", "text", "empty", "list", "other keys"])
def test_a_foreign_one_with_its_checksum_is_set_aside_unopened(
        tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(tmp_path, "step_000003", state(3))
    path = tmp_path / "step_000006.pt"
    objects = {"forged": Forged(tmp_path / "ran"), "list": [1], "other keys": {"weights": 1}}
    if content in objects:
        torch.save(objects[content], path)
    else:
        path.write_bytes(b"no pickle" if content == "text" else b"")
    path.with_suffix(".sha256").write_text(sha256_of(path))
    back = checkpoint.latest(tmp_path)
    assert back is not None
    assert back["step"] == 3
    said = capsys.readouterr().err
    assert re.fullmatch(".*step_000006.pt: is no checkpoint.*set aside.*\n", said)
    assert not (tmp_path / "ran").exists()


def test_files_of_other_names_are_not_ours(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "step_000003", state(3))
    checkpoint.save(tmp_path, "step_1000000", state(1000000))
    for name in ("step_000000030", "step_x", "step_\u00b2", "step_00003\u0663", "best_x", "step_7"):
        (tmp_path / f"{name}.pt").write_bytes(b"")
    assert checkpoint.steps(tmp_path) == [3, 1000000]
    checkpoint.prune(tmp_path, 1, best=5)
    assert checkpoint.steps(tmp_path) == [1000000]
    assert (tmp_path / "best_x.pt").exists()


def test_a_write_that_breaks_off_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "step_000003", state(3))

    class Unpicklable:
        def __reduce__(self) -> str:
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        checkpoint.save(tmp_path, "step_000006", state(6) | {"bad": Unpicklable()})
    assert checkpoint.steps(tmp_path) == [3]
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_is_told_by_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                              ) -> None:
    """torch says of it that a position is unexpected."""
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda path, mode: Full(path, mode))
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save(tmp_path, "step_000001", {"weights": torch.zeros(10_000)})
    monkeypatch.undo()
    assert checkpoint.steps(tmp_path) == []


def test_prune_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, f"step_{step:06d}", state(step))
        checkpoint.save(tmp_path, f"best_{step:06d}", state(step))
    (tmp_path / ".step_000005.pt.xyz").touch()  # what a kill left behind
    checkpoint.prune(tmp_path, keep=2, best=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best_000002.pt", "best_000002.sha256", "step_000003.pt", "step_000003.sha256",
        "step_000004.pt", "step_000004.sha256"]


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "owned"),)

    checkpoint.save(tmp_path, "step_000001", {"step": 1, "evil": Evil()})
    with pytest.raises(ValueError, match="is no checkpoint"):
        checkpoint.load(tmp_path / "step_000001.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("changes", [
    {"step": 5}, {"step": "6"}, {"optimizer": None}, {"rows": [1]}, {"rows": [{"step": 1}]},
    {"recent": ["x"]}, {"resolved": {}}, {"best": {"loss": 1.0}}, {"model": {"w": 1}},
    {"seconds": "1"}])
def test_one_of_other_content_is_set_aside(tmp_path: Path, changes: dict[str, Any],
                                           capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(tmp_path, "step_000003", state(3))
    checkpoint.save(tmp_path, "step_000006", state(6) | changes)
    back = checkpoint.latest(tmp_path)
    assert back is not None
    assert back["step"] == 3
    said = capsys.readouterr().err
    assert "step_000006.pt: is " in said
    assert said.count("\n") == 1
