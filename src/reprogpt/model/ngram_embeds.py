"""Embeddings of the last two, three, ... tokens (`model.ngram_rows`), added to the token embedding.

To the input they are what a larger vocabulary is (Huang et al., 2025, "Over-Tokenized Transformer",
arXiv 2501.16975), at the price of a lookup. N-grams share the rows of a table by a hash.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from reprogpt.config import ModelConfig

PRIME = 1_000_003
"""Of the hash, FNV-1's: number * PRIME xor the next token back."""


class TextCache(Protocol):
    """What a KV cache keeps for the n-grams of the tokens that follow."""

    recent: Tensor | None
    """The last tokens, as :func:`tokens_before` takes them; None where there are none."""


class NgramEmbeds(nn.ModuleList):
    """Tables (rows, C) of n-grams, for n = 2 and up."""

    def __init__(self, cfg: ModelConfig) -> None:
        self.rows = cfg.ngram_rows or []
        super().__init__(nn.Embedding(rows, cfg.n_embd) for rows in self.rows)

    def forward(self, idx: Tensor, positions: Tensor | None, mask: Tensor | None,
                cache: TextCache | None) -> list[Tensor]:
        """idx (B, T) int64, and what else GPT.forward takes -> each table's (B, T, C)."""
        if not len(self):
            return []
        recent = cache.recent if cache is not None else None
        before = tokens_before(idx, len(self), positions, mask, recent)
        if cache is not None:
            last = [tokens[:, -1] for tokens in (idx + 1, *before[:-1])]  # the nearest first
            cache.recent = torch.stack(last[::-1], 1)
        found: list[Tensor] = []
        number = idx
        for table, rows, token in zip(self, self.rows, before, strict=True):
            number = (number * PRIME) ^ token
            found.append(table(number % rows))
        return found


def tokens_before(idx: Tensor, count: int, positions: Tensor | None = None,
                  mask: Tensor | None = None, recent: Tensor | None = None) -> list[Tensor]:
    """The tokens 1 to ``count`` positions before each of idx (B, T), nearest first: (B, T) int64
    each, 1 + the token, or 0 before the text begins.

    ``positions`` and ``mask`` (.., T, T) as GPT.forward takes them: what precedes a token is what
    it may attend to at the position before its own, in a prefix tree its parent. ``recent``
    (B, count), in the same form, in the order of the text: what a cache holds before idx.
    """
    T, tokens = idx.size(1), idx + 1
    if mask is None or recent is not None:
        if recent is None:
            recent = tokens.new_zeros(len(tokens), count)
        text = torch.cat([recent, tokens], 1)
        return [text[:, count - n:count - n + T] for n in range(1, count + 1)]
    if positions is None:
        positions = torch.arange(T, device=idx.device)
    positions = positions.expand(idx.shape)
    is_parent = (mask.expand(len(idx), 1, T, T)[:, 0]
                 & (positions[:, None] == positions[..., None] - 1))  # (B, T, T), one a row at most
    exists, parent = is_parent.any(-1), is_parent.int().argmax(-1)
    found = [tokens]
    for _ in range(count):
        found.append(found[-1].gather(1, parent) * exists)
    return found[1:]
