"""Lecture 1's models ("rungs"), from bigram to transformer, each one idea beyond the one before.

Every rung but the first has a *body* between the same embeddings and head (:class:`Climb`)::

    idx (B, T) -> wte + wpe (B, T, C) -> body (B, T, C) -> lm_head -> logits (B, T, V)

    bigram       the next token from the current one: a table          no body, no positions
    average      ... from the mean over all tokens so far              attention.py, Average
    head         ... from a mean whose weights depend on the text      attention.py, OneHead
    multihead    several such means side by side                       attention.py, MultiHead
    feedforward  then a layer applied to each position                 MixBlock
    blocks       both, n_layer times: deep, and hard to train          Blocks of MixBlock
    residual     each layer adds to its input instead of replacing it  Blocks of ResidualBlock
    layernorm    and normalizes what it reads                          Blocks of PreNormBlock
    dropout      and drops values in training: ready to be large       Blocks of DropoutBlock

Written to be read beside the lecture; the same network with GPT-2's details is gpt.py. Weights
start at torch's defaults, and every Linear but a head's has a bias, as in the runs whose losses the
ladder is compared to.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprogpt.config import ModelConfig
from reprogpt.model.dropout import keyed_dropout, site_keys
from reprogpt.model.gpt import Cache
from reprogpt.model.lecture1.attention import Average, Heads, MultiHead, OneHead


@torch.no_grad()
def torch_defaults(model: nn.Module, generator: torch.Generator) -> None:
    """torch's default initialization, drawn from ``generator``: embeddings N(0, 1), Linear
    U(-1/sqrt(fan in), +1/sqrt(fan in)), LayerNorm 1 and 0."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight.normal_(generator=generator)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            for p in module.parameters():
                p.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()


class Bigram(nn.Module):
    """A (V, V) table: the row of the current token holds the logits of the next one.
    Two tokens of context would need V times as many rows: the other rungs compute."""

    def __init__(self, cfg: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.cfg, self.vocab_size = cfg, vocab_size
        self.wte = nn.Embedding(vocab_size, vocab_size)
        # Hidden states are logits already, so the head is the identity.
        self.register_buffer("head_weight", torch.eye(vocab_size), persistent=False)

    init_weights = torch_defaults

    def forward(self, idx: Tensor, dropout_keys: Tensor | None = None, *,
                positions: Tensor | None = None, mask: Tensor | None = None,
                cache: Cache | None = None) -> Tensor:
        """idx (B, T) int64 -> logits (B, T, V). The other arguments, those of GPT, do nothing."""
        return self.wte(idx)

    def logits(self, x: Tensor) -> Tensor:
        """(..., V) -> the same in float32."""
        return x.float()

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self, T: int) -> int:
        """0: a table look-up multiplies nothing."""
        return 0


def feed_forward(n_embd: int) -> nn.Sequential:
    """(..., C) -> (..., 4 C) -> ReLU -> (..., C)"""
    return nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.ReLU(), nn.Linear(4 * n_embd, n_embd))


class MixBlock(nn.Module):
    """Communication, then computation: attention, then a layer applied to each position."""

    def __init__(self, cfg: ModelConfig, layer: int = 0) -> None:
        super().__init__()
        self.attn = Heads(cfg)
        self.mlp = nn.Linear(cfg.n_embd, cfg.n_embd)

    def forward(self, x: Tensor, mask: Tensor, dropout_keys: Tensor | None) -> Tensor:
        return F.relu(self.mlp(self.attn(x, mask)))


class ResidualBlock(nn.Module):
    """x + f(x): input and gradient pass unchanged beside the layer.
    The attention gets an output projection, the feed-forward layer four times the width."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attn, self.proj = Heads(cfg), nn.Linear(cfg.n_embd, cfg.n_embd)
        self.mlp = feed_forward(cfg.n_embd)

    def forward(self, x: Tensor, mask: Tensor, dropout_keys: Tensor | None) -> Tensor:
        x = x + self.proj(self.attn(x, mask))
        return x + self.mlp(x)


class PreNormBlock(nn.Module):
    """ResidualBlock whose layers read a normalized input; the residual stream is not normalized."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(cfg.n_embd), nn.LayerNorm(cfg.n_embd)
        self.attn, self.proj = Heads(cfg), nn.Linear(cfg.n_embd, cfg.n_embd)
        self.mlp = feed_forward(cfg.n_embd)

    def forward(self, x: Tensor, mask: Tensor, dropout_keys: Tensor | None) -> Tensor:
        x = x + self.proj(self.attn(self.ln_1(x), mask))
        return x + self.mlp(self.ln_2(x))


class DropoutBlock(nn.Module):
    """PreNormBlock with dropout of attention weights and of what each layer adds."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(cfg.n_embd), nn.LayerNorm(cfg.n_embd)
        self.attn, self.proj = Heads(cfg), nn.Linear(cfg.n_embd, cfg.n_embd)
        self.mlp = feed_forward(cfg.n_embd)
        self.layer, self.dropout = layer, cfg.dropout

    def forward(self, x: Tensor, mask: Tensor, dropout_keys: Tensor | None) -> Tensor:
        keys = [site_keys(dropout_keys, 3 * self.layer + site) for site in range(3)]
        y = self.proj(self.attn(self.ln_1(x), mask, keys[0], self.dropout))
        x = x + keyed_dropout(y, keys[1], self.dropout)
        return x + keyed_dropout(self.mlp(self.ln_2(x)), keys[2], self.dropout)


class Blocks(nn.Module):
    """n_layer blocks, one after the other; with ``final_norm`` a LayerNorm before the head."""

    def __init__(self, block: Callable[[ModelConfig, int], nn.Module], final_norm: bool,
                 cfg: ModelConfig) -> None:
        super().__init__()
        self.h = nn.ModuleList(block(cfg, layer) for layer in range(cfg.n_layer))
        self.ln_f = nn.LayerNorm(cfg.n_embd) if final_norm else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor, dropout_keys: Tensor | None) -> Tensor:
        for block in self.h:
            x = block(x, mask, dropout_keys)
        return self.ln_f(x)


class Climb(nn.Module):
    """A body between embeddings and head; has the methods of GPT."""

    def __init__(self, body: Callable[[ModelConfig], nn.Module], cfg: ModelConfig, vocab_size: int
                 ) -> None:
        super().__init__()
        self.cfg, self.vocab_size = cfg, vocab_size
        self.wte = nn.Embedding(vocab_size, cfg.n_embd)
        self.wpe = nn.Embedding(cfg.block_size, cfg.n_embd)
        self.body = body(cfg)
        self.lm_head = nn.Linear(cfg.n_embd, vocab_size)

    init_weights = torch_defaults

    @property
    def head_weight(self) -> Tensor:
        """(V, C + 1): the head's bias is a last column, for a channel that is always 1."""
        return torch.cat([self.lm_head.weight, self.lm_head.bias[:, None]], 1)

    def forward(self, idx: Tensor, dropout_keys: Tensor | None = None, *,
                positions: Tensor | None = None, mask: Tensor | None = None,
                cache: Cache | None = None) -> Tensor:
        """idx (B, T) int64 -> (B, T, C + 1), ready for the head; the last channel is 1. The other
        arguments as in GPT, but ``cache`` stays empty: all positions are computed again."""
        T = idx.size(1)
        if positions is None:
            assert self.cfg.block_size >= T, "more positions than block_size"
            positions = torch.arange(T, device=idx.device)
        if mask is None:
            mask = torch.ones(T, T, dtype=torch.bool, device=idx.device).tril()
        elif mask.dim() == 4:
            mask = mask.squeeze(1)  # a body has no dimension of heads
        x = self.body(self.wte(idx) + self.wpe(positions), mask, dropout_keys)
        return F.pad(x, (0, 1), value=1.0)

    def logits(self, x: Tensor) -> Tensor:
        """(..., C + 1) -> float32 logits (..., V)"""
        return F.linear(x, self.head_weight).float()

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self, T: int) -> int:
        """Floating-point operations of forward and backward per token: 6 for each weight that
        multiplies, and per layer 12 T C for attention or 6 T C for a mean."""
        looked_up = self.wte.weight.numel() + self.wpe.weight.numel()
        means = sum(1 if isinstance(m, Average) else 2 for m in self.modules()
                    if isinstance(m, Average | OneHead | MultiHead | Heads))
        return 6 * (self.num_parameters() - looked_up + means * T * self.cfg.n_embd)


RUNGS: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "bigram": Bigram,
    "average": partial(Climb, Average),
    "head": partial(Climb, OneHead),
    "multihead": partial(Climb, MultiHead),
    "feedforward": partial(Climb, MixBlock),
    "blocks": partial(Climb, partial(Blocks, MixBlock, False)),
    "residual": partial(Climb, partial(Blocks, ResidualBlock, False)),
    "layernorm": partial(Climb, partial(Blocks, PreNormBlock, True)),
    "dropout": partial(Climb, partial(Blocks, DropoutBlock, True)),
}
"""The architectures by name: what builds each from (ModelConfig, vocab_size)."""
