"""Several nodes of one run: three of them, killed ones, and two network namespaces."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprogpt.launch.run_dir import RunDir
from tests.launch.conftest import nothing_is_left_running  # noqa: F401 (a fixture)
from tests.launch.test_launcher import (
    LONG,
    last_step,
    listening,
    members,
    wait_for,
    wait_for_step,
)
from tests.launch.test_nodes import KEY, end, losses, make_nodes, secret  # noqa: F401 (likewise)
from tests.tiny_runs import (
    join,
    launch,
    make_run,
    read_csv,
    weights,
    without_times,
)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


def kill(run: RunDir) -> None:
    """Kills all that works on a run at once, as a machine that vanishes does."""
    for pid in members(run):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not members(run), "the killed to be gone")


def test_three_nodes_of_four_processes(tmp_path: Path, tokens: Path) -> None:
    """One of them has two processes: nodes need not be equal."""
    alone = make_run(tmp_path / "alone", tokens)
    end(launch(alone))
    address, runs = make_nodes(tmp_path, tokens, 3)
    runs[2] = make_run(tmp_path / "2", tokens, runtime={"launcher": "c10d", "nodes": 3,
                                                        "rendezvous": address, "nproc": 2})
    end(launch(runs[0]), *(join(run, address, KEY) for run in runs[1:]))
    assert losses(runs[0]) == pytest.approx(losses(alone), abs=1e-5)


@pytest.mark.parametrize("victim", ["node 1", "node 0", "node 1's rank"])
def test_killed_and_back_it_ends_with_the_same_weights(tmp_path: Path, tokens: Path, victim: str
                                                       ) -> None:
    address, runs = make_nodes(tmp_path / "straight", tokens, 2, train=LONG)
    straight = runs[0]
    end(launch(straight), join(runs[1], address, KEY))
    address, (first, second) = make_nodes(tmp_path / "killed", tokens, 2, train=LONG,
                                          runtime={"max_restarts": 1})
    node_0, node_1 = launch(first), join(second, address, KEY)
    wait_for_step(first, 40, node_0)
    assert node_0.poll() is None and node_1.poll() is None
    if victim == "node 1":
        kill(second)
        node_1.wait()
        node_1 = join(second, address, KEY)
    elif victim == "node 0":
        kill(first)
        node_0.wait()
        node_0 = launch(first)
    else:
        (rank,) = [pid for pid in members(second) if pid != node_1.pid]
        os.kill(rank, signal.SIGKILL)
    said = end(node_0, node_1)
    expected = {"node 1": "was lost; it may come back", "node 0": "continuing run",
                "node 1's rank": "starting it again (0 restarts left)"}[victim]
    assert expected in said[0]
    assert "continuing run" in said[0]
    assert weights(first) == weights(straight)
    assert without_times(read_csv(first)) == without_times(read_csv(straight))


def test_what_fails_for_good_on_one_node_ends_the_run(tmp_path: Path, tokens: Path) -> None:
    address, (first, second) = make_nodes(tmp_path, tokens, 2)
    shutil.copytree(tokens, tmp_path / "fewer")
    (tmp_path / "fewer/train_000000.bin").unlink()
    second = make_run(tmp_path / "1", tmp_path / "fewer", runtime={
        "launcher": "c10d", "nodes": 2, "rendezvous": address})
    node_0, node_1 = launch(first), join(second, address, KEY)
    for process in (node_0, node_1):
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 1
        assert "train_000000.bin" in said.splitlines()[-1]
    assert "node " in (first.failure.read_text())


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces, 10.77.0.1 and 10.77.0.2, joined by one cable."""
    names = ("reprogpt_a", "reprogpt_b")
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("needs root and iproute2")
    try:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], check=False).returncode:
                pytest.skip("this machine allows no network namespaces")
        subprocess.run(["ip", "link", "add", "cable0", "netns", names[0], "type", "veth", "peer",
                        "name", "cable1", "netns", names[1]], check=True)
        for number, name in enumerate(names):
            for command in (["addr", "add", f"10.77.0.{number + 1}/24", "dev", f"cable{number}"],
                            ["link", "set", f"cable{number}", "up"], ["link", "set", "lo", "up"]):
                subprocess.run(["ip", "-n", name, *command], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def test_two_namespaces_listen_on_the_named_interface_only(
        tmp_path: Path, tokens: Path, namespaces: tuple[str, str]) -> None:
    alone = make_run(tmp_path / "alone", tokens, train=LONG)
    end(launch(alone))
    address, (first, second) = make_nodes(tmp_path, tokens, 2, host="10.77.0.1", train=LONG)
    inside = [("ip", "netns", "exec", name) for name in namespaces]
    node_1 = join(second, address, KEY, before=inside[1])
    node_0 = launch(first, before=inside[0])
    seen: dict[str, set[str]] = {"first": set(), "second": set()}
    while node_0.poll() is None and last_step(first) < 100:
        for name, run in (("first", first), ("second", second)):
            with contextlib.suppress(OSError):
                seen[name] |= listening(members(run))
    end(node_0, node_1)
    assert losses(first) == pytest.approx(losses(alone), abs=1e-5)
    # 10.77.0.1 and 10.77.0.2 as /proc/net/tcp has them
    assert seen == {"first": {"01004D0A"}, "second": {"02004D0A"}}
