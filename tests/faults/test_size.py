"""Inputs of unusual size: memory stays bounded, and the result is right."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults import projects
from tests.faults.conftest import Trial
from tests.faults.projects import edit_or_add, environment, new_project, said, weights

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
GIGABYTES = 2.0
"""Memory that no stage may exceed here; the interpreter with its packages takes 0.3 to 0.5."""


def measured(project: Path, module: str) -> str:
    """Runs a stage alone; says its peak memory and seconds."""
    begun = time.monotonic()
    with (project.parent / "said").open("w") as file:
        child = subprocess.Popen(["python", "-m", module], cwd=project, env=environment(project),
                                 stdout=file, stderr=subprocess.STDOUT)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, said(project)
    peak = usage.ru_maxrss / 2**20
    assert peak < GIGABYTES, f"{module} took {peak:.1f} GB"
    name = module.removeprefix("pipeline.")
    return f"{name} {time.monotonic() - begun:.0f} s and {peak:.1f} GB"


def tokenized(project: Path) -> str:
    took = [measured(project, f"pipeline.{stage}") for stage in ("download", "tokenize")]
    return ", ".join(took)


def totals(project: Path) -> dict[str, dict[str, int]]:
    return json.loads((project / "data/tokens/manifest.json").read_text())["totals"]


def test_a_document_of_500_mb(tmp_path: Path, trial: Trial) -> None:
    project = new_project(tmp_path, download__files="['big.txt']", download__max_bytes="null",
                          tokenize__shard_tokens="100_000_000")
    text = (" ".join(projects.WORDS) + "\n") * 100
    times = 500_000_000 // len(text)
    with (project / "big.txt").open("w") as file:
        for _ in range(times):
            file.write(text)
    took = tokenized(project)
    both = totals(project)
    assert sum(split["bytes"] for split in both.values()) == times * len(text)
    trial("one document of 500 MB", f"every byte is in the shards; {took}")


def test_a_million_documents(tmp_path: Path, trial: Trial) -> None:
    project = new_project(tmp_path, download__files="['many.jsonl']", download__max_bytes="null",
                          tokenize__shard_tokens="100_000_000", tokenize__split="hash")
    with (project / "many.jsonl").open("w") as file:
        for number in range(1_000_000):
            file.write(f'{{"text": "{number}"}}\n')
    took = tokenized(project)
    both = totals(project)
    assert sum(split["documents"] for split in both.values()) == 1_000_000
    trial("a million documents of a word", f"each is in the shards; {took}")


def test_ten_thousand_prompts(tmp_path: Path, trial: Trial) -> None:
    project = new_project(tmp_path)
    projects.repro(project)
    before = weights(project)
    (project / "prompts.txt").write_text("".join(f"{n} the king\n" for n in range(10_000)))
    edit_or_add(project, "sample.prompts_file", "prompts.txt")
    took = measured(project, "pipeline.sample")
    page = (project / "metrics/samples.md").read_text()
    assert all(f"{n} the king" in page for n in (0, 5_000, 9_999))
    assert weights(project) == before
    trial("10,000 prompts", f"a sample of each; {took}")
