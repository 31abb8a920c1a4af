"""The recipe: what is decayed, what the learning rate is when, and torch's own AdamW step."""

import math

import pytest
import torch

from reprogpt.config import Config, ModelConfig, TrainConfig, merge, read_yaml
from reprogpt.model.registry import build_model
from reprogpt.training.optimizer import build_optimizer, decay_groups, lr_at


def recipe(**changes: object) -> TrainConfig:
    """GPT-2 124M's: 19,073 steps, warm-up 715, 6e-4 -> 6e-5."""
    base = read_yaml("presets/shakespeare.yaml")
    gpt2 = {"max_steps": 19073, "batch_tokens": 524288, "lr": 6e-4, "min_lr": 6e-5,
            "warmup_steps": 715, "schedule": "cosine"}
    return Config.parse(merge(base, {"train": gpt2 | changes})).train


def test_gpt2s_decay_groups() -> None:
    cfg = ModelConfig(architecture="gpt", n_layer=12, n_head=12, n_embd=768, block_size=1024,
                      dropout=0.0, bias=True, init_from=None)
    with torch.device("meta"):
        groups = decay_groups(build_model(cfg, 50257), 0.1)
    counts = [(len(g["params"]), sum(p.numel() for p in g["params"])) for g in groups]
    assert counts == [(50, 124_354_560), (98, 121_344)]
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]


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


def test_two_updates_equal_adamw_by_its_paper() -> None:
    """Loshchilov and Hutter (2019), algorithm 2, in float64 by hand."""
    cfg = recipe()
    module = torch.nn.Linear(3, 2)
    before = module.weight.detach().double().clone()
    optimizer = build_optimizer(module, cfg)
    m = v = torch.zeros_like(before)
    expected = before.clone()
    for t in (1, 2):
        grad = torch.full((2, 3), 0.1 * t)
        module.weight.grad, module.bias.grad = grad.clone(), torch.zeros(2)
        optimizer.step()
        m = cfg.beta1 * m + (1 - cfg.beta1) * grad.double()
        v = cfg.beta2 * v + (1 - cfg.beta2) * grad.double() ** 2
        expected = expected * (1 - cfg.lr * cfg.weight_decay)
        update = (m / (1 - cfg.beta1**t)) / ((v / (1 - cfg.beta2**t)).sqrt() + 1e-8)
        expected = expected - cfg.lr * update
    torch.testing.assert_close(module.weight.detach().double(), expected, atol=1e-7, rtol=1e-6)
    assert not math.isclose(expected[0, 0].item(), before[0, 0].item())
