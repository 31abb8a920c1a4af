"""HellaSwag and samples during training, and how they resume."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reprogpt.config import SampleConfig, TrainConfig
from reprogpt.errors import ConfigError
from reprogpt.formats import huggingface as hf
from reprogpt.launch.run_dir import Paths, RunDir
from reprogpt.model.gpt import GPT
from reprogpt.training.periodic_eval import Probes
from tests.small_project import ALONE, TOKENIZER, trained_project

torch.set_num_threads(1)


def sampling(**changes) -> SampleConfig:
    return SampleConfig(**{"prompts": ["It was", "the `best`"], "num_samples": 2,
                           "max_new_tokens": 8, "temperature": 0.8, "top_k": 20, "top_p": None,
                           **changes})


@pytest.fixture
def root(tmp_path):
    return trained_project(tmp_path)


TRAIN = {"max_steps": 10, "batch_tokens": 64, "lr": 1e-3, "min_lr": 0.0, "warmup_steps": 1,
         "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "grad_clip": 1.0,
         "schedule": "cosine", "optimizer": "adamw", "precision": "float32",
         "order": "shuffled", "eval_interval": 5, "val_tokens": 64, "log_interval": 1,
         "keep": "last", "deterministic": True}


def probes(root: Path, records: Sequence[dict[str, Any]] = (), sample=None, **changes) -> Probes:
    train = TrainConfig(**{**TRAIN, "hellaswag_interval": 4, "hellaswag_examples": 3,
                           "sample_interval": 2, **changes})
    paths = Paths("", "", "", "", "", probes=str(root / "metrics"),
                  hellaswag=str(root / "data/hellaswag/hellaswag_val.jsonl"))
    cfg = SimpleNamespace(train=train, sample=sample or sampling(), seed=5)
    return Probes(RunDir(root, "run", cfg, paths), TOKENIZER, ALONE, 64, list(records))


def measure(probe: Probes, steps: range, model: GPT) -> None:
    for step in filter(probe.due, steps):
        probe(step, model)


def test_probes_measure_when_due_and_resume_without_repeating(root):
    model, _ = hf.load_model(root / "models/gpt")
    state = torch.get_rng_state()
    first = probes(root)
    measure(first, range(9), model)
    assert torch.equal(state, torch.get_rng_state())
    csv = (root / "metrics/train_hellaswag.csv").read_text().splitlines()
    assert csv[0].startswith("step,acc,acc_norm,")
    assert [row.split(",")[0] for row in csv[1:]] == ["0", "4", "8"]
    samples = (root / "metrics/train_samples.md").read_text()
    assert [x for x in samples.splitlines() if x.startswith("## ")] == [
        f"## Step {k}" for k in (0, 2, 4, 6, 8)]
    # The run was killed after step 8; its last checkpoint was at 5.
    again = probes(root, [record for record in first.records if record["step"] <= 5])
    measure(again, range(6, 11), model)
    assert [row.split(",")[0] for row in
            (root / "metrics/train_hellaswag.csv").read_text().splitlines()[1:]] == ["0", "4", "8"]
    assert (root / "metrics/train_samples.md").read_text().startswith(samples)


def test_probes_resume_with_other_prompts(root):
    """`sample` is no param of training: what was written keeps the prompts it was written for."""
    model, _ = hf.load_model(root / "models/gpt")
    first = probes(root)
    first(0, model)
    again = probes(root, first.records, sampling(prompts=["the"]))
    again(2, model)
    before, _, after = (root / "metrics/train_samples.md").read_text().partition("## Step 2")
    assert "It was" in before
    assert "It was" not in after
    assert after


def test_probes_that_cannot_be_made_end_the_run_at_its_start(root):
    with pytest.raises(ConfigError, match="sample.prompts: '~'"):
        probes(root, (), sampling(prompts=["~"]))


def test_probes_that_are_off_leave_files_that_say_so(root):
    """DVC wants every out of a stage to be there."""
    assert not probes(root, hellaswag_interval=None, sample_interval=None).due(4)
    assert (root / "metrics/train_hellaswag.csv").read_text().count("\n") == 1
    assert "train.sample_interval" in (root / "metrics/train_samples.md").read_text()
