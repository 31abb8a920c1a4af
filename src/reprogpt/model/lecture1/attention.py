"""Lecture 1's attention, grown in three steps: a mean, a mean with weights, several at once.

All map x (B, T, C) to (B, T, C), given ``look`` (.., T, T) bool: True where row t may look at
column s. :class:`MultiHead` and :class:`Heads` are exercise 1: the loop, and the same numbers in
one product.
"""

import math

import torch
from torch import Tensor, nn

from reprogpt.config import ModelConfig
from reprogpt.model.dropout import keyed_dropout
from reprogpt.model.lecture1.averaging import average_softmax


class Average(nn.Module):
    """Each position becomes the mean of itself and all before it. Nothing to learn here yet."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.n_embd = cfg.n_embd

    def forward(self, x: Tensor, look: Tensor, keys: Tensor | None) -> Tensor:
        """x (B, T, C), look (.., T, T) -> (B, T, C)"""
        return average_softmax(x, look)

    def mixing_flops(self, T: int) -> int:
        """Forward and backward, a token: weights @ x over T positions."""
        return 6 * T * self.n_embd


class Head(nn.Module):
    """One head of self-attention: who matters to me (query), what am I (key), what I say (value).

    The weights of :class:`Average`, but each position chooses its own.
    """

    def __init__(self, n_embd: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.query = nn.Linear(n_embd, size, bias=False)
        self.key = nn.Linear(n_embd, size, bias=False)
        self.value = nn.Linear(n_embd, size, bias=False)

    def forward(self, x: Tensor, look: Tensor, source: Tensor | None = None) -> Tensor:
        """x (B, T, C), look (.., T, S) bool: True where t may look at s -> (B, T, size).

        A triangle for ``look`` makes a decoder, all True an encoder. Self-attention looks at x
        itself, cross-attention at a ``source`` (B, S, C): another text, or an image.
        """
        source = x if source is None else source
        return self.weights(x, look, source) @ self.value(source)

    def weights(self, x: Tensor, look: Tensor, source: Tensor) -> Tensor:
        """(B, T, S): row t says how much of each position goes into t; rows sum to 1."""
        scores = self.query(x) @ self.key(source).transpose(-2, -1)  # (B, T, S)
        # A sum of `size` products has `size` times their variance; undone, or softmax would begin
        # as a hard choice of one position, through which little gradient flows.
        scores = scores / math.sqrt(self.size)
        return scores.masked_fill(~look, float("-inf")).softmax(-1)

    def mixing_flops(self, T: int) -> int:
        """Forward and backward, a token: query . key and weights @ value over T positions."""
        return 12 * T * self.size


class OneHead(nn.Module):
    """A single head as wide as the stream."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.head = Head(cfg.n_embd, cfg.n_embd)

    def forward(self, x: Tensor, look: Tensor, keys: Tensor | None) -> Tensor:
        return self.head(x, look)


class MultiHead(nn.Module):
    """n_head narrow heads side by side: as many things can be looked for at once."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        size = cfg.n_embd // cfg.n_head
        self.heads = nn.ModuleList(Head(cfg.n_embd, size) for _ in range(cfg.n_head))

    def forward(self, x: Tensor, look: Tensor, keys: Tensor | None = None) -> Tensor:
        return torch.cat([head(x, look) for head in self.heads], -1)


class Heads(nn.Module):
    """The same heads in one product instead of a loop (exercise 1: the same numbers, faster)."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.n_head, self.size = cfg.n_head, cfg.n_embd // cfg.n_head
        self.c_attn = nn.Linear(cfg.n_embd, 3 * cfg.n_embd, bias=False)  # query, key, value

    def forward(self, x: Tensor, look: Tensor, keys: Tensor | None = None,
                dropout: float = 0.0) -> Tensor:
        """x (B, T, C), look (.., T, T) -> (B, T, C); with ``keys`` (B,) of each weight a fraction
        ``dropout`` is lost."""
        B, T, C = x.shape
        # A head is one more dimension of the batch: (B, n_head, T, size) each
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, self.size).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.size)  # (B, n_head, T, T)
        weights = scores.masked_fill(~look.unsqueeze(-3), float("-inf")).softmax(-1)
        if keys is not None and dropout:
            weights = keyed_dropout(weights, keys, dropout)
        return (weights @ v).transpose(1, 2).reshape(B, T, C)

    def mixing_flops(self, T: int) -> int:
        """Forward and backward, a token: as many as its heads one by one."""
        return 12 * T * self.n_head * self.size
