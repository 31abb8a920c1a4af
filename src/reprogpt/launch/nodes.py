"""What the launchers of several nodes tell each other (``runtime.launcher: c10d``).

Node 0's launcher listens at the rendezvous. The launcher of every other node (pipeline/join.py)
connects to it; both prove by HMAC that they know the same secret, and compare params, data, code
and torch. Messages are JSON, so that nothing of a message is executed. A connection ends with its
process, and within a minute when a machine vanishes: that is how a node counts as lost.

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
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import Any

from reprogpt.errors import ConfigError
from reprogpt.launch.network import Rendezvous, listen
from reprogpt.launch.run_dir import RunDir
from reprogpt.runtime.signals import StopSignals

SECRET = "REPROGPT_SECRET"  # noqa: S105 (the variable's name)
LOST = 75  # EX_TEMPFAIL: the exit status of a node whose connection ended
HANDSHAKE_SECONDS = 5
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4}
"""A machine that is silent for 15 + 4 * 10 seconds is gone."""


class Peer:
    """One end of the connection between two launchers. Its methods raise ConnectionError when the
    other end is gone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # not on a Mac
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.own_address = str(sock.getsockname()[0])
        self.name = str(sock.getpeername()[0])
        self._socket = sock
        self._connection = mpc.Connection(os.dup(sock.fileno()))

    def authenticate(self, secret: str, server: bool) -> None:
        """Both sides prove that they know ``secret``. Raises AuthenticationError when it differs,
        ConnectionError when the other side is silent for long."""
        self._read_timeout(HANDSHAKE_SECONDS)
        proofs = [mpc.deliver_challenge, mpc.answer_challenge]
        with _connection_errors():
            for proof in proofs if server else reversed(proofs):
                proof(self._connection, secret.encode())
        self._read_timeout(0)

    def _read_timeout(self, seconds: int) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO,
                                struct.pack("ll", seconds, 0))

    def send(self, **message: Any) -> None:
        with _connection_errors():
            self._connection.send_bytes(json.dumps(message).encode())

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None when none comes within ``seconds``."""
        if not self.waits(seconds):
            return None
        with _connection_errors():
            return dict(json.loads(self._connection.recv_bytes(1 << 20)))

    def waits(self, seconds: float) -> bool:
        """Whether there is something to read, which may be the connection's end."""
        with _connection_errors():
            return self._connection.poll(seconds)

    def close(self) -> None:
        self._connection.close()
        self._socket.close()


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Raises ConnectionError for whatever a connection that has ended, or a stranger, causes."""
    try:
        yield
    except (OSError, EOFError, ValueError) as error:
        raise ConnectionError(str(error) or "it has ended") from None


class Node:
    """Another node, seen by node 0's launcher: it is asked and ended as a child process is."""

    def __init__(self, peer: Peer, name: str, processes: int) -> None:
        self.peer, self.name, self.processes = peer, name, processes
        self.lost, self.reason = False, ""
        self._status: int | None = None

    def start(self, part: Mapping[str, Any]) -> None:
        """Tells the node to start its training processes."""
        self._status = None
        with suppress(ConnectionError):  # poll() notices
            self.peer.send(start=part)

    def poll(self) -> int | None:
        """None while its processes run, else their exit status."""
        if self._status is None:
            try:
                message = self.peer.receive(0)
            except ConnectionError:
                self.kill()
            else:
                if message is not None:
                    self._status, self.reason = int(message["ended"]), message["failed"] or ""
        return self._status

    def terminate(self) -> None:
        with suppress(ConnectionError):
            self.peer.send(stop=True)

    def kill(self) -> None:
        """Ends the connection; the node then ends its processes, and comes back when it can."""
        self.peer.close()
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
            self._ready = [n for n in self._ready if not n.lost and not self._gone(n)]
            missing = wanted - len(self._ready)
            if missing <= 0:
                break
            if missing != told:
                told = missing
                print(f"waiting for {missing} of {wanted + 1} nodes. On each of them, in a "
                      "checkout with the same params, code and data:\n"
                      f"  {SECRET}={self._secret} python -m pipeline.join {self.rendezvous}",
                      file=sys.stderr, flush=True)
            self._accept(0.2)
        return self._ready[:wanted]

    def end(self, **message: Any) -> None:
        """Tells every node, those in the queue, too, how the run ended, and stops listening.
        Without a message they come back when it continues."""
        while message and self._accept(0):
            pass
        for node in self._ready:
            with suppress(ConnectionError):
                node.peer.send(**message)
            node.peer.close()
        self._server.close()

    def _gone(self, node: Node) -> bool:
        """Whether an idle node, of which no message is due, has ended its connection."""
        with suppress(ConnectionError):
            return node.peer.receive(0) is not None
        return True

    def _accept(self, seconds: float) -> bool:
        """Admits the next node in the queue; False if there is none within ``seconds``."""
        self._server.settimeout(seconds)
        try:
            sock, address = self._server.accept()
        except (TimeoutError, BlockingIOError):
            return False
        try:
            peer = Peer(sock)
            peer.authenticate(self._secret, server=True)
            peer.send(facts=self._facts)
            answer = peer.receive(60) or {"refused": "it did not answer"}
        except Exception as error:  # whatever a stranger sends must not end the run
            sock.close()
            print(f"{address[0]} was refused: it does not know this run's secret "
                  f"({type(error).__name__})", file=sys.stderr, flush=True)
            return True
        if "ready" in answer:
            name = f"{answer['name']} ({address[0]})"
            self._ready.append(Node(peer, name, int(answer["ready"])))
            print(f"node {name} has joined", file=sys.stderr, flush=True)
        else:
            print(f"node {address[0]} was refused: {answer['refused']}", file=sys.stderr,
                  flush=True)
            peer.close()
        return True


def connect(rendezvous: Rendezvous, secret: str, stop: StopSignals, seconds: float) -> Peer | None:
    """The connection to node 0, waiting for it up to ``seconds``; None after a signal. Raises
    ConfigError when node 0 knows another secret, TimeoutError."""
    deadline, told = time.monotonic() + seconds, False
    while not stop.received:
        try:
            peer = Peer(socket.create_connection((rendezvous.host, rendezvous.port), timeout=5))
        except OSError as error:
            if not told:
                told = True
                print(f"waiting for node 0 at {rendezvous} ({error.strerror or error})",
                      file=sys.stderr, flush=True)
            if time.monotonic() > deadline:
                raise TimeoutError(f"node 0 at {rendezvous} was not there for {seconds:.0f} s; "
                                   "start `dvc repro` on it") from None
            time.sleep(0.5)
            continue
        try:
            while not stop.received and not peer.waits(0.2):  # node 0 may have nodes enough
                pass
            if not stop.received:
                peer.authenticate(secret, server=False)
                return peer
        except AuthenticationError:
            raise ConfigError(f"node 0 at {rendezvous} knows another {SECRET}; paste the line that "
                              "it has printed") from None
        except ConnectionError:  # it has ended meanwhile
            pass
        peer.close()
    return None


def secret_of(runs: Path) -> str:
    """What proves that a node belongs to the run: from REPROGPT_SECRET, or else a random one that
    is kept in ``runs``, for nodes that share this folder and for node 0 when it comes back."""
    if given := os.environ.get(SECRET):
        return given
    path = runs / "secret"
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 (of a descriptor)
            file.write(secrets.token_hex(16))
    while not (text := path.read_text(encoding="ascii")):  # another process is writing it
        time.sleep(0.1)
    return text


def facts(run: RunDir, code: Mapping[str, str]) -> dict[str, str]:
    """Name -> value of everything that must be equal on all nodes of a run."""
    same = run.identity() | {f"runtime.{key}": getattr(run.config.runtime, key)
                             for key in ("parallel", "shard_optimizer")}
    return ({key: str(value) for key, value in same.items()}
            | {path: digest[:16] for path, digest in code.items()}
            | {"torch": version("torch")})


def difference(ours: Mapping[str, str], node_0: Mapping[str, str]) -> str | None:
    """One line that names what differs between this node and node 0, or None."""
    keys = [key for key in sorted(ours.keys() | node_0.keys()) if ours.get(key) != node_0.get(key)]
    if not keys:
        return None
    key = min(keys, key=lambda k: ("/" in k, k != "torch"))  # a version or param explains the rest
    more = f" (and {len(keys) - 1} more)" if keys[1:] else ""
    here, there = ours.get(key, "absent"), node_0.get(key, "absent")
    fix = ("install that version" if key == "torch" else "copy node 0's params.yaml"
           if "/" not in key else "dvc pull tokenize download, with node 0's dvc.lock"
           if key.startswith("data/") else "bring this checkout to node 0's commit and edits")
    return f"this node has {key}={here}, node 0 has {there}{more}; {fix}"
