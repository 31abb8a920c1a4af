"""A run says when other programs take its processor."""

import os
import subprocess
import sys
import time

import pytest

from reprogpt.runtime import contention
from reprogpt.runtime.contention import SPIN_COUNT, ProcessorWait, bound_spinning
from tests.conftest import ROOT

WORK = """
import os, sys, time
from reprogpt.runtime.contention import SPIN_COUNT, ProcessorWait, bound_spinning
os.sched_setaffinity(0, {int(sys.argv[1])})
waiting = ProcessorWait()
end = time.monotonic() + 1.5
while time.monotonic() < end:
    pass
print(waiting.waiting_share())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="Linux only")  # noqa: PTH110
def test_three_that_share_a_core_wait_two_thirds_of_the_time() -> None:
    core = str(min(os.sched_getaffinity(0)))
    children = [subprocess.Popen([sys.executable, "-c", WORK, core], stdout=subprocess.PIPE,
                                 text=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
                for _ in range(3)]
    shares = [float(child.communicate(timeout=60)[0]) for child in children]
    assert min(shares) > 0.3 and max(shares) <= 1.0


def test_one_that_sleeps_does_not_wait() -> None:
    waiting = ProcessorWait()
    time.sleep(0.2)
    assert waiting.waiting_share() < 0.5


def test_it_says_so_once_in_a_while(monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    waiting = ProcessorWait()
    monkeypatch.setattr(ProcessorWait, "waiting_share", lambda self: 0.05)
    waiting.tell(4900.0)
    assert (capsys.readouterr().err, waiting.shown()) == ("", "")
    monkeypatch.setattr(ProcessorWait, "waiting_share", lambda self: 0.61)
    waiting.tell(1900.0)
    waiting.tell(1800.0)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for word in ("waits for the processor", "61%", "1,900", "4,900"):
        assert word in said
    assert waiting.shown() == "waits for the processor 61%"
    monkeypatch.setattr(contention, "SECONDS_BETWEEN", 0.0)
    waiting.tell(1700.0)
    assert "1,700" in capsys.readouterr().err


@pytest.mark.parametrize(("user", "expected"), [
    ({}, SPIN_COUNT), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)])
def test_threads_spin_briefly_unless_the_user_says_otherwise(user: dict[str, str],
                                                             expected: str | None) -> None:
    bound_spinning(user)
    assert user.get("GOMP_SPINCOUNT") == expected


def test_it_holds_for_every_stage_and_training_process() -> None:
    code = ("import os, sys, pipeline\n"
            "from reprogpt.launch.group import environment\n"
            "print(os.environ['GOMP_SPINCOUNT'], environment(1)['GOMP_SPINCOUNT'])\n"
            "assert 'torch' not in sys.modules")
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, text=True,
                           capture_output=True, check=True).stdout
    assert shown.split() == [SPIN_COUNT] * 2
