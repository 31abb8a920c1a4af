"""An end to all that a test has started."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_runs import members_in


@pytest.fixture(autouse=True)
def nothing_is_left_running(tmp_path: Path) -> Iterator[None]:
    """A test that fails must not leave a training behind that the tests after it compete with."""
    yield
    for pid in members_in(tmp_path):
        os.kill(pid, signal.SIGKILL)
