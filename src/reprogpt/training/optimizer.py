"""How weights move: which are decayed, how large a step is, and what takes it."""

import math
from collections.abc import Callable

import torch
from torch import nn

from reprogpt.config import TrainConfig
from reprogpt.training.muon import Muon

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
    decay = cfg.decay_fraction or WSD_DECAY
    return cfg.min_lr + SCHEDULES[cfg.schedule](done, decay) * (cfg.lr - cfg.min_lr)


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "cosine": lambda done, decay: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done, decay: 1 - done,
    "wsd": lambda done, decay: min(1.0, (1 - done) / decay),
    "constant": lambda done, decay: 1.0,
}
"""From the part of the way that is done (and wsd's last part) to the part of (lr - min_lr) that
remains."""


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two parameter groups: matrices (embeddings included) are decayed, biases and norms not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def muon_groups(model: nn.Module, cfg: TrainConfig) -> list[dict[str, object]]:
    """Hidden matrices by Muon, decayed; embeddings, head and vectors by AdamW, not decayed.

    Each group's ``lr_scale`` times the schedule's rate is its learning rate.
    """
    kinds: dict[str, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        kinds.setdefault(_kind(name, p), []).append(p)
    rates = {"qkv": cfg.muon_lr, "matrix": cfg.muon_lr, "embed": cfg.embed_lr,
             "head": cfg.head_lr, "scalar": cfg.scalar_lr}
    return [
        {"params": params, "lr_scale": (rates[kind] or cfg.lr) / cfg.lr,
         "muon": kind in ("qkv", "matrix"), "pieces": 3 if kind == "qkv" else 1,
         "weight_decay": cfg.weight_decay if kind in ("qkv", "matrix") else 0.0}
        for kind, params in kinds.items()
    ]


def _kind(name: str, p: nn.Parameter) -> str:
    if p.dim() < 2:
        return "scalar"
    if name.startswith(("wte.", "wpe.", "value_embeds.")):
        return "embed"
    if name.startswith("lm_head."):
        return "head"
    return "qkv" if name.endswith("c_attn.weight") else "matrix"


def build_optimizer(model: nn.Module, cfg: TrainConfig, sharded: bool = False
                    ) -> torch.optim.Optimizer:
    """The optimizer that ``cfg.optimizer`` names, over the model's parameters.

    ``sharded``: each process of the group keeps the state of its share of them only (AdamW).
    """
    betas = (cfg.beta1, cfg.beta2)
    if cfg.optimizer == "muon":
        return Muon(muon_groups(model, cfg), lr=cfg.lr, momentum=cfg.muon_momentum, betas=betas,
                    eps=cfg.eps, match_adamw=cfg.muon_lr is None)
    groups = decay_groups(model, cfg.weight_decay)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if sharded:
        from torch.distributed.optim import ZeroRedundancyOptimizer  # seconds to import

        return ZeroRedundancyOptimizer(groups, torch.optim.AdamW, lr=cfg.lr, betas=betas,
                                       eps=cfg.eps, fused=fused)
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=betas, eps=cfg.eps, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives every parameter group the learning rate of this update."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
