"""Progress bars: lines where standard error is no terminal, one redrawn line where it is."""

import os
import pty
import subprocess
import sys
import termios

import pytest

from reprogpt.runtime.progress import progress
from tests.conftest import ROOT


def test_a_log_gets_a_line_each_interval_and_no_carriage_return(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    for _ in progress(range(60), "tokenize", unit=" chunks"):
        now[0] += 1
    text = capsys.readouterr().err
    assert "\r" not in text
    lines = text.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"tokenize: {n}/60 chunks" for n in (10, 20, 30, 40, 50, 60)]
    assert "00:10 left" in lines[4]


def test_a_short_job_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(3), "shards")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    script = ("from reprogpt.runtime.progress import progress\n"
              "for _ in progress(range(3), 'shards'): pass")
    subprocess.run([sys.executable, "-c", script], stderr=theirs, check=True,
                   env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
    os.close(theirs)
    text = os.read(ours, 10**5).decode()
    assert "\rshards: 100%|" in text
