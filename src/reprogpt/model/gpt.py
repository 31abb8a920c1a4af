"""GPT-2, whole: text goes in as token ids, comes out as a hidden state per position.

One tensor, followed from the input to the loss::

    idx (B, T) -> wte + wpe (B, T, C) -> n_layer x [x + attn(ln_1(x)); x + mlp(ln_2(x))]
               -> ln_f (B, T, C) -> logits (B, T, V) = ln_f(x) @ wte.T -> loss.py

B rows, T positions, C = n_embd channels, V = vocab_size. The architecture is that of "Language
Models are Unsupervised Multitask Learners" (Radford et al., 2019) and of the released weights:
pre-LayerNorm (eps 1e-5), GELU by its tanh approximation, learned positions, tied head. What came
later stands behind switches (config.ModelConfig), one branch each, all off.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprogpt.config import ModelConfig
from reprogpt.model.activations import ACTIVATIONS
from reprogpt.model.attention import attention, causal_attention, in_blocks_pays
from reprogpt.model.dropout import keyed_dropout, site_keys
from reprogpt.model.loss import softcap

VOCAB_MULTIPLE = 64
"""The vocabulary is padded to a multiple of this: 50,257 -> 50,304 keeps matrix tiles whole.
The padding lives in memory only; no file holds it, and no loss or sample sees it."""


class Cache(Protocol):
    """Keys and values of the positions already computed (decoding.py has one)."""

    length: int
    """How many positions those are, until the last layer has appended the next ones."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New k, v (B, n_head, T, D) of a layer -> all of its k, v so far (B, n_head, S, D)."""
        ...


def padded_vocab(vocab_size: int) -> int:
    """``vocab_size`` rounded up to a multiple of VOCAB_MULTIPLE."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def norm(cfg: ModelConfig) -> nn.Module:
    """The normalization of the residual stream that ``cfg.norm`` names: (..., C) -> (..., C)."""
    if cfg.norm == "rmsnorm":
        return nn.RMSNorm(cfg.n_embd, eps=1e-5)
    return nn.LayerNorm(cfg.n_embd, bias=cfg.bias)


def rotation(positions: Tensor, head_dim: int, base: float) -> Tensor:
    """Angles' cosines and sines: positions (..., T) -> (2, ..., 1, T, head_dim / 2) float32."""
    steps = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = (positions[..., None].float() * base ** -steps).unsqueeze(-3)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """x (B, n_head, T, D) with channels i and i + D/2 of each position turned by its angle i."""
    a, b = x.float().chunk(2, -1)
    cos, sin = turn[0], turn[1]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class Context(NamedTuple):
    """What every block is told besides x."""

    keys: Tensor | None = None
    """the rows' dropout keys; None drops nothing"""
    mask: Tensor | None = None
    """(.., T, S) bool: True where a query may look; None is the causal triangle."""
    cache: Cache | None = None
    turn: Tensor | None = None
    """:func:`rotation` of the positions"""
    blocks: bool = False
    """causal_attention, which knows the window; else attention, which is given a mask"""


class CausalSelfAttention(nn.Module):
    """Every position looks back at itself and all before it, n_head times in parallel."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head, self.dropout = layer, cfg.n_head, cfg.dropout
        self.qk_norm, self.window = cfg.qk_norm, cfg.window
        self.c_attn = nn.Linear(cfg.n_embd, 3 * cfg.n_embd, bias=cfg.bias)  # q, k, v
        self.c_proj = nn.Linear(cfg.n_embd, cfg.n_embd, bias=cfg.bias)
        if layer_has_value_embeds(cfg, layer):
            self.value_mix = nn.Parameter(torch.tensor([0.5, 0.5]))

    def forward(self, x: Tensor, context: Context, values: Tensor | None = None) -> Tensor:
        """x, values (B, T, C) -> (B, T, C)"""
        B, T, C = x.shape
        keys, mask, cache, turn, blocks = context
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head).unbind(2)
        if values is not None:
            mine, other = self.value_mix
            v = (mine * v + other * values.view_as(v)).to(v.dtype)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, n_head, T, D)
        if self.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        q, k = q.to(v.dtype), k.to(v.dtype)  # autocast normalizes in float32
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        if blocks:
            if keys is not None:
                keys = site_keys(keys, 3 * self.layer + 1)
            y = causal_attention(q, k, v, self.window, self.dropout, keys)
        else:
            y = attention(q, k, v, mask)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Each position thinks by itself: widen four times, bend, narrow."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[cfg.activation]
        gated = cfg.activation == "swiglu"
        width = padded_vocab(8 * cfg.n_embd // 3) if gated else 4 * cfg.n_embd  # whole tiles
        self.c_fc = nn.Linear(cfg.n_embd, width, bias=cfg.bias)
        self.c_gate = nn.Linear(cfg.n_embd, width, bias=cfg.bias) if gated else None
        self.c_proj = nn.Linear(width, cfg.n_embd, bias=cfg.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        if self.c_gate is not None:
            return self.c_proj(self.activation(self.c_gate(x)) * self.c_fc(x))
        return self.c_proj(self.activation(self.c_fc(x)))


class Block(nn.Module):
    """Communication, then computation, each added to the residual stream."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.dropout = layer, cfg.dropout
        self.ln_1 = norm(cfg)
        self.attn = CausalSelfAttention(cfg, layer)
        self.ln_2 = norm(cfg)
        self.mlp = MLP(cfg)
        if cfg.x0_skip:
            self.x0_mix = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor, context: Context, x0: Tensor | None = None,
                values: Tensor | None = None) -> Tensor:
        """x, and the embedding x0 and value embeddings where the model has them: (B, T, C)."""
        if x0 is not None:
            x = self.x0_mix[0] * x + self.x0_mix[1] * x0
        keys = context.keys
        x = x + self._drop(self.attn(self.ln_1(x), context, values), keys, 3 * self.layer + 2)
        return x + self._drop(self.mlp(self.ln_2(x)), keys, 3 * self.layer + 3)

    def _drop(self, x: Tensor, keys: Tensor | None, site: int) -> Tensor:
        if keys is None:
            return x
        return keyed_dropout(x, site_keys(keys, site), self.dropout)


def layer_has_value_embeds(cfg: ModelConfig, layer: int) -> bool:
    """The first and last three layers (fewer in a shallow model), as in modded-nanogpt."""
    tables = value_tables(cfg)
    return layer < tables or layer >= cfg.n_layer - tables


def value_tables(cfg: ModelConfig) -> int:
    """How many tables of value embeddings there are: the i-th serves the i-th of the first and
    the i-th of the last layers."""
    return min(3, cfg.n_layer // 2) if cfg.value_embeds else 0


class GPT(nn.Module):
    """GPT-2 of any size. ``vocab_size`` is the tokenizer's; the table is padded beyond it."""

    def __init__(self, cfg: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.cfg, self.vocab_size = cfg, vocab_size
        self.logit_softcap = cfg.logit_softcap
        rows = padded_vocab(vocab_size)
        self.wte = nn.Embedding(rows, cfg.n_embd)
        if cfg.position == "learned":
            self.wpe = nn.Embedding(cfg.block_size, cfg.n_embd)
        if cfg.embed_norm:
            self.ln_0 = norm(cfg)
        tables = (nn.Embedding(rows, cfg.n_embd) for _ in range(value_tables(cfg)))
        self.value_embeds = nn.ModuleList(tables)
        self.h = nn.ModuleList(Block(cfg, layer) for layer in range(cfg.n_layer))
        self.ln_f = norm(cfg)
        if not cfg.tied_head:
            self.lm_head = nn.Linear(cfg.n_embd, rows, bias=False)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """GPT-2's initialization: N(0, 0.02); layers that feed the residual stream are divided
        by sqrt(2 n_layer), the number of additions to it; biases 0; padding rows 0."""
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                p.zero_()
            elif name.endswith("_mix"):
                p.copy_(torch.tensor([1.0, 0.0] if "x0" in name else [0.5, 0.5]))
            elif p.dim() == 1:  # a norm's gain
                p.fill_(1.0)
            else:
                p.normal_(0.0, self._scale(name, p), generator=generator)
        for table in (self.wte, *self.value_embeds):
            table.weight[self.vocab_size:].zero_()
        self.head_weight[self.vocab_size:].zero_()

    def _scale(self, name: str, p: Tensor) -> float:
        """The standard deviation that a matrix starts with."""
        into_residual = name.endswith("c_proj.weight")
        if self.cfg.zero_init and (into_residual or name == "lm_head.weight"):
            return 0.0
        if self.cfg.init == "fan_in":
            return 1.0 if name.startswith(("wte", "wpe", "value")) else (3 * p.size(1)) ** -0.5
        return 0.02 * ((2 * self.cfg.n_layer) ** -0.5 if into_residual else 1.0)

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (padded V, C): the token embedding itself, unless it is untied."""
        return self.wte.weight if self.cfg.tied_head else self.lm_head.weight

    def forward(self, idx: Tensor, keys: Tensor | None = None, *,
                positions: Tensor | None = None, mask: Tensor | None = None,
                cache: Cache | None = None) -> Tensor:
        """idx (B, T) int64 -> final hidden states (B, T, C), ready for the head.

        ``keys`` (B,) int32: each row's dropout key (dropout.py); None computes without dropout.
        ``positions`` (T,) or (B, T) int64 and ``mask`` (.., T, S) bool replace 0..T-1 and the
        causal triangle; ``cache`` holds the keys and values of earlier positions.
        """
        cfg, T = self.cfg, idx.size(1)
        if not cfg.dropout:
            keys = None
        plain = mask is None and positions is None and cache is None
        blocks = plain and (keys is not None or in_blocks_pays(idx.device, min(T, cfg.window or T)))
        if cfg.window is not None and not blocks:
            mask = self._windowed(idx, positions, mask, cache)
        if positions is None:
            assert cfg.block_size >= T, "more positions than block_size"
            positions = torch.arange(T, device=idx.device)
        x, turn = self.wte(idx), None  # (B, T, C)
        if cfg.position == "rope":
            turn = rotation(positions, cfg.n_embd // cfg.n_head, cfg.rope_base)
        else:
            x = x + self.wpe(positions)
        if cfg.embed_norm:
            x = self.ln_0(x)
        if keys is not None:
            x = keyed_dropout(x, site_keys(keys, 0), cfg.dropout)
        context, x0 = Context(keys, mask, cache, turn, blocks), x if cfg.x0_skip else None
        for block, values in zip(self.h, self._values(idx), strict=True):
            x = block(x, context, x0, values)
        return self.ln_f(x)

    def _values(self, idx: Tensor) -> list[Tensor | None]:
        """Each layer's value embeddings (B, T, C), None where it has none."""
        ends: list[Tensor | None] = [table(idx) for table in self.value_embeds]
        return ends + [None] * (self.cfg.n_layer - 2 * len(ends)) + ends

    def _windowed(self, idx: Tensor, positions: Tensor | None, mask: Tensor | None,
                  cache: Cache | None) -> Tensor:
        """``mask`` (or the causal triangle), and no further back than ``cfg.window``."""
        assert self.cfg.window is not None
        T, past = idx.size(1), cache.length if cache is not None else 0
        columns = torch.arange(past + T, device=idx.device)
        back = columns[past:, None] - columns  # (T, S): how far back each key lies
        triangle = (back >= 0) if mask is None else mask
        if positions is not None and cache is None:  # positions need not follow the columns
            back = positions[..., :, None] - positions[..., None, :]
            back = back if back.dim() == 2 else back[:, None]  # (B, 1, T, T): every head
        return triangle & (back < self.cfg.window)

    def logits(self, x: Tensor) -> Tensor:
        """Hidden states (..., C) -> float32 logits (..., V), without the padding."""
        logits = F.linear(x, self.head_weight)[..., :self.vocab_size].float()
        return logits if self.logit_softcap is None else softcap(logits, self.logit_softcap)

    def num_parameters(self) -> int:
        """Parameters that a file would hold: the vocabulary's padding rows do not count."""
        tables = 1 + len(self.value_embeds) + (not self.cfg.tied_head)
        padding = tables * (self.wte.num_embeddings - self.vocab_size) * self.cfg.n_embd
        return sum(p.numel() for p in self.parameters()) - padding

    def flops_per_token(self, T: int) -> int:
        """Forward and backward floating-point operations a token: 6 N + 12 n_layer T C
        (PaLM, appendix B; N without what is only looked up and multiplies nothing: positions,
        value embeddings, and the token embedding when the head is a matrix of its own)."""
        C, V = self.cfg.n_embd, self.vocab_size
        looked_up = (len(self.value_embeds) + (not self.cfg.tied_head)) * V * C
        if self.cfg.position == "learned":
            looked_up += self.wpe.weight.numel()
        n = self.num_parameters() - looked_up
        return 6 * n + 12 * self.cfg.n_layer * T * self.cfg.n_embd
