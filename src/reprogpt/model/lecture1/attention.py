"""Lecture 1's attention in three steps: a mean, a weighted mean, several of them at once.

All map x (B, T, C) to (B, T, C), given ``mask`` (.., T, T) bool: True where position t sees
position s. MultiHead and Heads are exercise 1: a loop over heads, and the same in one product.
"""

import math

import torch
from torch import Tensor, nn

from reprogpt.config import ModelConfig
from reprogpt.model.dropout import keyed_dropout
from reprogpt.model.lecture1.averaging import average_softmax


class Average(nn.Module):
    """Each position becomes the mean over itself and all before it. No parameters."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor, mask: Tensor, dropout_keys: Tensor | None) -> Tensor:
        return average_softmax(x, mask)


class Head(nn.Module):
    """One head of attention: a weighted mean of values, the weights from query . key.

    The query says what a position looks for, the key what it contains, the value what it passes on.
    """

    def __init__(self, n_embd: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.query = nn.Linear(n_embd, size, bias=False)
        self.key = nn.Linear(n_embd, size, bias=False)
        self.value = nn.Linear(n_embd, size, bias=False)

    def forward(self, x: Tensor, mask: Tensor, source: Tensor | None = None) -> Tensor:
        """x (B, T, C), mask (.., T, S) bool, source (B, S, C) -> (B, T, size). A causal ``mask``
        makes a decoder, all True an encoder; a ``source`` other than x, cross-attention."""
        source = x if source is None else source
        return self.weights(x, mask, source) @ self.value(source)

    def weights(self, x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
        """(B, T, S): row t holds the weight of each position in the mean at t; rows sum to 1."""
        scores = self.query(x) @ self.key(source).transpose(-2, -1)  # (B, T, S)
        # A sum of `size` products has `size` times their variance. Divided out, because otherwise
        # softmax starts close to one-hot, and little gradient flows through it.
        scores = scores / math.sqrt(self.size)
        return scores.masked_fill(~mask, float("-inf")).softmax(-1)


class OneHead(nn.Module):
    """A single head of size n_embd."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.head = Head(cfg.n_embd, cfg.n_embd)

    def forward(self, x: Tensor, mask: Tensor, dropout_keys: Tensor | None) -> Tensor:
        return self.head(x, mask)


class MultiHead(nn.Module):
    """n_head heads of size n_embd / n_head, concatenated."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        size = cfg.n_embd // cfg.n_head
        self.heads = nn.ModuleList(Head(cfg.n_embd, size) for _ in range(cfg.n_head))

    def forward(self, x: Tensor, mask: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        return torch.cat([head(x, mask) for head in self.heads], -1)


class Heads(nn.Module):
    """The same heads in one product instead of a loop (exercise 1: the same numbers, faster)."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.n_head, self.size = cfg.n_head, cfg.n_embd // cfg.n_head
        self.c_attn = nn.Linear(cfg.n_embd, 3 * cfg.n_embd, bias=False)  # query, key, value

    def forward(self, x: Tensor, mask: Tensor, dropout_keys: Tensor | None = None,
                dropout: float = 0.0) -> Tensor:
        """With ``dropout_keys`` (B,) int32 a fraction ``dropout`` of the weights is dropped."""
        B, T, C = x.shape
        # Heads are one more batch dimension: q, k, v (B, n_head, T, size)
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, self.size).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.size)  # (B, n_head, T, T)
        weights = scores.masked_fill(~mask.unsqueeze(-3), float("-inf")).softmax(-1)
        if dropout_keys is not None and dropout:
            weights = keyed_dropout(weights, dropout_keys, dropout)
        return (weights @ v).transpose(1, 2).reshape(B, T, C)
