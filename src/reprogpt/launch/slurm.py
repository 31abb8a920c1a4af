"""A training as a job of Slurm: sbatch asks for the nodes, srun starts a launcher on each."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from reprogpt.launch import network
from reprogpt.launch.group import Child, processes
from reprogpt.launch.ranks import Part, start_ranks
from reprogpt.launch.run_dir import RunDir
from reprogpt.storage.files import write_json


def asks_slurm(run: RunDir) -> bool:
    """Whether this launcher only asks Slurm for the nodes, on which another one then launches."""
    return run.config.runtime.launcher == "slurm" and "SLURM_JOB_ID" not in os.environ


class Job(Child):
    """`sbatch --wait`: waits for an allocation by the options in SBATCH_* variables, and for the
    end of the job in it."""

    def __init__(self, name: str, command: Sequence[str], held: Sequence[int]) -> None:
        self.name = name
        super().__init__(["sbatch", "--wait", "--signal=B:USR1@120", f"--job-name={name}",
                          f"--wrap=exec {shlex.join(command)}"], held=held)

    def terminate(self) -> None:
        """Asks the job to save and stop; by SIGTERM, as srun takes SIGINT otherwise."""
        subprocess.run(["scancel", "--batch", "--signal=TERM", f"--name={self.name}"], check=False)


def start_slurm(run: RunDir, held: Sequence[int]) -> Child:
    """In an allocation: srun, which starts the launcher on every node. Outside: sbatch."""
    command = [sys.executable, "-m", "reprogpt.launch.launcher", str(run.path)]
    if asks_slurm(run):
        return Job(f"reprogpt-{run.path.name}", command, held)
    meeting = run.path / "rendezvous"  # on the file system that all nodes share
    shutil.rmtree(meeting, ignore_errors=True)
    meeting.mkdir(mode=0o700)
    return Child(["srun", "--kill-on-bad-exit=1", "--ntasks-per-node=1", *command, "node"],
                 held=held)


def start_slurm_node(run: RunDir) -> list[Child]:
    """Starts the training processes of one node of a Slurm job. Node 0 chooses a free port of the
    interface that has its name, and tells the others by a file that only this user can read."""
    node, nodes = int(os.environ["SLURM_NODEID"]), int(os.environ["SLURM_JOB_NUM_NODES"])
    if nodes == 1:
        return start_ranks(run)
    local, file = processes(run.config.runtime), run.path / "rendezvous/address.json"
    if node == 0:
        name = network.first_host(os.environ["SLURM_JOB_NODELIST"])
        with network.listen(name, 0, "the first node of SLURM_JOB_NODELIST") as server:
            host, port = server.getsockname()[:2]
            write_json(file, [host, port])
            return start_ranks(run, (), Part(0, nodes * local, host, port), server.fileno())
    while not file.exists():
        time.sleep(0.1)
    host, port = json.loads(file.read_text(encoding="utf-8"))
    return start_ranks(run, (), Part(node * local, nodes * local, host, port))
