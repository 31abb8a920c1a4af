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
    check_memory,
    check_model,
    check_slurm,
    memory_limit,
    preflight,
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
        preflight(config(**changes))


@pytest.mark.parametrize(("changes", "said"), [
    ({"download": {"corpus": "files", "files": ["nope/*.txt"]}}, "'nope/*.txt' matches no file"),
    ({"model": {"init_from": "models/nothing/here"}}, "there is no such directory"),
    ({"model": {"init_from": "a\nb"}}, "there is no such directory"),
    ({"model": {"init_from": "x" * 10**5}}, "there is no such directory"),
    ({"runtime": {"resume": "0" * 16}}, "runtime.resume=0000000000000000 has no checkpoint in "),
    ({"sample": {"prompts_file": "/dev/zero"}}, "must be a UTF-8 text file, and there is none"),
    ({"evaluate": {"suites": {"held_out": ["nope.txt"]}}}, "held_out: 'nope.txt' matches no file"),
])
def test_inputs_that_are_not_there_are_refused(changes: dict[str, Any], said: str) -> None:
    check_inputs(config())
    check_inputs(config(model={"init_from": "gpt2"}))
    with pytest.raises(ConfigError, match=re.escape(said)):
        preflight(config(**changes))


def test_what_is_here_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_machine(config())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_machine(config(runtime={"device": "cuda"}, train={"precision": "tf32"}))
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/sbatch")
    preflight(config(runtime={"launcher": "slurm", "device": "cuda:7"}))  # its nodes may have it


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    preflight(config(runtime={"checkpoint_store": str(tmp_path)}))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"runtime.checkpoint_store=/no/where cannot be used"):
        preflight(config(runtime={"checkpoint_store": "/no/where"}))


def test_slurm_for_tokenizing() -> None:
    slurm = {"tokenize_executor": "slurm", "slurm_partition": "x"}
    with pytest.raises(ConfigError, match=r"tokenize_executor=slurm needs sbatch.*to local"):
        check_slurm(config(runtime=slurm), "tokenize_executor", "local")


def test_a_model_to_start_from_must_have_the_shape(tmp_path: Path) -> None:
    model = random_model(70, block_size=16)
    hf.save_model(tmp_path / "m", model, model.cfg, None)
    same = {name: getattr(model.cfg, name) for name in type(model.cfg).model_fields}
    same |= {"init_from": str(tmp_path / "m")}
    char = {"encoding": "char"}
    check_model(config(model=same, tokenize=char))
    with pytest.raises(ConfigError, match=r"model.n_layer=7 must be \d, that of "):
        check_model(config(model=same | {"n_layer": 7}, tokenize=char))
    named = re.escape(f"params.yaml: model.init_from={same['init_from']}: ")
    with pytest.raises(ConfigError, match=named + "must have 50257 tokens, GPT-2's, not 70"):
        check_model(config(model=same))
    weights = tmp_path / "m/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=named):
        preflight(config(model=same, tokenize=char))
    weights.unlink()
    (tmp_path / "m/other.safetensors").symlink_to("/nowhere")
    with pytest.raises(ConfigError, match=named + ".*nowhere|No such file.*fetch it again"):
        check_model(config(model=same, tokenize=char))
    (tmp_path / "m/other.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"init_from='.*' must hold config.json and "):
        preflight(config(model=same, tokenize=char))


def test_a_model_from_the_hub_is_judged_once_it_is_in_data_init(tmp_path: Path) -> None:
    model = random_model(70, block_size=16)
    hf.save_model(tmp_path / "data/init", model, model.cfg, None)
    (tmp_path / "data/init/init_from.txt").write_text("owner/name\n")
    check_model(config(model={"init_from": "owner/other"}), tmp_path)
    with pytest.raises(ConfigError, match=r"model.n_layer=6 must be \d, that of owner/name"):
        check_model(config(model={"init_from": "owner/name"}), tmp_path)


@pytest.mark.parametrize(("changes", "key"), [
    ({"model": {"n_layer": 2**20, "n_embd": 2**20}}, "model.n_embd"),
    ({"model": {"n_embd": 2**20}}, "model.n_embd"),
    ({"model": {"block_size": 2**20}, "train": {"batch_tokens": 2**20, "val_tokens": 2**20}},
     "model.n_embd"),
    ({"model": {"ngram_rows": [2, 10**9]}}, "model.ngram_rows"),
    ({"train": {"batch_tokens": 2**29}, "runtime": {"micro_batch": 2**23}}, "runtime.micro_batch"),
])
def test_what_no_memory_here_can_hold(changes: dict[str, Any], key: str,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_limit", lambda: 4e9)
    check_memory(config())
    with pytest.raises(ConfigError, match=rf"{key}=[\d\[].* needs more than [\d,.]+ GB of "
                       r"memory, and this machine gives 4.0 GB; lower it"):
        check_memory(config(**changes))


def test_the_memory_is_that_of_the_machine_or_less() -> None:
    import psutil

    assert 0 < memory_limit() <= psutil.virtual_memory().total


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpu_count", lambda device: 2 if device != "cpu" else 0)
    check_machine(config(runtime={"nproc": 2}))
    check_machine(config(runtime={"nproc": 3, "device": "cpu"}))
    with pytest.raises(ConfigError, match="runtime.nproc=3 needs a GPU for each, .* has 2; try 2"):
        check_machine(config(runtime={"nproc": 3}))


def test_a_stage_asks_for_what_is_left_only() -> None:
    gone = config(download={"corpus": "files", "files": ["nope/*.txt"]})
    preflight(gone, "tokenize")
    with pytest.raises(ConfigError, match="matches no file"):
        preflight(gone)
    with pytest.raises(ConfigError, match="prompts_file"):
        preflight(config(sample={"prompts_file": "nope.txt"}), "sample")


def test_data_init_must_be_what_init_from_asks_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="init_from=null but data/init was made for nothing"):
        check_init(None, tmp_path)
    fetch_model(None, tmp_path)
    check_init(None, tmp_path)
    with pytest.raises(ConfigError, match="init_from=gpt2 but data/init was made for null"):
        check_init("gpt2", tmp_path)


@pytest.mark.parametrize("end", ["  evaluate:\n    cmd: exec", "    params:", "    de"])
def test_a_torn_lock_is_named_with_what_heals_it(end: str, tmp_path: Path) -> None:
    machine.check_lock(tmp_path)  # none yet
    whole = (ROOT / "dvc.lock").read_text()
    (tmp_path / "dvc.lock").write_text(whole)
    machine.check_lock(tmp_path)
    place = whole.index(end, whole.index("  evaluate:")) + len(end)
    (tmp_path / "dvc.lock").write_text(whole[:place if end != "    params:" else place + 1])
    if end.endswith("exec"):  # valid, as far as it goes: the stage runs again
        machine.check_lock(tmp_path)
        return
    with pytest.raises(ConfigError, match="git checkout dvc.lock"):
        machine.check_lock(tmp_path)
