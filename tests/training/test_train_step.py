"""When compiling pays, how many logits exist at a time, and that a step is what it says it is."""

import math
from typing import Any

import pytest
import torch

from reprogpt.config import Config, merge, read_yaml
from reprogpt.model.kernels import choose
from reprogpt.model.loss import MASKED
from reprogpt.model.registry import build_model
from reprogpt.runtime.distributed import Process
from reprogpt.training import train_step as network
from reprogpt.training.loader import Batch
from reprogpt.training.optimizer import build_optimizer
from reprogpt.training.train_step import Network, pays

VOCAB = 101
TINY = {"model": {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16},
        "train": {"warmup_steps": 0, "lr": 1e-3, "min_lr": 1e-4}}


def config(**changes: Any) -> Config:
    return Config.parse(merge(merge(read_yaml("presets/shakespeare.yaml"), TINY), changes))


def batch() -> Batch:
    ids = torch.randint(VOCAB, (5, 17), generator=torch.Generator().manual_seed(0))
    targets = ids[:, 1:].clone()
    targets[0, :7] = MASKED
    return Batch(ids[:, :-1].contiguous(), targets, torch.arange(5), 5 * 16 - 7)


def network_of(cfg: Config, micro_batch: int, compiled: bool = False) -> Network:
    model = build_model(cfg.model, VOCAB)
    model.init_weights(torch.Generator().manual_seed(0))
    resolved = {"precision": "float32", "micro_batch": micro_batch, "compile": compiled}
    return Network(model, Process(0, 1, torch.device("cpu")), cfg.seed, resolved)


def three_steps(cfg: Config, micro_batch: int, compiled: bool = False) -> list[float]:
    net = network_of(cfg, micro_batch, compiled)
    optimizer, scaler = build_optimizer(net.model, cfg.train), torch.amp.GradScaler(enabled=False)
    return [float(net.update(batch(), step, optimizer, scaler, cfg.train)[0]) for step in range(3)]


def test_a_step_is_the_lectures_step() -> None:
    """Whole logits, a mean over the targets that count, clip, AdamW: in plain torch."""
    cfg = config()
    net = network_of(cfg, micro_batch=5)
    theirs = network_of(cfg, micro_batch=5).model
    ours, scaler = build_optimizer(net.model, cfg.train), torch.amp.GradScaler(enabled=False)
    oracle = build_optimizer(theirs, cfg.train)
    data = batch()
    share, norm = net.update(data, 0, ours, scaler, cfg.train).tolist()
    loss = torch.nn.functional.cross_entropy(theirs.logits(theirs(data.idx)).view(-1, VOCAB),
                                             data.targets.view(-1), ignore_index=MASKED)
    loss.backward()
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), cfg.train.grad_clip)
    oracle.step()  # its rate is train.lr, which is lr_at(0) without a warm-up
    assert share == pytest.approx(loss.item(), rel=1e-6)
    assert norm == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(net.model.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_micro_steps_change_nothing_but_rounding(micro_batch: int) -> None:
    cfg = config(model={"dropout": 0.1})
    assert three_steps(cfg, micro_batch) == pytest.approx(three_steps(cfg, 5), rel=1e-5)


def test_logits_in_chunks_of_any_size_change_nothing_but_rounding(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = three_steps(config(), 5)
    monkeypatch.setitem(choose.LOGIT_BYTES, "cpu", 3 * 128 * 4)
    assert three_steps(config(), 5) == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a C++ compiler at work, on a machine that may be busy
def test_a_compiled_step_is_an_eager_one() -> None:
    cfg = config(model={"dropout": 0.1, "n_layer": 1})
    assert three_steps(cfg, 5, compiled=True) == pytest.approx(three_steps(cfg, 5), rel=1e-4)


def test_compiling_pays_for_long_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.shutil, "which", lambda name: name == "g++")
    monkeypatch.setattr(network.torch, "get_num_threads", lambda: 2)
    narrow = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64}
    long = {"batch_tokens": 2**10, "max_steps": 50_000}
    assert not pays(config())
    assert pays(config(model=narrow, train=long))
    assert not pays(config(model=narrow, train=long | {"max_steps": 10_000}))
    assert not pays(config(model=narrow | {"n_head": 12, "n_embd": 768}, train=long))
    monkeypatch.setattr(network.shutil, "which", lambda name: None)
    assert not pays(config(model=narrow, train=long))


def test_the_first_loss_is_that_of_guessing() -> None:
    assert three_steps(config(), 5)[0] == pytest.approx(math.log(VOCAB), abs=0.05)
