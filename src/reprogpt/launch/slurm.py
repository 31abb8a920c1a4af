"""A training as a job of Slurm: sbatch asks for the nodes, srun starts a launcher on each."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace

from reprogpt.launch import network
from reprogpt.launch.group import Child, Part, processes, start
from reprogpt.launch.ranks import run_environment, start_ranks
from reprogpt.launch.run_dir import RunDir
from reprogpt.storage.files import write_json


def asks_slurm(run: RunDir) -> bool:
    """Whether this launcher only asks Slurm for the nodes, on which another one then launches."""
    return run.config.runtime.launcher == "slurm" and "SLURM_JOB_ID" not in os.environ


class Submitted(Child):
    """`sbatch --wait` of a run's job."""

    name: str

    def terminate(self) -> None:
        """Asks the job to save and stop; by SIGTERM, as srun takes SIGINT otherwise."""
        subprocess.run(["scancel", "--batch", "--signal=TERM", f"--name={self.name}"], check=False)


def start_slurm(run: RunDir, held: list[int]) -> Child:
    """In an allocation: srun, which starts the launcher on every node. Outside: sbatch, which
    waits for an allocation by the options in SBATCH_* variables."""
    command = [sys.executable, "-m", "reprogpt.launch.launcher", str(run.path)]
    env = run_environment(run)
    if asks_slurm(run):
        name = f"reprogpt-{run.path.name}"
        job = start(["sbatch", "--wait", "--signal=B:USR1@120", f"--job-name={name}",
                     f"--wrap=exec {shlex.join(command)}"], env, held, Submitted)
        job.name = name
        return job
    meeting = run.path / "rendezvous"  # on the file system that all nodes share
    shutil.rmtree(meeting, ignore_errors=True)
    meeting.mkdir(mode=0o700)
    return start(["srun", "--kill-on-bad-exit=1", "--ntasks-per-node=1", *command, "node"], env,
                 held, Child)


def start_slurm_node(run: RunDir) -> list[Child]:
    """Starts the training processes of one node of a Slurm job. Node 0 chooses a free port of the
    interface that has its name, and tells the others by a file that only this user can read."""
    node, nodes = int(os.environ["SLURM_NODEID"]), int(os.environ["SLURM_JOB_NUM_NODES"])
    if nodes == 1:
        return start_ranks(run, [])
    local, file = processes(run.config.runtime), run.path / "rendezvous/address.json"
    part = Part(node, node * local, nodes * local, "", 0)
    if node == 0:
        name = network.first_host(os.environ["SLURM_JOB_NODELIST"])
        with network.listen(name, 0, "the first node of SLURM_JOB_NODELIST") as server:
            host, port = server.getsockname()[:2]
            write_json(file, [host, port])
            return start_ranks(run, [], replace(part, host=host, port=port), host, server.fileno())
    while not file.exists():
        time.sleep(0.1)
    host, port = json.loads(file.read_text(encoding="utf-8"))
    return start_ranks(run, [], replace(part, host=host, port=port), network.route_to(host, port))
