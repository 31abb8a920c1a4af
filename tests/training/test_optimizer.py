"""The learning rate at each step, and the optimizer by its name."""

import pytest
import torch

from reprogpt.config import Config, TrainConfig, merge, read_yaml
from reprogpt.training.muon import Muon
from reprogpt.training.optimizer import build_optimizer, lr_at, set_lr


def recipe(**changes: object) -> TrainConfig:
    """GPT-2 124M's: 19,073 steps, warm-up 715, 6e-4 -> 6e-5."""
    base = read_yaml("presets/shakespeare.yaml")
    gpt2 = {"max_steps": 19073, "batch_tokens": 524288, "lr": 6e-4, "min_lr": 6e-5,
            "warmup_steps": 715, "schedule": "cosine"}
    return Config.parse(merge(base, {"train": gpt2 | changes})).train


def test_learning_rate_at_its_knots() -> None:
    cfg = recipe()
    assert lr_at(0, cfg) == pytest.approx(6e-4 / 715)
    assert lr_at(714, cfg) == pytest.approx(6e-4)
    assert lr_at(715, cfg) == pytest.approx(6e-4)
    assert lr_at((715 + 19073) // 2, cfg) == pytest.approx(3.3e-4, rel=1e-3)
    assert lr_at(19072, cfg) == pytest.approx(6e-5, rel=1e-3)
    assert lr_at(19073, cfg) == 6e-5


def test_cosine_follows_torchs_schedule() -> None:
    cfg = recipe(max_steps=100, warmup_steps=0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=cfg.lr)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=cfg.min_lr)
    for step in range(100):
        assert lr_at(step, cfg) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(("schedule", "middle", "end"), [
    ("linear", 3.3e-4, 6e-5), ("constant", 6e-4, 6e-4), ("wsd", 6e-4, 6e-5)])
def test_the_other_schedules(schedule: str, middle: float, end: float) -> None:
    cfg = recipe(schedule=schedule, max_steps=1000, warmup_steps=100)
    assert lr_at(99, cfg) == pytest.approx(6e-4)
    assert lr_at(550, cfg) == pytest.approx(middle)
    assert lr_at(1000, cfg) == pytest.approx(end)


def test_the_optimizer_is_the_one_that_is_named() -> None:
    module = torch.nn.Linear(3, 2)
    assert type(build_optimizer(module, recipe())) is torch.optim.AdamW
    assert type(build_optimizer(module, recipe(optimizer="muon"))) is Muon


def test_a_groups_scale_multiplies_its_rate() -> None:
    a, b = (torch.zeros(1, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b], "lr_scale": 3.0}], lr=1.0)
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.75]
