"""Another node's part in a training that node 0 leads: its launcher."""

import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from reprogpt.errors import ConfigError
from reprogpt.launch.group import Part, processes, wait_for
from reprogpt.launch.launcher import TrainingFailed
from reprogpt.launch.network import Rendezvous, host_name
from reprogpt.launch.nodes import Peer, connect, difference, facts
from reprogpt.launch.ranks import start_ranks
from reprogpt.launch.run_dir import RunDir
from reprogpt.runtime.signals import StopSignals

Prepare = Callable[[], tuple[RunDir, Mapping[str, str]]]
"""Reads params, data and code as they are now -> (run, path -> sha256 of the sources)."""


def join(rendezvous: Rendezvous, secret: str, prepare: Prepare, seconds: float) -> None:
    """Trains with node 0 until the run is done; waits up to ``seconds`` for node 0, again after
    each interruption. Raises ConfigError when this node has other params, data, code or torch,
    TrainingFailed when the run has failed or this process was asked to stop, TimeoutError."""
    with StopSignals() as stop:
        while peer := connect(rendezvous, secret, stop, seconds):
            try:
                _take_part(peer, prepare, stop)
                return
            except ConnectionError:
                if not stop.received:
                    print("node 0 has gone; this node waits for it to come back",
                          file=sys.stderr, flush=True)
            finally:
                peer.close()
    assert stop.received
    raise TrainingFailed(f"stopped by {stop.received.name}; the same command joins again")


def _take_part(peer: Peer, prepare: Prepare, stop: StopSignals) -> None:
    """Returns when the run is done. Raises as join() does, ConnectionError without node 0."""
    run, code = prepare()
    node_0: dict[str, str] = _next(peer, stop)["facts"]
    if differs := difference(facts(run, code), node_0):
        with suppress(OSError):  # unless it is a run of its own
            run.path.rmdir()
        peer.send(refused=differs)
        raise ConfigError(differs)
    peer.send(ready=processes(run.config.runtime), name=host_name())
    print(f"joined {peer.name}; training starts when all nodes are there", file=sys.stderr,
          flush=True)
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
    own = replace(run, path=run.path / f"node_{part.node}")
    own.path.mkdir(parents=True, exist_ok=True)
    own.write()
    own.failure.unlink(missing_ok=True)
    status = wait_for(start_ranks(own, [], part, peer.own_address), own, stop,
                      ending=lambda: _asked_to_stop(peer))
    failed = own.failure.read_text(encoding="utf-8") if own.failure.exists() else None
    shutil.rmtree(own.path, ignore_errors=True)
    with suppress(OSError):  # shared with node 0
        run.path.rmdir()
    peer.send(ended=abs(status), failed=failed)


def _asked_to_stop(peer: Peer) -> bool:
    """Whether node 0 has sent the only message that it sends meanwhile, or is gone."""
    try:
        return peer.waits(0)
    except ConnectionError:
        return True


def _next(peer: Peer, stop: StopSignals) -> dict[str, Any]:
    """Node 0's next message. Raises ConnectionError after a signal, too."""
    while not stop.received:
        if message := peer.receive(0.2):
            return message
    raise ConnectionError
