"""What launches a run elsewhere, as far as it can be tried without a cloud, an engine or Slurm."""

import re
import subprocess
from pathlib import Path

import pytest

from reprogpt.config import read_yaml
from tests.conftest import ROOT, copy_checkout, run

CLOUD = ROOT / "cloud"
TASK = read_yaml(CLOUD / "gpt2-124m.sky.yaml")
KEYS = {
    "": {"name", "num_nodes", "resources", "workdir", "file_mounts", "envs", "setup", "run"},
    "resources": {"accelerators", "use_spot", "disk_size", "job_recovery"},
    "job_recovery": {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"},
    "mount": {"name", "source", "store", "persistent", "mode"},
}
"""A subset of SkyPilot 0.14.1's schemas of a task, its resources and its storage."""
SBATCH = {"SBATCH_ACCOUNT", "SBATCH_CPUS_PER_GPU", "SBATCH_GPUS_PER_NODE", "SBATCH_MEM_PER_GPU",
          "SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_REQUEUE", "SBATCH_TIMELIMIT"}
"""Variables that sbatch reads (its manual, INPUT ENVIRONMENT VARIABLES). SBATCH_NODES and
SBATCH_TIME are not among them."""


@pytest.mark.parametrize(("file", "nodes"), [("gpt2-124m", 1), ("gpt2-124m-2nodes", 2)])
def test_the_sky_tasks_have_the_schemas_keys_and_types(file: str, nodes: int) -> None:
    task = read_yaml(CLOUD / f"{file}.sky.yaml")
    resources, mount = task["resources"], task["file_mounts"]["/store"]
    assert task.keys() <= KEYS[""]
    assert resources.keys() <= KEYS["resources"]
    assert resources["job_recovery"].keys() <= KEYS["job_recovery"]
    assert mount.keys() <= KEYS["mount"]
    assert mount["mode"] in ("MOUNT", "COPY", "MOUNT_CACHED")
    assert (task["num_nodes"], resources["use_spot"]) == (nodes, True)
    assert all(re.fullmatch(r"[\w-]+:8", name) for name in resources["accelerators"])
    assert set(re.findall(r"\$\{(\w+)\}", str(task["file_mounts"]))) <= task["envs"].keys()
    assert all(value is None or isinstance(value, str) for value in task["envs"].values())
    assert (ROOT / f"presets/{task['envs']['PRESET']}.yaml").is_file()
    for script in (task["setup"], task["run"]):
        assert run("bash", "-n", "-c", script, cwd=ROOT).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_second_spot_machine_continues_from_the_store(tmp_path: Path) -> None:
    environment = {"PRESET": "tiny", "STORE": str(tmp_path / "store")}
    first = copy_checkout(tmp_path / "first")
    lost = TASK["run"].replace("\ndvc repro --pull\n", "\ndvc repro --pull train\nexit 99\n")
    done = run("bash", "-c", lost, cwd=first, **environment)  # lost before it pushed its model
    assert done.returncode == 99, done.stderr[-2000:]
    second = copy_checkout(tmp_path / "second")
    again = run("bash", "-c", TASK["run"], cwd=second, **environment)
    assert again.returncode == 0, again.stderr[-2000:]
    for stage in ("download", "tokenize"):
        assert f"Stage '{stage}' is cached - skipping run" in again.stdout
    assert re.search(r"continuing run \w+ from step 20", again.stderr)
    weights = [p / "models/gpt/model.safetensors" for p in (first, second)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert (tmp_path / "store/metrics/samples.md").is_file()
    assert (tmp_path / "store/models/gpt/model.safetensors").is_file()


@pytest.mark.parametrize("script", [CLOUD / "slurm.sh", "setup", "run"], ids=str)
def test_scripts_are_bash(script: Path | str) -> None:
    text = script.read_text() if isinstance(script, Path) else TASK[script]
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_slurm_sets_variables_that_sbatch_reads() -> None:
    for page in ("cloud/slurm.sh", "docs/training.md", "docs/elsewhere.md"):
        text = (ROOT / page).read_text()
        assert set(re.findall(r"SBATCH_[A-Z_]+", text)) <= SBATCH, page


def test_slurm_starts_the_preset_with_the_launcher(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "cloud").mkdir(parents=True)
    (project / "cloud/slurm.sh").write_text((CLOUD / "slurm.sh").read_text())
    (project / ".venv/bin").mkdir(parents=True)
    for name in ("python", "dvc"):
        stand_in = project / ".venv/bin" / name
        stand_in.write_text(f'#!/bin/bash\necho {name} "$@" "$SBATCH_GPUS_PER_NODE"\n')
        stand_in.chmod(0o755)
    script = str(project / "cloud/slurm.sh")
    done = run("bash", script, "tiny", cwd=tmp_path, SBATCH_GPUS_PER_NODE="4")
    assert done.stdout.splitlines() == [
        "python -m pipeline.preset tiny 4",
        "dvc exp run -S runtime.launcher=slurm -S runtime.nproc=4 4"]
    unnamed = run("bash", script, cwd=tmp_path)
    assert unnamed.returncode != 0
    assert "name a preset" in unnamed.stderr


def test_the_container_runs_as_a_user() -> None:
    lines = (CLOUD / "Dockerfile").read_text().splitlines()
    steps = [line.split()[0] for line in lines if re.match("[A-Z]+ ", line)]
    assert steps[0] == "FROM"
    user = next(line.split()[1] for line in reversed(lines) if line.startswith("USER"))
    assert user not in ("root", "0")
    assert steps.index("USER") < steps.index("COPY")
    assert lines[-1] == 'CMD ["make", "repro"]'
    assert re.search(r"(?m)^FROM \S+:\d", "\n".join(lines))
    assert ".venv/.runtime:" in (ROOT / "Makefile").read_text()
