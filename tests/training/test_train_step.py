"""A training step is the lecture's step, however many micro-batches it has."""

import math
from typing import Any

import pytest
import torch

from reprogpt.config import Config, merge, read_yaml
from reprogpt.model.loss import MASKED
from reprogpt.model.registry import build_model
from reprogpt.runtime.distributed import Process
from reprogpt.training.loader import Batch
from reprogpt.training.optimizer import build_optimizer
from reprogpt.training.train_step import train_step
from reprogpt.training.wrap import WrappedModel

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


def wrap(cfg: Config, micro_batch: int, compiled: bool = False) -> WrappedModel:
    model = build_model(cfg.model, VOCAB)
    model.init_weights(torch.Generator().manual_seed(0))
    resolved = {"precision": "float32", "micro_batch": micro_batch, "compile": compiled}
    return WrappedModel(model, Process(0, 1, torch.device("cpu")), cfg, resolved)


def three_steps(cfg: Config, micro_batch: int, compiled: bool = False) -> list[float]:
    wrapped = wrap(cfg, micro_batch, compiled)
    optimizer = build_optimizer(wrapped.model, cfg.train)
    scaler = torch.amp.GradScaler(enabled=False)
    return [float(train_step(wrapped, optimizer, scaler, batch(), step, cfg.train)[0])
            for step in range(3)]


def test_a_step_is_the_lectures_step() -> None:
    """Whole logits, a mean over the targets that count, clip, AdamW: in plain torch."""
    cfg = config()
    wrapped = wrap(cfg, micro_batch=5)
    theirs = wrap(cfg, micro_batch=5).model
    ours, scaler = build_optimizer(wrapped.model, cfg.train), torch.amp.GradScaler(enabled=False)
    oracle = build_optimizer(theirs, cfg.train)
    data = batch()
    share, norm = train_step(wrapped, ours, scaler, data, 0, cfg.train).tolist()
    loss = torch.nn.functional.cross_entropy(theirs.logits(theirs(data.idx)).view(-1, VOCAB),
                                             data.targets.view(-1), ignore_index=MASKED)
    loss.backward()
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), cfg.train.grad_clip)
    oracle.step()  # its rate is train.lr, which is lr_at(0) without a warm-up
    assert share == pytest.approx(loss.item(), rel=1e-6)
    assert norm == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(wrapped.model.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_micro_batches_change_nothing_but_rounding(micro_batch: int) -> None:
    cfg = config(model={"dropout": 0.1})
    assert three_steps(cfg, micro_batch) == pytest.approx(three_steps(cfg, 5), rel=1e-5)


def test_the_first_loss_is_that_of_guessing() -> None:
    assert three_steps(config(), 5)[0] == pytest.approx(math.log(VOCAB), abs=0.05)
