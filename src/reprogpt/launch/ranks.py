"""The training processes of a run on this machine."""

import sys

from reprogpt.launch.group import Child, Part, environment, processes, start_group
from reprogpt.launch.run_dir import RunDir


def start_ranks(run: RunDir, held: list[int], part: Part | None = None, own_address: str = "",
                server: int | None = None) -> list[Child]:
    """Starts the training processes of this machine: all, or ``part`` of them, which use the
    interface of ``own_address``. ``server``: the socket on which rank 0 listens."""
    return start_group([sys.executable, "-m", "reprogpt.training.process", str(run.path)],
                       run.path / "rendezvous", run_environment(run),
                       processes(run.config.runtime), held, part, own_address, server)


def run_environment(run: RunDir) -> dict[str, str]:
    """The environment of a run's training processes."""
    return environment(processes(run.config.runtime), run.config.train.deterministic)
