"""GPT-2: token ids in, hidden states out, with the loss in loss.py.

    idx (B, T) -> wte + wpe (B, T, C) -> n_layer x [x + attn(ln_1(x)); x + mlp(ln_2(x))]
               -> ln_f (B, T, C) -> logits (B, T, V) = ln_f(x) @ wte.T -> loss.nll

B rows, T positions, C = n_embd channels, V = vocab_size. The architecture is that of Radford et
al. (2019) and of the released weights: pre-LayerNorm (eps 1e-5), GELU by its tanh approximation,
learned positions, tied head. All else is a switch in config.ModelConfig, off by default. `gelu` and
`scaled_dot_product_attention` are torch's, or a faster path with the same values (kernels/).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprogpt.config import ModelConfig
from reprogpt.model import switches
from reprogpt.model.dropout import keyed_dropout, site_keys
from reprogpt.model.kernels.attention import causal_attention
from reprogpt.model.kernels.choose import (
    attention_in_blocks,
    gelu,
    rms_norm,
    scaled_dot_product_attention,
    squared_relu,
)
from reprogpt.model.loss import softcap
from reprogpt.model.ngram_embeds import NgramEmbeds

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": gelu,
    "gelu": F.gelu,
    "relu2": squared_relu,
    "silu": F.silu,
    "swiglu": F.silu,  # of the gate: see MLP (Shazeer, 2020)
}
VOCAB_MULTIPLE = 64
"""The vocabulary is padded to a multiple of this, 50,257 -> 50,304, which makes faster matrix
products. The padding exists in memory only: not in files, not in the loss, not in samples."""


def padded_vocab(vocab_size: int) -> int:
    """``vocab_size`` rounded up to a multiple of VOCAB_MULTIPLE."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


class Cache(Protocol):
    """Keys and values of earlier positions (generation/kv_cache.py)."""

    length: int
    """The number of cached positions; the last layer's append adds to it."""
    recent: Tensor | None
    """The last tokens, for model.ngram_rows."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New k, v (B, kv_heads, T, D) of a layer -> all of its k, v so far (.., S, D)."""
        ...


class Context(NamedTuple):
    """Arguments that are the same for every block; dropout_keys, mask and cache as in GPT."""

    dropout_keys: Tensor | None = None
    mask: Tensor | None = None
    cache: Cache | None = None
    angles: Tensor | None = None
    """rotary_angles of the positions"""
    window_mask: Tensor | None = None
    """mask of the layers with a window"""
    in_blocks: bool = False
    """Use kernels.attention.causal_attention, which applies window and dropout itself."""


class RMSNorm(nn.RMSNorm):
    """torch's module: x (..., C) -> (..., C)."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, 1e-5)


def norm(cfg: ModelConfig, present: bool = True) -> nn.Module:
    """The norm that ``cfg.norm`` names: (..., C) -> (..., C). Identity if it is not ``present``."""
    if not present:
        return nn.Identity()
    if cfg.norm == "rmsnorm":
        return RMSNorm(cfg.n_embd)
    return nn.LayerNorm(cfg.n_embd, bias=cfg.bias)


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which no position sees a later one."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head, self.dropout = layer, cfg.n_head, cfg.dropout_of("attention")
        long = cfg.long_every is not None and (layer + 1) % cfg.long_every == 0
        self.qk_norm, self.window = cfg.qk_norm, None if long else cfg.window
        self.widths = [cfg.n_embd, cfg.kv_width, cfg.kv_width]  # of q, k, v
        self.c_attn = nn.Linear(cfg.n_embd, sum(self.widths), bias=cfg.bias)
        self.c_proj = nn.Linear(cfg.n_embd, cfg.n_embd, bias=cfg.bias)
        if switches.has_value_embed(cfg, layer):
            self.value_mix = nn.Parameter(torch.tensor([0.5, 0.5]))

    def forward(self, x: Tensor, context: Context, value_embed: Tensor | None = None) -> Tensor:
        """x (B, T, C), value_embed (B, T, kv_width) -> (B, T, C)"""
        B, T, C = x.shape
        D = C // self.n_head
        q, k, v = (part.view(B, T, part.size(-1) // D, D)  # (B, T, heads, D)
                   for part in self.c_attn(x).split(self.widths, -1))
        if value_embed is not None:
            mix = self.value_mix
            v = (mix[0] * v + mix[1] * value_embed.view_as(v)).to(v.dtype)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, heads, T, D)
        if self.qk_norm:
            q, k = rms_norm(q), rms_norm(k)
        if context.angles is not None:
            q, k = switches.rotate(q, context.angles), switches.rotate(k, context.angles)
        q, k = q.to(v.dtype), k.to(v.dtype)  # autocast's rms_norm returns float32
        if context.cache is not None:
            k, v = context.cache.append(self.layer, k, v)
        if k.size(1) < self.n_head:  # each head of k and v serves the next n_head / kv_heads of q
            k, v = (x.repeat_interleave(self.n_head // x.size(1), 1) for x in (k, v))
        if context.in_blocks:
            keys = site_keys(context.dropout_keys, 3 * self.layer + 1)
            y = causal_attention(q, k, v, self.window, self.dropout, keys)
        else:
            mask = context.mask if self.window is None else context.window_mask
            causal = mask is None and T > 1
            y = scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """The feed-forward layer: C -> 4 C, an activation, 4 C -> C, at each position."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[cfg.activation]
        gated = cfg.activation == "swiglu"
        width = padded_vocab(8 * cfg.n_embd // 3) if gated else 4 * cfg.n_embd
        self.c_fc = nn.Linear(cfg.n_embd, width, bias=cfg.bias)
        self.c_gate = nn.Linear(cfg.n_embd, width, bias=cfg.bias) if gated else None
        self.c_proj = nn.Linear(width, cfg.n_embd, bias=cfg.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        if self.c_gate is not None:
            return self.c_proj(self.activation(self.c_gate(x)) * self.c_fc(x))
        return self.c_proj(self.activation(self.c_fc(x)))


class Block(nn.Module):
    """A transformer block: attention, then MLP, each added to the residual stream."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.dropout = layer, cfg.dropout_of("residual")
        self.post_norm = cfg.norm_position == "post"
        self.ln_1 = norm(cfg, cfg.norm_position != "none")
        self.attn = CausalSelfAttention(cfg, layer)
        self.ln_2 = norm(cfg, cfg.norm_position != "none")
        self.mlp = MLP(cfg)
        if cfg.x0_skip:
            self.x0_mix = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor, context: Context, x0: Tensor | None = None,
                value_embed: Tensor | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C); x0 (B, T, C) and value_embed (B, T, kv_width) where the model
        has them."""
        if x0 is not None:
            x = self.x0_mix[0] * x + self.x0_mix[1] * x0
        keys = [site_keys(context.dropout_keys, 3 * self.layer + site) for site in (2, 3)]
        if self.post_norm:
            y = self.attn(x, context, value_embed)
            x = self.ln_1(x + keyed_dropout(y, keys[0], self.dropout))
            return self.ln_2(x + keyed_dropout(self.mlp(x), keys[1], self.dropout))
        y = self.attn(self.ln_1(x), context, value_embed)
        x = x + keyed_dropout(y, keys[0], self.dropout)
        return x + keyed_dropout(self.mlp(self.ln_2(x)), keys[1], self.dropout)


class GPT(nn.Module):
    """GPT-2 of any size. ``vocab_size`` is the tokenizer's; the token embedding is padded."""

    def __init__(self, cfg: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.cfg, self.vocab_size, self.logit_softcap = cfg, vocab_size, cfg.logit_softcap
        rows = padded_vocab(vocab_size)
        self.wte = nn.Embedding(rows, cfg.n_embd)
        if cfg.position == "learned":
            self.wpe = nn.Embedding(cfg.block_size, cfg.n_embd)
        if cfg.embed_norm:
            self.ln_0 = norm(cfg)
        self.value_embeds = switches.ValueEmbeds(cfg, rows)
        self.h = nn.ModuleList(Block(cfg, layer) for layer in range(cfg.n_layer))
        self.ln_f = norm(cfg, cfg.norm_position == "pre")
        if not cfg.tied_head:
            self.lm_head = nn.Linear(cfg.n_embd, rows, bias=False)
        self.ngram_embeds = NgramEmbeds(cfg)  # last: the weights before are drawn as without it

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (padded V, C): the token embedding, unless it is untied."""
        return self.wte.weight if self.cfg.tied_head else self.lm_head.weight

    def forward(self, idx: Tensor, dropout_keys: Tensor | None = None, *,
                positions: Tensor | None = None, mask: Tensor | None = None,
                cache: Cache | None = None) -> Tensor:
        """idx (B, T) int64 -> final hidden states (B, T, C), ready for the head.

        ``dropout_keys`` (B,) int32 from dropout.row_keys; None means no dropout.
        ``positions`` (T,) or (B, T) int64 and ``mask`` (.., T, S) bool, True where a query may
        attend to a key, replace 0..T-1 and the causal mask; ``cache``: of earlier positions.
        """
        cfg, T = self.cfg, idx.size(1)
        if not cfg.dropout:
            dropout_keys = None
        in_blocks, window_mask = self._attention(idx, dropout_keys, positions, mask, cache)
        if positions is None:
            assert cfg.block_size >= T, "more positions than block_size"
            positions = torch.arange(T, device=idx.device)
        x, angles = self.wte(idx), None  # (B, T, C)
        if cfg.position == "learned":
            x = x + self.wpe(positions)
        elif cfg.position == "sinusoidal":
            x = x * cfg.n_embd ** 0.5 + switches.sinusoids(positions, cfg.n_embd)
        elif cfg.position == "rope":
            angles = switches.rotary_angles(positions, cfg.n_embd // cfg.n_head, cfg.rope_base)
        for ngram_embed in self.ngram_embeds(idx, positions, mask, cache):
            x = x + ngram_embed
        if cfg.embed_norm:
            x = self.ln_0(x)
        x = keyed_dropout(x, site_keys(dropout_keys, 0), cfg.dropout_of("embedding"))
        context = Context(dropout_keys, mask, cache, angles, window_mask, in_blocks)
        x0 = x if cfg.x0_skip else None
        for block, value_embed in zip(self.h, self.value_embeds(idx), strict=True):
            x = block(x, context, x0, value_embed)
        return self.ln_f(x)

    def _attention(self, idx: Tensor, dropout_keys: Tensor | None, positions: Tensor | None,
                   mask: Tensor | None, cache: Cache | None) -> tuple[bool, Tensor | None]:
        """in_blocks and window_mask of the Context."""
        cfg, T = self.cfg, idx.size(1)
        causal = mask is None and positions is None and cache is None
        keys = T if cfg.window is None or cfg.long_every else min(T, cfg.window)
        dropping = dropout_keys is not None and cfg.dropout_of("attention") > 0
        in_blocks = causal and attention_in_blocks(idx.device, keys, dropping)
        window_mask = None
        if cfg.window is not None and not in_blocks:
            window_mask = switches.sliding_window(
                cfg.window, T, 0 if cache is None else cache.length, mask,
                positions if cache is None else None, idx.device)
        return in_blocks, window_mask

    def logits(self, x: Tensor) -> Tensor:
        """Hidden states (..., C) -> float32 logits (..., V), without the padding."""
        logits = F.linear(x, self.head_weight)[..., :self.vocab_size].float()
        return softcap(logits, self.logit_softcap)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """GPT-2's initialization: N(0, 0.02); projections into the residual stream divided by
        sqrt(2 n_layer), the number of additions to it; biases and padding rows 0; gains 1."""
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                p.zero_()
            elif name.endswith("_mix"):
                p.copy_(torch.tensor([1.0, 0.0] if "x0" in name else [0.5, 0.5]))
            elif p.dim() == 1:  # a norm's gain
                p.fill_(1.0)
            else:
                p.normal_(0.0, self._init_std(name, p), generator=generator)
        for table in (self.wte, *self.value_embeds):
            table.weight[self.vocab_size:].zero_()
        self.head_weight[self.vocab_size:].zero_()

    def _init_std(self, name: str, p: Tensor) -> float:
        if name.startswith("ngram"):  # an n-gram that was never seen adds nothing
            return 0.0
        into_residual = name.endswith("c_proj.weight")
        if self.cfg.zero_init and (into_residual or name == "lm_head.weight"):
            return 0.0
        if self.cfg.init == "fan_in":
            return 1.0 if name.startswith(("wte", "wpe", "value")) else (3 * p.size(1)) ** -0.5
        return 0.02 * ((2 * self.cfg.n_layer) ** -0.5 if into_residual else 1.0)

    def num_parameters(self) -> int:
        """The number of parameters, without the vocabulary's padding."""
        cfg = self.cfg
        width = (1 + (not cfg.tied_head)) * cfg.n_embd + len(self.value_embeds) * cfg.kv_width
        padding = (self.wte.num_embeddings - self.vocab_size) * width
        return sum(p.numel() for p in self.parameters()) - padding

    def flops_per_token(self, T: int) -> int:
        """Floating-point operations of forward and backward per token: 6 N + 12 n_layer T C
        (PaLM, appendix B), N without tables that are only looked up."""
        cfg, C, V = self.cfg, self.cfg.n_embd, self.vocab_size
        looked_up = (len(self.value_embeds) * cfg.kv_width + (not cfg.tied_head) * C) * V
        if cfg.position == "learned":
            looked_up += self.wpe.weight.numel()
        looked_up += sum(p.numel() for p in self.ngram_embeds.parameters())
        return 6 * (self.num_parameters() - looked_up) + 12 * cfg.n_layer * T * C
