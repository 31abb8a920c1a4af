"""Switches of the model that GPT-2 does not have: positions, window, value embeddings."""

import torch
from torch import Tensor, nn

from reprogpt.config import ModelConfig


def rotary_angles(positions: Tensor, head_dim: int, base: float) -> Tensor:
    """Cosines and sines of `model.position: rope` (Su et al., 2021):
    positions (..., T) -> (2, ..., 1, T, head_dim / 2) float32."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = (positions[..., None].float() * base ** -(exponents / head_dim)).unsqueeze(-3)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x (B, n_head, T, D): channels i and i + D/2 of each position, rotated by its i-th angle."""
    a, b = x.float().chunk(2, -1)
    cos, sin = angles[0], angles[1]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Position encodings of Vaswani et al. (2017), section 3.5: positions (..., T) -> (..., T,
    width) float32, sines in the even channels, cosines in the odd ones."""
    cos, sin = rotary_angles(positions, width, 10000.0).squeeze(-3)
    return torch.stack([sin, cos], -1).flatten(-2)[..., :width]


def sliding_window(window: int, T: int, past: int, mask: Tensor | None, positions: Tensor | None,
                   device: torch.device) -> Tensor:
    """``mask`` (None: causal) without keys ``window`` or more positions back: (.., T, S) bool.

    The T queries are the last of S = past + T columns, unless ``positions`` (T,) or (B, T) int64
    gives other distances; then ``past`` is 0.
    """
    columns = torch.arange(past + T, device=device)
    distance = columns[past:, None] - columns  # (T, S): from a query back to a key
    visible = (distance >= 0) if mask is None else mask
    if positions is not None:
        distance = positions[..., :, None] - positions[..., None, :]
        distance = distance if distance.dim() == 2 else distance[:, None]  # (B, 1, T, T): all heads
    return visible & (distance < window)


def value_tables(cfg: ModelConfig) -> int:
    """The number of value embeddings: table i serves the i-th of the first layers and the i-th of
    the last ones, three each, fewer in a shallow model."""
    return min(3, cfg.n_layer // 2) if cfg.value_embeds else 0


def has_value_embed(cfg: ModelConfig, layer: int) -> bool:
    """Whether a layer mixes value embeddings into its values."""
    tables = value_tables(cfg)
    return layer < tables or layer >= cfg.n_layer - tables


class ValueEmbeds(nn.ModuleList):
    """Tables (rows, kv_width) of learned vectors, one per token id, as in modded-nanogpt."""

    def __init__(self, cfg: ModelConfig, rows: int) -> None:
        super().__init__(nn.Embedding(rows, cfg.kv_width) for _ in range(value_tables(cfg)))
        self.n_layer = cfg.n_layer

    def forward(self, idx: Tensor) -> list[Tensor | None]:
        """idx (B, T) int64 -> for each layer its value embeddings (B, T, kv_width), or None."""
        ends: list[Tensor | None] = [table(idx) for table in self]
        return ends + [None] * (self.n_layer - 2 * len(ends)) + ends
