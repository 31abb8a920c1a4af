"""Worker processes: order, errors, and one that is killed."""

import os
import signal

import pytest

from reprogpt.runtime.workers import Processes, usable_cores, worker_count


def _killed(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_ends_the_stage_in_a_line():
    with (Processes(2) as processes,
          pytest.raises(ValueError, match="was killed, perhaps because memory ran out")):
        list(processes.map(_killed, range(6)))


def test_results_come_in_order_and_one_worker_starts_no_process():
    with Processes(1) as processes:
        assert list(processes.map(lambda n: (n, os.getpid()), [3, 1, 2])) == [
            (n, os.getpid()) for n in (3, 1, 2)]
    with Processes(2) as processes:
        assert list(processes.map(abs, [-3, 1, -2])) == [3, 1, 2]


def test_workers_auto_is_one_per_usable_core():
    assert worker_count("auto") == usable_cores() >= 1
    assert worker_count(3) == 3
