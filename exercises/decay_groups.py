"""Exercise 9: which parameters are decayed.

Lecture 2, "batch size schedule, weight decay, FusedAdamW".
"""

from typing import Any

from torch import nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups for torch.optim.AdamW: ``{"params": [...], "weight_decay": ...}``.

    Matrices and embeddings (two dimensions or more) get ``weight_decay``; biases and LayerNorm's
    weights (one dimension) get 0. Every parameter is in one group.
    """
    raise NotImplementedError
