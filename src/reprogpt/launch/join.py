"""Another node's part in a training that node 0 leads: its launcher."""

import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing import AuthenticationError
from typing import Any

from reprogpt.errors import ConfigError
from reprogpt.launch.group import processes, wait_for
from reprogpt.launch.launcher import TrainingFailed
from reprogpt.launch.network import Rendezvous
from reprogpt.launch.nodes import SECRET, Peer, facts
from reprogpt.launch.ranks import Part, start_ranks
from reprogpt.launch.run_dir import RunDir
from reprogpt.runtime.signals import StopSignals

Prepare = Callable[[], tuple[RunDir, Mapping[str, str]]]
"""Reads params, data and code as they are now -> (run, path -> sha256 of the sources)."""


def join(rendezvous: Rendezvous, secret: str, prepare: Prepare, seconds: float) -> None:
    """Trains with node 0 until the run is done; waits up to ``seconds`` for node 0, again after
    each interruption. Raises ConfigError when this node has another secret, other params, data,
    code or torch, TrainingFailed when the run has failed or this process was asked to stop,
    TimeoutError."""
    with StopSignals() as stop:
        while peer := connect(rendezvous, secret, stop, seconds):
            try:
                _take_part(peer, prepare, stop)
                return
            except ConnectionError:
                if not stop.received:
                    print("node 0 has gone; this node waits for it to come back", file=sys.stderr)
            finally:
                peer.close()
    assert stop.received
    raise TrainingFailed(f"stopped by {stop.received.name}; the same command joins again")


def connect(rendezvous: Rendezvous, secret: str, stop: StopSignals, seconds: float) -> Peer | None:
    """The connection to node 0, waiting for it up to ``seconds``; None after a signal. Raises
    ConfigError when node 0 knows another secret, TimeoutError."""
    deadline, told = time.monotonic() + seconds, False
    while not stop.received:
        try:
            peer = Peer(socket.create_connection((rendezvous.host, rendezvous.port), timeout=5))
            while not peer.waits(0.2):  # node 0 may have nodes enough
                if stop.received:
                    return None
            peer.authenticate(secret, server=False)
            return peer
        except AuthenticationError:
            raise ConfigError(f"node 0 at {rendezvous} knows another {SECRET}; paste the line that "
                              "it has printed") from None
        except OSError as error:  # not there yet, or it has ended meanwhile
            if not told:
                told = True
                print(f"waiting for node 0 at {rendezvous} ({error.strerror or error})",
                      file=sys.stderr)
            if time.monotonic() > deadline:
                raise TimeoutError(f"node 0 at {rendezvous} was not there for {seconds:.0f} s; "
                                   "start `dvc repro` on it") from None
            time.sleep(0.5)
    return None


def _take_part(peer: Peer, prepare: Prepare, stop: StopSignals) -> None:
    """Returns when the run is done. Raises as join() does, ConnectionError without node 0."""
    run, code = prepare()
    if differs := difference(facts(run, code), _next(peer, stop)["facts"]):
        peer.send(refused=differs)
        raise ConfigError(differs)
    peer.send(ready=processes(run.config.runtime), name=socket.gethostname())
    print(f"joined {peer.name}; training starts when all nodes are there", file=sys.stderr)
    while True:
        message = _next(peer, stop)
        if "done" in message:
            print("the run is finished; its results are on node 0", file=sys.stderr)
            return
        if "failed" in message:
            raise TrainingFailed(f"node 0: {message['failed']}")
        if "start" in message:
            _train(peer, run, Part(**message["start"]), stop)


def _train(peer: Peer, run: RunDir, part: Part, stop: StopSignals) -> None:
    """One start of this node's training processes, to their end."""
    # A folder of this node: on a file system that all nodes share, run.path is node 0's.
    own = replace(run, path=run.path / f"from_rank_{part.first_rank}")
    shutil.rmtree(own.path, ignore_errors=True)
    own.write()
    # Meanwhile node 0 sends only that they must stop.
    status = wait_for(start_ranks(own, part=part), own, stop, ending=peer.waits)
    failed = own.ending().get("failed")
    shutil.rmtree(own.path, ignore_errors=True)
    peer.send(ended=abs(status), failed=failed)


def _next(peer: Peer, stop: StopSignals) -> dict[str, Any]:
    """Node 0's next message. Raises ConnectionError after a signal, too."""
    while not stop.received:
        if message := peer.receive(0.2):
            return message
    raise ConnectionError


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
