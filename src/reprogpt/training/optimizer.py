"""The learning rate of each step, and the optimizer that train.optimizer names."""

import math
from collections.abc import Callable
from importlib import import_module

import torch
from torch import nn

from reprogpt.config import TrainConfig

WSD_DECAY = 0.2
"""The part of a warm-up-stable-decay run in which the rate falls (Hu et al., 2024: 10 to 20%)."""


def planned_steps(step: int, seconds: float, cfg: TrainConfig) -> float:
    """Steps that the run will have at its end: max_steps, or those that fit into max_seconds at the
    mean speed of the ``step`` steps so far, which took ``seconds``. At most ``step`` at the end."""
    if cfg.max_seconds is None or not step:
        return cfg.max_steps
    return min(cfg.max_steps, step * cfg.max_seconds / seconds)


def lr_at(step: int, cfg: TrainConfig, end: float | None = None) -> float:
    """The learning rate of the update that follows ``step`` completed ones: (step + 1) /
    warmup_steps of lr in warm-up; then the schedule goes to min_lr, reached at step ``end``
    (max_steps, unless :func:`planned_steps` says less)."""
    end = cfg.max_steps if end is None else end
    if step < cfg.warmup_steps:
        return cfg.lr * (step + 1) / cfg.warmup_steps
    if step >= end:
        return cfg.lr if cfg.schedule == "constant" else cfg.min_lr
    done = (step - cfg.warmup_steps) / (end - cfg.warmup_steps)  # 0..1
    decay = cfg.decay_fraction or WSD_DECAY
    return cfg.min_lr + SCHEDULES[cfg.schedule](done, decay) * (cfg.lr - cfg.min_lr)


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "cosine": lambda done, decay: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done, decay: 1 - done,
    "wsd": lambda done, decay: min(1.0, (1 - done) / decay),
    "constant": lambda done, decay: 1.0,
}
"""Fraction of the schedule done (and wsd's decay fraction) -> fraction of (lr - min_lr) left."""


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the rate of every parameter group: ``lr`` times its lr_scale, if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def build_optimizer(model: nn.Module, cfg: TrainConfig, shard_state: bool = False
                    ) -> torch.optim.Optimizer:
    """``build`` of adamw.py or muon.py, imported by name: a run depends on its own optimizer alone.
    ``shard_state``: each process keeps the state of its share of the parameters."""
    optimizer: torch.optim.Optimizer = import_module(f".{cfg.optimizer}", __package__).build(
        model, cfg, shard_state)
    return optimizer
