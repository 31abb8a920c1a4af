"""How weights move: which are decayed, how large a step is, and what takes it."""

import math

import torch
from torch import nn

from reprogpt.config import TrainConfig

EPS = 1e-8
"""Adam's epsilon, as in GPT-3 (Brown et al., 2020, appendix B)."""
WSD_DECAY = 0.2
"""The last part of a warm-up-stable-decay run over which the rate falls (Hu et al., 2024: 10 to
20% is enough)."""


def lr_at(step: int, cfg: TrainConfig) -> float:
    """The learning rate of the update that follows ``step`` completed ones.

    Warm-up is (step + 1) / warmup_steps of lr, so the first update already moves; then the
    schedule goes from lr to min_lr, reached at max_steps.
    """
    if step < cfg.warmup_steps:
        return cfg.lr * (step + 1) / cfg.warmup_steps
    if step >= cfg.max_steps:
        return cfg.lr if cfg.schedule == "constant" else cfg.min_lr
    done = (step - cfg.warmup_steps) / (cfg.max_steps - cfg.warmup_steps)  # 0..1
    return cfg.min_lr + SCHEDULES[cfg.schedule](done) * (cfg.lr - cfg.min_lr)


SCHEDULES = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "wsd": lambda done: min(1.0, (1 - done) / WSD_DECAY),
    "constant": lambda done: 1.0,
}
"""From the part of the way that is done to the part of (lr - min_lr) that remains."""


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two parameter groups: matrices (embeddings included) are decayed, biases and norms not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, cfg: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that ``cfg.optimizer`` names, over the model's parameters.

    Each group's ``lr_scale`` times lr_at is its learning rate.
    """
    groups = decay_groups(model, cfg.weight_decay)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), eps=EPS, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives every parameter group the learning rate of this update."""
    for group in optimizer.param_groups:
        group["lr"] = lr
