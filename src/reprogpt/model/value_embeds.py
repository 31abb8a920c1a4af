"""Value embeddings, as in modded-nanogpt: the switch `model.value_embeds`."""

from torch import Tensor, nn

from reprogpt.config import ModelConfig


def value_tables(cfg: ModelConfig) -> int:
    """The number of tables: table i serves the i-th of the first layers and the i-th of the last
    ones, three each, fewer in a shallow model."""
    return min(3, cfg.n_layer // 2) if cfg.value_embeds else 0


def has_value_embed(cfg: ModelConfig, layer: int) -> bool:
    """Whether a layer mixes value embeddings into its values."""
    tables = value_tables(cfg)
    return layer < tables or layer >= cfg.n_layer - tables


class ValueEmbeds(nn.ModuleList):
    """Tables (rows, C) of learned vectors, one per token id."""

    def __init__(self, cfg: ModelConfig, rows: int) -> None:
        super().__init__(nn.Embedding(rows, cfg.n_embd) for _ in range(value_tables(cfg)))
        self.n_layer = cfg.n_layer

    def forward(self, idx: Tensor) -> list[Tensor | None]:
        """idx (B, T) int64 -> for each layer its value embeddings (B, T, C), or None."""
        ends: list[Tensor | None] = [table(idx) for table in self]
        return ends + [None] * (self.n_layer - 2 * len(ends)) + ends
