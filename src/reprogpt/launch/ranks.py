"""The training processes of a run on this machine.

Stage evaluate uses group.py, not this: whoever names the trainer depends on all of training/.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from reprogpt.launch import network
from reprogpt.launch.group import Child, environment, meet_here, processes, start_group
from reprogpt.launch.run_dir import RunDir


@dataclass(frozen=True)
class Part:
    """The share of one node in a training over several: its ranks, and where rank 0 listens."""

    first_rank: int
    world: int
    host: str
    port: int


def start_ranks(run: RunDir, held: Sequence[int] = (), part: Part | None = None,
                server: int | None = None) -> list[Child]:
    """Starts the training processes of this machine: all of the run, or its ``part``, which use
    the interface that leads to rank 0. ``server``: the socket on which rank 0 listens."""
    count = processes(run.config.runtime)
    env = environment(count, run.config.train.deterministic)
    if part is None:
        part = Part(0, count, "", 0)
        env |= meet_here(run.path / "rendezvous")
    else:
        env |= network.bind_to(network.route_to(part.host, part.port))
        env["RENDEZVOUS"] = f"{part.host} {part.port}"
    if server is not None:
        env["RENDEZVOUS_FD"], held = str(server), [*held, server]
    return start_group([sys.executable, "-m", "reprogpt.training.process", str(run.path)], env,
                       range(part.first_rank, part.first_rank + count), part.world, held)
