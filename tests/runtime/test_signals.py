"""Requests to stop are recorded, and a process notices that its parent is gone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reprogpt.runtime.signals import SIGNALS, StopSignals
from tests.conftest import ROOT


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_is_recorded_and_the_handlers_come_back(signum: signal.Signals) -> None:
    before = [signal.getsignal(s) for s in SIGNALS]
    with StopSignals() as stop:
        assert stop.received is None
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signum
    assert [signal.getsignal(s) for s in SIGNALS] == before


CHILD = """
import os, sys, time
from reprogpt.runtime.signals import die_with_parent
first = os.getppid()
while {late} and os.getppid() == first:
    time.sleep(0.01)
die_with_parent(first)
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(float(sys.argv[2]))
"""


def start(said: Path, late: bool, seconds: float) -> "subprocess.Popen[bytes]":
    """A parent that ends after ``seconds``, and its child, which writes its process id to
    ``said`` once it is tied to it: at once, or ``late``, when the parent is gone."""
    with said.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", PARENT, CHILD.format(late=late), str(seconds)], stdout=file,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")})


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_while(condition: object) -> None:
    deadline = time.monotonic() + 30
    while condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    parent = start(tmp_path / "said", late=False, seconds=60)
    wait_while(lambda: not (tmp_path / "said").read_text().endswith("\n"))
    pid = int((tmp_path / "said").read_text())
    assert is_alive(pid)
    parent.kill()
    parent.wait()
    wait_while(lambda: is_alive(pid))


def test_a_parent_that_is_gone_already_is_noticed(tmp_path: Path) -> None:
    def child() -> bool:
        return any(str(tmp_path) in str(fd.resolve()) for fd in Path("/proc").glob("[0-9]*/fd/1"))

    start(tmp_path / "said", late=True, seconds=1.5).wait()
    wait_while(child)
    assert (tmp_path / "said").read_text() == "", "it ends before it says anything"
