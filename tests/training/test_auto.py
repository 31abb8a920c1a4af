"""What each `auto` means, where, and that it keeps its meaning."""

import pytest
import torch

from reprogpt.runtime.distributed import Process
from reprogpt.training import auto
from reprogpt.training.auto import compiling_pays, resolve_auto
from tests.training.test_train_step import config

CPU = Process(0, 1, torch.device("cpu"))


def test_compiling_pays_for_long_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto.shutil, "which", lambda name: name == "g++")
    monkeypatch.setattr(auto.torch, "get_num_threads", lambda: 2)
    narrow = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64}
    long = {"batch_tokens": 2**10, "max_steps": 50_000}
    assert not compiling_pays(config())
    assert compiling_pays(config(model=narrow, train=long))
    assert not compiling_pays(config(model=narrow, train=long | {"max_steps": 10_000}))
    assert not compiling_pays(config(model=narrow | {"n_head": 12, "n_embd": 768}, train=long))
    monkeypatch.setattr(auto.shutil, "which", lambda name: None)
    assert not compiling_pays(config(model=narrow, train=long))


def test_what_is_said_is_taken_and_auto_keeps_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "compiling_pays", lambda cfg: True)
    cfg = config(train={"batch_tokens": 12 * 16, "precision": "auto"},
                 runtime={"micro_batch": "auto", "compile": "auto"})
    new = resolve_auto(cfg, CPU, {})
    assert new["compile"] is True
    assert new["micro_batch"] == 12
    assert new["precision"] in ("float32", "bfloat16")
    assert resolve_auto(cfg, Process(0, 5, CPU.device), {})["micro_batch"] == 3  # or 2
    known = {"precision": "float16", "micro_batch": 7, "compile": False}
    assert resolve_auto(cfg, CPU, known) == known
    said = config(train={"precision": "bfloat16"}, runtime={"micro_batch": 2, "compile": False})
    assert resolve_auto(said, CPU, known) == {"precision": "bfloat16", "micro_batch": 2,
                                              "compile": False}


def test_a_micro_batch_has_few_tokens_and_at_least_a_row() -> None:
    short = config(model={"block_size": 1024}, train={"batch_tokens": 2**16},
                   runtime={"micro_batch": "auto"})
    assert resolve_auto(short, CPU, {})["micro_batch"] == 4
    long = config(model={"block_size": 8192}, train={"batch_tokens": 2**16},
                  runtime={"micro_batch": "auto"})
    assert resolve_auto(long, CPU, {})["micro_batch"] == 1
