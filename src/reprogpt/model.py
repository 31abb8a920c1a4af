"""GPT-2, whole: text goes in as token ids, comes out as a hidden state per position.

One tensor, followed from the input to the loss::

    idx (B, T) -> wte + wpe (B, T, C) -> n_layer x [x + attn(ln_1(x)); x + mlp(ln_2(x))]
               -> ln_f (B, T, C) -> logits (B, T, V) = ln_f(x) @ wte.T -> loss.py

B rows, T positions, C = n_embd channels, V = vocab_size. The architecture is that of "Language
Models are Unsupervised Multitask Learners" (Radford et al., 2019) and of the released weights:
pre-LayerNorm (eps 1e-5), GELU by its tanh approximation, learned positions, tied head.
"""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprogpt.config import ModelConfig
from reprogpt.dropout import keyed_dropout, site_keys

VOCAB_MULTIPLE = 64
"""The vocabulary is padded to a multiple of this: 50,257 -> 50,304 keeps matrix tiles whole.
The padding lives in memory only; no file holds it, and no loss or sample sees it."""


class Cache(Protocol):
    """Keys and values of the positions already computed (generate.py has one)."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New k, v (B, n_head, T, D) of a layer -> all of its k, v so far (B, n_head, S, D)."""
        ...


def padded_vocab(vocab_size: int) -> int:
    """``vocab_size`` rounded up to a multiple of VOCAB_MULTIPLE."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


class CausalSelfAttention(nn.Module):
    """Every position looks back at itself and all before it, n_head times in parallel."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head, self.dropout = layer, cfg.n_head, cfg.dropout
        self.c_attn = nn.Linear(cfg.n_embd, 3 * cfg.n_embd, bias=cfg.bias)  # q, k, v
        self.c_proj = nn.Linear(cfg.n_embd, cfg.n_embd, bias=cfg.bias)

    def forward(self, x: Tensor, keys: Tensor | None = None, mask: Tensor | None = None,
                cache: Cache | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C). ``mask`` (.., T, S) bool: True where a query may look."""
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, n_head, T, D)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        if keys is not None and self.dropout:  # the weights must be seen to be dropped
            y = self._explicit(q, k, v, site_keys(keys, 3 * self.layer + 1))
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None and T > 1)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
        T = q.size(2)
        causal = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.size(-1))  # (B, n_head, T, T)
        weights = scores.masked_fill(~causal, float("-inf")).softmax(-1)
        return keyed_dropout(weights.to(v.dtype), keys, self.dropout) @ v


class MLP(nn.Module):
    """Each position thinks by itself: widen four times, bend, narrow."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(cfg.n_embd, 4 * cfg.n_embd, bias=cfg.bias)
        self.c_proj = nn.Linear(4 * cfg.n_embd, cfg.n_embd, bias=cfg.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """Communication, then computation, each added to the residual stream."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.dropout = layer, cfg.dropout
        self.ln_1 = nn.LayerNorm(cfg.n_embd, bias=cfg.bias)
        self.attn = CausalSelfAttention(cfg, layer)
        self.ln_2 = nn.LayerNorm(cfg.n_embd, bias=cfg.bias)
        self.mlp = MLP(cfg)

    def forward(self, x: Tensor, keys: Tensor | None = None, mask: Tensor | None = None,
                cache: Cache | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        x = x + self._drop(self.attn(self.ln_1(x), keys, mask, cache), keys, 3 * self.layer + 2)
        return x + self._drop(self.mlp(self.ln_2(x)), keys, 3 * self.layer + 3)

    def _drop(self, x: Tensor, keys: Tensor | None, site: int) -> Tensor:
        if keys is None or not self.dropout:
            return x
        return keyed_dropout(x, site_keys(keys, site), self.dropout)


class GPT(nn.Module):
    """GPT-2 of any size. ``vocab_size`` is the tokenizer's; the table is padded beyond it."""

    def __init__(self, cfg: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.cfg, self.vocab_size = cfg, vocab_size
        self.wte = nn.Embedding(padded_vocab(vocab_size), cfg.n_embd)
        self.wpe = nn.Embedding(cfg.block_size, cfg.n_embd)
        self.h = nn.ModuleList(Block(cfg, layer) for layer in range(cfg.n_layer))
        self.ln_f = nn.LayerNorm(cfg.n_embd, bias=cfg.bias)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """GPT-2's initialization: N(0, 0.02); layers that feed the residual stream are divided
        by sqrt(2 n_layer), the number of additions to it; biases 0; padding rows 0."""
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                p.zero_()
            elif p.dim() == 1:  # LayerNorm's gain
                p.fill_(1.0)
            else:
                scale = (2 * self.cfg.n_layer) ** -0.5 if name.endswith("c_proj.weight") else 1.0
                p.normal_(0.0, 0.02 * scale, generator=generator)
        self.wte.weight[self.vocab_size:].zero_()

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (padded V, C): the token embedding itself."""
        return self.wte.weight

    def forward(self, idx: Tensor, keys: Tensor | None = None, *,
                positions: Tensor | None = None, mask: Tensor | None = None,
                cache: Cache | None = None) -> Tensor:
        """idx (B, T) int64 -> final hidden states (B, T, C), ready for the head.

        ``keys`` (B,) int32: each row's dropout key (dropout.py); None computes without dropout.
        ``positions`` (T,) or (B, T) int64 and ``mask`` (.., T, S) bool replace 0..T-1 and the
        causal triangle; ``cache`` holds the keys and values of earlier positions.
        """
        if positions is None:
            assert idx.size(1) <= self.cfg.block_size, "more positions than block_size"
            positions = torch.arange(idx.size(1), device=idx.device)
        x = self.wte(idx) + self.wpe(positions)  # (B, T, C)
        if keys is not None and self.cfg.dropout:
            x = keyed_dropout(x, site_keys(keys, 0), self.cfg.dropout)
        for block in self.h:
            x = block(x, keys, mask, cache)
        return self.ln_f(x)

    def logits(self, x: Tensor) -> Tensor:
        """Hidden states (..., C) -> float32 logits (..., V), without the padding."""
        return F.linear(x, self.head_weight)[..., :self.vocab_size].float()

    def num_parameters(self) -> int:
        """Parameters that a file would hold: the vocabulary's padding rows do not count."""
        padding = (self.wte.num_embeddings - self.vocab_size) * self.cfg.n_embd
        return sum(p.numel() for p in self.parameters()) - padding

    def flops_per_token(self, T: int) -> int:
        """Forward and backward floating-point operations a token: 6 N + 12 n_layer T C
        (PaLM, appendix B; N without position embeddings, which multiply nothing)."""
        n = self.num_parameters() - self.wpe.weight.numel()
        return 6 * n + 12 * self.cfg.n_layer * T * self.cfg.n_embd
