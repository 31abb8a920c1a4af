"""AdamW: what is decayed, and two updates by the paper."""

import math

import torch

from reprogpt.config import ModelConfig
from reprogpt.model.registry import build_model
from reprogpt.training.adamw import build, decay_groups
from tests.training.test_optimizer import recipe


def test_gpt2s_decay_groups() -> None:
    cfg = ModelConfig(architecture="gpt", n_layer=12, n_head=12, n_embd=768, block_size=1024,
                      dropout=0.0, bias=True, init_from=None)
    with torch.device("meta"):
        groups = decay_groups(build_model(cfg, 50257), 0.1)
    counts = [(len(g["params"]), sum(p.numel() for p in g["params"])) for g in groups]
    assert counts == [(50, 124_354_560), (98, 121_344)]
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]


def test_two_updates_equal_adamw_by_its_paper() -> None:
    """Loshchilov and Hutter (2019), algorithm 2, in float64 by hand."""
    cfg = recipe()
    module = torch.nn.Linear(3, 2)
    before = module.weight.detach().double().clone()
    optimizer = build(module, cfg, shard_state=False)
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
