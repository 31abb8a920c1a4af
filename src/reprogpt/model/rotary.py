"""Rotary position embedding (Su et al., 2021): the switch `model.position: rope`."""

import torch
from torch import Tensor


def rotary_angles(positions: Tensor, head_dim: int, base: float) -> Tensor:
    """Cosines and sines: positions (..., T) -> (2, ..., 1, T, head_dim / 2) float32."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = (positions[..., None].float() * base ** -(exponents / head_dim)).unsqueeze(-3)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x (B, n_head, T, D): channels i and i + D/2 of each position, rotated by its i-th angle."""
    a, b = x.float().chunk(2, -1)
    cos, sin = angles[0], angles[1]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
