"""Groups of processes other than a training's: what they say, and how they end."""

import os
import sys
from pathlib import Path

import pytest

from reprogpt.launch.group import run_group

MEET = """
import os, sys
rank, folder = os.environ["RANK"], os.path.dirname(os.environ["RENDEZVOUS_FILE"])
assert os.environ["WORLD_SIZE"] == "3" and os.environ["LOCAL_RANK"] == rank
assert os.stat(folder).st_mode & 0o777 == 0o700
"""


def run(capfd: pytest.CaptureFixture[str], folder: Path, script: str) -> tuple[int, str]:
    status = run_group([sys.executable, "-c", MEET + script], folder / "meeting", 3)
    assert not (folder / "meeting").exists()
    return status, capfd.readouterr().err


def test_all_succeed(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capfd, tmp_path, "print('rank', rank, file=sys.stderr)") == (0, "rank 0\n")


def test_a_mistake_of_the_user_is_said_once(capfd: pytest.CaptureFixture[str], tmp_path: Path
                                            ) -> None:
    assert run(capfd, tmp_path, "sys.exit('a line')") == (1, "a line\n")


def test_what_only_another_rank_says_is_heard(capfd: pytest.CaptureFixture[str], tmp_path: Path
                                              ) -> None:
    status, said = run(capfd, tmp_path, "import time\nif rank == '2': 1 / 0\ntime.sleep(60)")
    assert status == 1
    assert said.count("ZeroDivisionError") == 1


def test_the_children_are_no_stages_of_dvc(capfd: pytest.CaptureFixture[str], tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "evaluate")
    assert run(capfd, tmp_path, "sys.exit('DVC_STAGE' in os.environ)") == (0, "")
    assert os.environ["DVC_STAGE"] == "evaluate"
