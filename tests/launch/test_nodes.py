"""Several nodes of one run, on this machine: they meet, compare and train as one process does."""

import json
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from reprogpt.launch.join import connect, difference
from reprogpt.launch.network import Rendezvous, listen
from reprogpt.launch.nodes import SECRET, Nodes, facts, secret_of
from reprogpt.launch.run_dir import RunDir
from reprogpt.runtime.signals import StopSignals
from tests.tiny_runs import join, launch, make_run, read_csv

pytestmark = pytest.mark.timeout(900)
KEY = "of this test"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, KEY)


def free_port() -> int:
    with listen("127.0.0.1", 0) as server:
        return int(server.getsockname()[1])


def make_nodes(folder: Path, tokens: Path, nodes: int, host: str = "127.0.0.1", **changes: Any
               ) -> tuple[str, list[RunDir]]:
    """The address and the runs of as many nodes, which share no folder but the tokens."""
    address = f"{host}:{free_port()}"
    runtime = {"launcher": "c10d", "nodes": nodes, "rendezvous": address}
    runtime |= changes.pop("runtime", {})
    return address, [make_run(folder / str(k), tokens, runtime=runtime, **changes)
                     for k in range(nodes)]


def losses(run: RunDir) -> list[float]:
    return [row[key] for row in read_csv(run)[1:] for key in ("train_loss", "grad_norm")]


def end(*processes: subprocess.Popen[str]) -> list[str]:
    said = [process.communicate(timeout=600)[1] for process in processes]
    assert not any(process.returncode for process in processes), said
    return said


@pytest.mark.slow
def test_two_nodes_train_as_one_process(tmp_path: Path, tokens: Path) -> None:
    alone = make_run(tmp_path / "alone", tokens)
    end(launch(alone))
    address, (first, second) = make_nodes(tmp_path, tokens, 2)
    other = join(second, address, KEY)  # it waits for node 0
    said = end(launch(first), other)
    assert losses(first) == pytest.approx(losses(alone), abs=1e-5)
    assert "python -m pipeline.join" in said[0]
    assert "finished" in said[1]
    assert not Path(second.paths.model).exists()
    assert not Path(second.paths.csv).exists()
    assert not list(second.path.parent.rglob("*.pt"))


@pytest.mark.slow
def test_a_node_of_other_params_or_secret_is_refused(tmp_path: Path, tokens: Path) -> None:
    address, (first, _) = make_nodes(tmp_path, tokens, 2)
    node_0 = launch(first)
    other = make_run(tmp_path / "other", tokens, train={"lr": 0.5}, runtime={
        "launcher": "c10d", "nodes": 2, "rendezvous": address})
    for run, secret, reason in ((other, KEY, "this node has train.lr=0.5, node 0 has"),
                                (first, "another", f"knows another {SECRET}")):
        joining = join(run, address, secret)
        said = joining.communicate(timeout=120)[1]
        assert joining.returncode
        assert reason in said.splitlines()[-1]
    node_0.terminate()
    said = node_0.communicate(timeout=60)[1]
    assert "was refused: this node has train.lr=0.5" in said
    assert "was refused: it does not know this run's secret" in said


def test_strangers_neither_end_nor_hold_up_the_run(tmp_path: Path, tokens: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reprogpt.launch.nodes.READ_SECONDS", 1)
    _, (first, _) = make_nodes(tmp_path, tokens, 2)
    rendezvous = Rendezvous.of(first.config.runtime)
    nodes = Nodes(first, rendezvous, {"src/a.py": "1" * 64})
    strangers = [socket.create_connection((rendezvous.host, rendezvous.port)) for _ in range(4)]
    for stranger, said in zip(strangers, (b"\0\0\0\x09cos\nsystem", b"\xff" * 64, b"", b"\0" * 9),
                              strict=True):
        stranger.sendall(said)
    strangers[3].close()
    with StopSignals() as stop:
        def other() -> None:
            peer = connect(rendezvous, KEY, stop, 60)
            assert peer is not None
            told = peer.receive(60)
            assert told is not None
            seen.update(told["facts"])
            peer.send(ready=3, name="other")
            seen["ending"] = json.dumps(peer.receive(60))

        seen: dict[str, str] = {}
        thread = threading.Thread(target=other)
        thread.start()
        (node,) = nodes.gather(stop)
        assert (node.processes, node.poll()) == (3, None)
        nodes.end(done=True)
        thread.join(60)
    assert seen["src/a.py"] == "1" * 16
    assert seen["ending"] == '{"done": true}'


def test_a_difference_is_named(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path, tokens)
    ours = facts(run, {"src/a.py": "1" * 64})
    assert difference(ours, dict(ours)) is None
    for key, value, fix in (("torch", "1.0", "install"), ("train.lr", "0.5", "params.yaml"),
                            ("src/a.py", "2", "commit"), ("src/b.py", "2", "commit"),
                            ("data/tokens/manifest.json", "3", "dvc pull")):
        said = difference(ours, ours | {key: value})
        assert said is not None
        assert f"{key}={ours.get(key, 'absent')}, node 0 has {value}" in said
        assert fix in said
    assert "torch" in str(difference(ours, ours | {"torch": "1.0", "seed": "4", "src/a.py": "2"}))


def test_the_secret_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret_of(tmp_path) == KEY
    monkeypatch.delenv(SECRET)
    made = secret_of(tmp_path / "runs")
    assert len(made) == 32
    assert secret_of(tmp_path / "runs") == made
    assert (tmp_path / "runs/secret").stat().st_mode & 0o777 == 0o600
