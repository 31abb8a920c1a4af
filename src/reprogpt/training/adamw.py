"""AdamW, torch's own, as GPT-2 is trained: matrices are decayed, biases and norms are not."""

import torch
from torch import nn

from reprogpt.config import TrainConfig


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two parameter groups: matrices (embeddings included) are decayed, biases and norms not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def build(model: nn.Module, cfg: TrainConfig, shard_state: bool) -> torch.optim.Optimizer:
    """AdamW; with ``shard_state`` each process of the group keeps its share of the moments."""
    groups = decay_groups(model, cfg.weight_decay)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    betas = (cfg.beta1, cfg.beta2)
    if shard_state:
        from torch.distributed.optim import ZeroRedundancyOptimizer  # seconds to import

        return ZeroRedundancyOptimizer(groups, torch.optim.AdamW, lr=cfg.lr, betas=betas,
                                       eps=cfg.eps, fused=fused)
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=betas, eps=cfg.eps, fused=fused)
