"""What the launchers of several nodes tell each other (``runtime.launcher: c10d``), and node 0.

Node 0's launcher listens at the rendezvous. The launcher of every other node (join.py) connects to
it; both prove by HMAC that they know the same secret, and compare params, data, code and torch.
Messages are JSON, so that nothing of a message is executed. A connection ends with its process,
and within a minute when a machine vanishes: that is how a node counts as lost.

    node 0 -> node   {"facts": {...}}, then for each start {"start": Part}, {"stop"}; at the end
                     {"done"} or {"failed": reason}
    node -> node 0   {"ready": processes, "name": host} or {"refused": reason}; for each start
                     {"ended": status, "failed": reason or null}
"""

import json
import multiprocessing.connection as mpc
import os
import secrets
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reprogpt.launch.network import Rendezvous, listen
from reprogpt.launch.run_dir import RunDir
from reprogpt.runtime.signals import StopSignals

SECRET = "REPROGPT_SECRET"  # noqa: S105 (the variable's name)
LOST = 75  # EX_TEMPFAIL: the exit status of a node whose connection ended
READ_SECONDS = 5
"""Longest wait for the rest of a message, or of a stranger's proof."""
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4}
"""A machine that is silent for 15 + 4 * 10 seconds is gone."""


class Peer:
    """One end of the connection between two launchers. Its methods raise ConnectionError when the
    other end is gone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", READ_SECONDS, 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # not on a Mac
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.name = str(sock.getpeername()[0])
        self._connection = mpc.Connection(sock.detach())

    def authenticate(self, secret: str, server: bool) -> None:
        """Both prove that they know ``secret``. Raises AuthenticationError when it differs."""
        proofs = [mpc.deliver_challenge, mpc.answer_challenge]
        with _connection_errors():
            for proof in proofs if server else reversed(proofs):
                proof(self._connection, secret.encode())

    def send(self, **message: Any) -> None:
        with _connection_errors():
            self._connection.send_bytes(json.dumps(message).encode())

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None when none comes within ``seconds``."""
        with _connection_errors():
            return json.loads(self._connection.recv_bytes(1 << 20)) if self.waits(seconds) else None

    def waits(self, seconds: float = 0) -> bool:
        """Whether there is something to read, which may be the connection's end."""
        return self._connection.poll(seconds)

    def close(self) -> None:
        self._connection.close()


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Raises ConnectionError for whatever a connection that has ended, or a stranger, causes."""
    try:
        yield
    except (OSError, EOFError, ValueError) as error:
        raise ConnectionError(str(error) or "it has ended") from None


class Node(Peer):
    """Another node, seen by node 0's launcher: it is asked and ended as a child process is."""

    processes = 0
    lost = False
    reason = ""
    """Why its processes have failed for good."""
    _status: int | None = None

    def start(self, part: Mapping[str, Any]) -> None:
        """Tells the node to start its training processes."""
        self._status = None
        with suppress(ConnectionError):  # poll() notices
            self.send(start=part)

    def poll(self) -> int | None:
        """None while its processes run, else their exit status."""
        if self._status is None:
            try:
                message = self.receive(0)
            except ConnectionError:
                self.kill()
            else:
                if message is not None:
                    self._status, self.reason = int(message["ended"]), message["failed"] or ""
        return self._status

    def terminate(self) -> None:
        with suppress(ConnectionError):
            self.send(stop=True)

    def kill(self) -> None:
        """Ends the connection; the node then ends its processes, and comes back when it can."""
        self.close()
        self.lost, self._status = True, LOST


class Nodes:
    """The other nodes of a run, at node 0."""

    def __init__(self, run: RunDir, rendezvous: Rendezvous, code: Mapping[str, str]) -> None:
        """Listens. Raises ConfigError when it cannot."""
        self.rendezvous, self._facts = rendezvous, facts(run, code)
        self._secret = secret_of(run.path.parent)
        self._server = listen(rendezvous.host, rendezvous.port)
        self.address = str(self._server.getsockname()[0])
        self._ready: list[Node] = []

    def gather(self, stop: StopSignals) -> list[Node]:
        """Waits until the other nodes are there; returns them, fewer after a signal."""
        wanted, told = self.rendezvous.nodes - 1, -1
        while not stop.received:
            # No message of an idle node is due: what waits is the end of its connection.
            self._ready = [node for node in self._ready if not node.lost and not node.waits()]
            missing = wanted - len(self._ready)
            if missing <= 0:
                break
            if missing != told:
                told = missing
                print(f"waiting for {missing} of {wanted + 1} nodes. On each of them, in a "
                      "checkout with the same params, code and data:\n"
                      f"  {SECRET}={self._secret} python -m pipeline.join {self.rendezvous}",
                      file=sys.stderr)
            self._accept(0.2)
        return self._ready[:wanted]

    def end(self, **message: Any) -> None:
        """Tells every node, those in the queue, too, how the run ended, and stops listening.
        Without a message they come back when it continues."""
        while message and self._accept(0):
            pass
        for node in self._ready:
            with suppress(ConnectionError):
                node.send(**message)
            node.close()
        self._server.close()

    def _accept(self, seconds: float) -> bool:
        """Admits the next node in the queue; False if there is none within ``seconds``."""
        self._server.settimeout(seconds)
        try:
            sock, (address, *_) = self._server.accept()
        except (TimeoutError, BlockingIOError):
            return False
        try:
            node = Node(sock)
            node.authenticate(self._secret, server=True)
            node.send(facts=self._facts)
            answer = node.receive(60) or {"refused": "it did not answer"}
            said = f"node {address} was refused: {answer.get('refused')}"
            if "ready" in answer:
                node.name, node.processes = f"{answer['name']} ({address})", int(answer["ready"])
                said = f"node {node.name} has joined"
                self._ready.append(node)
        except Exception as error:  # whatever a stranger sends must not end the run
            said = (f"{address} was refused: it does not know this run's secret "
                    f"({type(error).__name__})")
        print(said, file=sys.stderr)
        return True


def secret_of(runs: Path) -> str:
    """What proves that a node belongs to the run: from REPROGPT_SECRET, or else a random one that
    is kept in ``runs``, for nodes that share this folder and for node 0 when it comes back."""
    if given := os.environ.get(SECRET):
        return given
    runs.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        descriptor = os.open(runs / "secret", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, secrets.token_hex(16).encode())
        os.close(descriptor)
    while not (text := (runs / "secret").read_text()):  # another process is writing it
        time.sleep(0.1)
    return text


def facts(run: RunDir, code: Mapping[str, str]) -> dict[str, str]:
    """Name -> value of everything that must be equal on all nodes of a run."""
    same = run.identity() | {f"runtime.{key}": getattr(run.config.runtime, key)
                             for key in ("parallel", "shard_optimizer")}
    return ({key: str(value) for key, value in same.items()}
            | {path: digest[:16] for path, digest in code.items()}
            | {"torch": version("torch")})
