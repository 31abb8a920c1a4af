"""Starts and supervises a training: its processes on this machine, on several, or a Slurm job.

    python -m reprogpt.launch.launcher RUN_DIR          what sbatch starts on the first node
    python -m reprogpt.launch.launcher RUN_DIR node     what srun starts on every node

The launcher is the process that DVC sees. It holds the run's lock, starts one process per rank,
forwards signals to them, restarts all of them when one fails, and ends after the last of them,
or when its own parent dies. It never imports torch. Processes of one machine meet by a file in a
private folder and use the loopback interface; those of several, at a port of rank 0 that listens
on one interface only.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from reprogpt.errors import ConfigError
from reprogpt.launch.group import Child, describe, processes, wait_for
from reprogpt.launch.network import Rendezvous, listen
from reprogpt.launch.nodes import LOST, Node, Nodes
from reprogpt.launch.ranks import Part, start_ranks
from reprogpt.launch.run_dir import RunDir, checkpoint_steps
from reprogpt.launch.slurm import asks_slurm, start_slurm, start_slurm_node
from reprogpt.runtime.signals import StopSignals, die_with_parent


class TrainingFailed(ValueError):
    """The training did not finish; the message says why and how to continue."""


def launch(run: RunDir, code: Mapping[str, str] | None = None) -> None:
    """Trains ``run`` to its end. Raises TrainingFailed, and ConfigError where the reason is a
    param. ``code``: path -> sha256 of the sources, which other nodes must have as well."""
    die_with_parent()
    held = [run.lock()]
    run.write()
    if asks_slurm(run):  # the launcher that Slurm starts takes the lock
        os.close(held.pop())
    run.failure.unlink(missing_ok=True)
    run.done.unlink(missing_ok=True)
    nodes = None
    with StopSignals() as stop:
        try:
            if run.config.runtime.launcher == "c10d":
                nodes = Nodes(run, Rendezvous.of(run.config.runtime), code or {})
            status = _train(run, held, stop, nodes)
        finally:
            for descriptor in held:
                os.close(descriptor)
            if nodes is not None:
                nodes.end(**run.ending())
    ending = run.ending()
    if "failed" in ending:
        reason = ending["failed"] or "training failed, the reason is above"
        raise (ConfigError if reason.startswith("params.yaml: ") else TrainingFailed)(reason)
    if ending or (status == 0 and not stop.received):
        return
    what = f"stopped by {stop.received.name}" if stop.received else describe(status)
    then = (f"continues from the last checkpoint in runs/{run.path.name}"
            if checkpoint_steps(run.path) else "starts it anew, there was no checkpoint yet")
    raise TrainingFailed(f"training {what}; the same command {then}")


def _train(run: RunDir, held: list[int], stop: StopSignals, nodes: Nodes | None) -> int:
    """Starts the processes, and after a failure all of them again, runtime.max_restarts times; a
    node that was lost may come back any number of times. Returns 0 or the first failure's exit
    status."""
    restarts = 0 if asks_slurm(run) else run.config.runtime.max_restarts
    while True:
        others = nodes.gather(stop) if nodes and not run.trained else []
        if stop.received:
            return LOST
        if run.config.runtime.launcher == "slurm":
            children: list[Child | Node] = [start_slurm(run, held)]
        else:
            children = [*_start_with(run, others, nodes, held), *others]
        status = wait_for(children, run, stop)
        if reasons := [f"node {node.name}: {node.reason}" for node in others if node.reason]:
            run.failure.write_text(reasons[0], encoding="utf-8")
        lost = ", ".join(node.name for node in others if node.lost)
        if not status or run.ending() or stop.received or not (restarts or lost):
            return status
        restarts -= not lost
        print(f"node {lost} was lost; it may come back" if lost else
              f"training {describe(status)}; starting it again ({restarts} restarts left)",
              file=sys.stderr)


def _start_with(run: RunDir, others: Sequence[Node], nodes: Nodes | None, held: list[int]
                ) -> list[Child]:
    """Starts the training processes of this machine as node 0, and has the others start theirs."""
    if nodes is None:
        return start_ranks(run, held)
    with listen(nodes.address, 0) as server:
        port, rank = server.getsockname()[1], processes(run.config.runtime)
        world = rank + sum(node.processes for node in others)
        for node in others:
            node.start(asdict(Part(rank, world, nodes.address, port)))
            rank += node.processes
        return start_ranks(run, held, Part(0, world, nodes.address, port), server.fileno())


def main() -> int:
    """Launches the run, or under srun its part on this node; returns the exit status."""
    try:
        run = RunDir.open(Path(sys.argv[1]))
        if sys.argv[2:] == ["node"]:
            die_with_parent()
            with StopSignals() as stop:
                return abs(wait_for(start_slurm_node(run), run, stop))
        launch(run)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
