"""How a training process ends: its exit status, and the line that it leaves for the launcher."""

import sys
from pathlib import Path

import pytest
import torch

from reprogpt.launch.run_dir import RunDir
from reprogpt.training import process
from reprogpt.training.trainer import Stopped
from tests.tiny_runs import make_run


def end_by(error: Exception, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs the process with a trainer that cannot be built."""
    def fail(*arguments: object) -> None:
        raise error

    run.write()
    monkeypatch.setattr(process, "Trainer", fail)
    monkeypatch.setattr(process, "die_with_parent", lambda: None)
    monkeypatch.setattr(sys, "argv", ["process", str(run.path)])
    return process.main()


@pytest.mark.parametrize(("error", "reason"), [
    (ValueError("params.yaml: wrong"), "params.yaml: wrong"),
    (OSError(28, "No space left on device", "train.csv"), "train.csv: No space left on device; fr"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried"),
     "out of memory: a smaller runtime.micro_batch, which was 5, "),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough"), "out of memory: a smaller"),
    (RuntimeError("no kernel\nfor that"), "training could not start, the traceback is above: "
                                          "RuntimeError: no kernel")])
def test_what_another_try_would_meet_again_is_left_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    run = make_run(tmp_path, tmp_path)
    assert end_by(error, run, monkeypatch) == 1
    assert run.failure.read_text().startswith(reason)
    assert "\n" not in run.failure.read_text()


def test_a_stop_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, tmp_path)
    assert end_by(Stopped("stopped at step 4"), run, monkeypatch) == 75
    assert not run.failure.exists()


def test_a_full_disk_still_tells_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, tmp_path)
    run.failure.mkdir()  # which cannot be written
    assert end_by(ValueError("the reason"), run, monkeypatch) == 1
    assert "the reason" in capsys.readouterr().err
