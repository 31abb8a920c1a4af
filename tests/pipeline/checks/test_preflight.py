"""What params.yaml asks for and this machine has not is said before anything is deleted."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checks import preflight as machine
from pipeline.checks.preflight import (
    check_init,
    check_inputs,
    check_machine,
    check_slurm,
    check_store,
)
from reprogpt.config import Config, merge, read_yaml
from reprogpt.errors import ConfigError
from reprogpt.formats import huggingface as hf
from reprogpt.formats.hub_model import fetch_model
from tests.conftest import ROOT
from tests.small_models import random_model


def config(**changes: Any) -> Config:
    return Config.parse(merge(read_yaml(ROOT / "presets/shakespeare.yaml"), changes))


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Slurm, no GPU."""
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(("changes", "said"), [
    ({"runtime": {"launcher": "slurm"}}, "runtime.launcher=slurm needs sbatch"),
    ({"runtime": {"device": "cuda:1"}}, "runtime.device=cuda:1 but torch sees no CUDA device"),
    ({"runtime": {"device": "mps"}}, "runtime.device=mps but"),
    ({"train": {"precision": "tf32"}}, "train.precision=tf32 needs a CUDA device"),
])
def test_what_is_not_here_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_machine(config(**changes))


@pytest.mark.parametrize(("changes", "said"), [
    ({"download": {"corpus": "files", "files": ["nope/*.txt"]}}, "'nope/*.txt' matches no file"),
    ({"model": {"init_from": "models/nothing/here"}}, "there is no such directory"),
])
def test_inputs_that_are_not_there_are_refused(changes: dict[str, Any], said: str) -> None:
    check_inputs(config())
    check_inputs(config(model={"init_from": "gpt2"}))
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_inputs(config(**changes))


def test_what_is_here_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_machine(config())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_machine(config(runtime={"device": "cuda"}, train={"precision": "tf32"}))
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/sbatch")
    check_machine(config(runtime={"launcher": "slurm", "device": "cuda"}))


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    check_store(config())
    check_store(config(runtime={"checkpoint_store": str(tmp_path)}))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"runtime.checkpoint_store=/no/where cannot be used"):
        check_store(config(runtime={"checkpoint_store": "/no/where"}))


def test_slurm_for_tokenizing() -> None:
    slurm = {"tokenize_executor": "slurm", "slurm_partition": "x"}
    with pytest.raises(ConfigError, match=r"tokenize_executor=slurm needs sbatch.*to local"):
        check_slurm(config(runtime=slurm), "tokenize_executor", "local")


def test_a_model_to_start_from_must_have_the_shape(tmp_path: Path) -> None:
    model = random_model(70, block_size=16)
    hf.save_model(tmp_path / "m", model, model.cfg, None)
    same = {name: getattr(model.cfg, name) for name in type(model.cfg).model_fields}
    same |= {"init_from": str(tmp_path / "m")}
    check_machine(config(model=same))
    with pytest.raises(ConfigError, match=r"model.n_layer=7 must be \d, that of "):
        check_machine(config(model=same | {"n_layer": 7}))


def test_data_init_must_be_what_init_from_asks_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="init_from=null but data/init was made for nothing"):
        check_init(None, tmp_path)
    fetch_model(None, tmp_path)
    check_init(None, tmp_path)
    with pytest.raises(ConfigError, match="init_from=gpt2 but data/init was made for null"):
        check_init("gpt2", tmp_path)
