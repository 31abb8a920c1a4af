"""Tokenizing as tasks of datatrove's executors: the same shards, byte for byte."""

import os
import sys
from pathlib import Path

import pytest

from reprogpt.config import RuntimeConfig, TokenizeConfig
from reprogpt.data.collect import Source, collect
from reprogpt.data.raw_text import Document, Meta, write_meta
from reprogpt.encoding import slurm_executor as cluster
from reprogpt.encoding.tokenize_corpus import tokenize
from reprogpt.errors import ConfigError
from tests.conftest import ROOT

TOKENIZE = TokenizeConfig(encoding="gpt2", shard_tokens=4096, split="hash", val_fraction=0.2)

# Slurm's commands, for a cluster that is this machine and runs an array's tasks one by one.
SBATCH = r"""#!/bin/bash
set -e
for last; do :; done
case "$last" in /*) script="$last" ;; *) script=$(mktemp); cat > "$script" ;; esac
array=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$script")
command=$(grep -c launch_pickled_pipeline "$script" || true)
echo "$script $@" >> "$FAKE_SLURM/log"
if [ "$command" -gt 0 ] && [ ! -e "$FAKE_SLURM/broken" ]; then
  for n in $(seq 0 "$array"); do
    export SLURM_ARRAY_TASK_ID=$n SLURM_NODELIST=node1 RUN_OFFSET=0
    bash "$script" >> "$FAKE_SLURM/out" 2>&1
  done
fi
echo "Submitted batch job 4711"
"""
SRUN = """#!/bin/bash
while [ "$1" != launch_pickled_pipeline ]; do shift; done
exec "$@"
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "cache2").mkdir()
    (tmp_path / "cache2/files").symlink_to(tmp_path / "cache/files")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    documents = [Document(f"document {n}: " + "to be or not to be, " * n) for n in range(60)]
    parts = collect([Source("test", "", lambda first: iter(documents))], tmp_path / "raw")
    write_meta(tmp_path / "raw", Meta("test", "0", tuple(parts)))
    return tmp_path


def runtime(**values) -> RuntimeConfig:
    return RuntimeConfig(**{"device": "cpu", "nproc": 1, "micro_batch": 1, "compile": False,
                            "workers": 2, "checkpoint_interval": 1, "launcher": "torchrun",
                            "resume": None, "tokenize_tasks": 3, **values})


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*.*")}


@pytest.mark.slow
def test_datatroves_local_executor_gives_the_same_shards(project, monkeypatch):
    pytest.importorskip("datatrove")
    tokenize(TOKENIZE, project / "raw", project / "a", chunk_bytes=5000)
    monkeypatch.setenv("REPROGPT_CACHE", str(project / "cache2"))
    tokenize(TOKENIZE, project / "raw", project / "b", runtime(tokenize_executor="datatrove"),
             chunk_bytes=5000)
    assert content(project / "a") == content(project / "b")
    assert list((project / "cache2/jobs").iterdir()) == []  # nothing left behind


@pytest.fixture
def slurm(project, monkeypatch):
    pytest.importorskip("datatrove")
    binaries = project / "bin"
    binaries.mkdir()
    commands = {"sbatch": SBATCH, "srun": SRUN, "squeue": "#!/bin/bash\nexit 1\n",
                "scontrol": "#!/bin/bash\necho node1\n"}
    for name, text in commands.items():
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(binaries))
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(cluster, "LATE_SECONDS", 0.2)
    return runtime(tokenize_executor="slurm", slurm_partition="cpu", slurm_time="00:10:00")


@pytest.mark.slow
def test_slurm_tasks_give_the_same_shards(project, slurm, monkeypatch):
    tokenize(TOKENIZE, project / "raw", project / "a", chunk_bytes=5000)
    monkeypatch.setenv("REPROGPT_CACHE", str(project / "cache2"))
    tokenize(TOKENIZE, project / "raw", project / "b", slurm, chunk_bytes=5000)
    assert content(project / "a") == content(project / "b")


def test_slurm_tasks_that_fail_are_told(project, slurm):
    (project / "bin/broken").touch()
    with pytest.raises(RuntimeError, match=r"(\d+) of \1 tasks of Slurm job 4711 ended without"):
        tokenize(TOKENIZE, project / "raw", project / "b", slurm, chunk_bytes=5000)


def test_slurm_needs_a_partition():
    with pytest.raises(ValueError, match="slurm_partition"):
        runtime(tokenize_executor="slurm")


def test_without_datatrove_the_fix_is_named(project, monkeypatch):
    for module in ("datatrove", "datatrove.executor"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match="needs datatrove; pip install"):
        tokenize(TOKENIZE, project / "raw", project / "b",
                 runtime(tokenize_executor="datatrove"))
