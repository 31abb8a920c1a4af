"""Lecture 1's ladder: from a table of pairs to a transformer, one idea a class.

Every rung but the first is a *body* between the same two ends (:class:`Climb`)::

    idx (B, T) -> wte + wpe (B, T, C) -> body (B, T, C) -> head: W x + b -> logits (B, T, V)

    bigram       the next token from this one alone: a table           no body, no positions
    average      ... from the mean of all tokens so far                heads.py, Average
    head         ... from a mean whose weights depend on the text      heads.py, OneHead
    multihead    several such means beside each other                  heads.py, MultiHead
    feedforward  then each position thinks by itself                   MixBlock
    blocks       both, three times over: deep, and hard to train       MixBlock x n_layer
    residual     each part adds to its input instead of replacing it   ResidualBlock x n_layer
    layernorm    and sees it normalized                                PreNormBlock x n_layer
    dropout      and may rely on no single value: ready to be large    DropoutBlock x n_layer

Written to be read beside the lecture: a head is a module, the causal triangle is in sight, and
model.py is where the same network is GPT-2 in its details. Weights start as torch's defaults do,
and every Linear but a head's has a bias, as in the runs whose losses the ladder is compared to.
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
from reprogpt.model.lecture1.attention import Average, Head, Heads, MultiHead, OneHead


class Bigram(nn.Module):
    """logits of the next token = the row of the present one in a (V, V) table.

    Two characters of context would need a table of V times the rows; that is why the other rungs
    compute instead of looking up.
    """

    def __init__(self, cfg: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.cfg, self.vocab_size = cfg, vocab_size
        self.wte = nn.Embedding(vocab_size, vocab_size)
        # The row is the logits already: the head that turns "hidden states" into them does nothing.
        self.register_buffer("head_weight", torch.eye(vocab_size), persistent=False)

    def init_weights(self, generator: torch.Generator) -> None:
        """As torch does: N(0, 1)."""
        torch_defaults(self, generator)

    def forward(self, idx: Tensor, keys: Tensor | None = None, *,
                positions: Tensor | None = None, mask: Tensor | None = None,
                cache: Cache | None = None) -> Tensor:
        """idx (B, T) int64 -> (B, T, V), which are the logits. All else changes nothing here."""
        return self.wte(idx)

    def logits(self, x: Tensor) -> Tensor:
        """(..., V) -> the same, float32."""
        return x.float()

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self, T: int) -> int:
        """0: a look-up multiplies nothing."""
        return 0


class MixBlock(nn.Module):
    """Communication, then computation: heads gather, each position thinks about what it has got."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.attn = Heads(cfg)
        self.mlp = nn.Linear(cfg.n_embd, cfg.n_embd)

    def forward(self, x: Tensor, look: Tensor, keys: Tensor | None) -> Tensor:
        return F.relu(self.mlp(self.attn(x, look)))


class Blocks(nn.Module):
    """The same n_layer times. Deeper, and at first no better: the gradient must pass them all."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.h = nn.ModuleList(MixBlock(cfg) for _ in range(cfg.n_layer))

    def forward(self, x: Tensor, look: Tensor, keys: Tensor | None) -> Tensor:
        for block in self.h:
            x = block(x, look, keys)
        return x


class ResidualBlock(nn.Module):
    """x + f(x): the input goes on as it is, and the gradient comes back as it is.

    What is added needs a projection of its own, and the thinking four times the room.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.attn, self.proj = Heads(cfg), nn.Linear(cfg.n_embd, cfg.n_embd)
        self.mlp = feed_forward(cfg.n_embd)

    def forward(self, x: Tensor, look: Tensor) -> Tensor:
        x = x + self.proj(self.attn(x, look))
        return x + self.mlp(x)


class Residual(nn.Module):
    """n_layer blocks along one stream that runs from the embeddings to the head."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.h = nn.ModuleList(ResidualBlock(cfg) for _ in range(cfg.n_layer))

    def forward(self, x: Tensor, look: Tensor, keys: Tensor | None) -> Tensor:
        for block in self.h:
            x = block(x, look)
        return x


class PreNormBlock(nn.Module):
    """Each part sees its input at mean 0 and variance 1; the stream itself is left alone."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(cfg.n_embd), nn.LayerNorm(cfg.n_embd)
        self.attn, self.proj = Heads(cfg), nn.Linear(cfg.n_embd, cfg.n_embd)
        self.mlp = feed_forward(cfg.n_embd)

    def forward(self, x: Tensor, look: Tensor) -> Tensor:
        x = x + self.proj(self.attn(self.ln_1(x), look))
        return x + self.mlp(self.ln_2(x))


class PreNorm(nn.Module):
    """n_layer such blocks, and the stream normalized once more before the head."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.h = nn.ModuleList(PreNormBlock(cfg) for _ in range(cfg.n_layer))
        self.ln_f = nn.LayerNorm(cfg.n_embd)

    def forward(self, x: Tensor, look: Tensor, keys: Tensor | None) -> Tensor:
        for block in self.h:
            x = block(x, look)
        return self.ln_f(x)


class DropoutBlock(nn.Module):
    """PreNormBlock that in training loses a part of every weighting and of all that it adds."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(cfg.n_embd), nn.LayerNorm(cfg.n_embd)
        self.attn, self.proj = Heads(cfg), nn.Linear(cfg.n_embd, cfg.n_embd)
        self.mlp = feed_forward(cfg.n_embd)
        self.layer, self.dropout = layer, cfg.dropout

    def forward(self, x: Tensor, look: Tensor, keys: Tensor | None) -> Tensor:
        keys_of = [None if keys is None else site_keys(keys, 3 * self.layer + i) for i in range(3)]
        y = self.proj(self.attn(self.ln_1(x), look, keys_of[0], self.dropout))
        x = x + self._drop(y, keys_of[1])
        return x + self._drop(self.mlp(self.ln_2(x)), keys_of[2])

    def _drop(self, x: Tensor, keys: Tensor | None) -> Tensor:
        return x if keys is None or not self.dropout else keyed_dropout(x, keys, self.dropout)


class Dropout(nn.Module):
    """n_layer such blocks and the last norm: the lecture's finished network."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.h = nn.ModuleList(DropoutBlock(cfg, layer) for layer in range(cfg.n_layer))
        self.ln_f = nn.LayerNorm(cfg.n_embd)

    def forward(self, x: Tensor, look: Tensor, keys: Tensor | None) -> Tensor:
        for block in self.h:
            x = block(x, look, keys)
        return self.ln_f(x)


class Climb(nn.Module):
    """The two ends that every body has in common; with a body it speaks the protocol of GPT."""

    def __init__(self, body: type[nn.Module], cfg: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.cfg, self.vocab_size = cfg, vocab_size
        self.wte = nn.Embedding(vocab_size, cfg.n_embd)
        self.wpe = nn.Embedding(cfg.block_size, cfg.n_embd)
        self.body = body(cfg)
        self.lm_head = nn.Linear(cfg.n_embd, vocab_size)

    def init_weights(self, generator: torch.Generator) -> None:
        """As torch does."""
        torch_defaults(self, generator)

    @property
    def head_weight(self) -> Tensor:
        """(V, C + 1): the head's bias is one more column, for a channel that is always 1."""
        return torch.cat([self.lm_head.weight, self.lm_head.bias[:, None]], 1)

    def forward(self, idx: Tensor, keys: Tensor | None = None, *,
                positions: Tensor | None = None, mask: Tensor | None = None,
                cache: Cache | None = None) -> Tensor:
        """idx (B, T) int64 -> (B, T, C + 1), ready for the head; the last channel is 1.

        ``keys``, ``positions``, ``mask`` as in GPT. ``cache`` stays empty: a rung computes all
        positions anew for every token that it writes.
        """
        T = idx.size(1)
        if positions is None:
            assert self.cfg.block_size >= T, "more positions than block_size"
            positions = torch.arange(T, device=idx.device)
        look = torch.ones(T, T, dtype=torch.bool, device=idx.device).tril()
        if mask is not None:
            look = mask.squeeze(1) if mask.dim() == 4 else mask  # there is no dimension of heads
        x = self.body(self.wte(idx) + self.wpe(positions), look, keys)
        return F.pad(x, (0, 1), value=1.0)

    def logits(self, x: Tensor) -> Tensor:
        """(..., C + 1) -> float32 logits (..., V)"""
        return F.linear(x, self.head_weight).float()

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self, T: int) -> int:
        """Forward and backward: 6 for each weight that multiplies, and what mixes T positions."""
        looked_up = self.wte.weight.numel() + self.wpe.weight.numel()
        mixers = (m for m in self.modules() if isinstance(m, Average | Head | Heads))
        mixing = sum(m.mixing_flops(T) for m in mixers)
        return 6 * (self.num_parameters() - looked_up) + mixing


def feed_forward(n_embd: int) -> nn.Sequential:
    """(..., C) -> (..., C): widen four times, bend, narrow."""
    return nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.ReLU(), nn.Linear(4 * n_embd, n_embd))


@torch.no_grad()
def torch_defaults(model: nn.Module, generator: torch.Generator) -> None:
    """What torch's modules start with, from a generator that is passed in: embeddings N(0, 1),
    Linear U(-1/sqrt(fan in), +1/sqrt(fan in)), LayerNorm 1 and 0."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight.normal_(generator=generator)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            for p in module.parameters():
                p.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()


RUNGS: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "bigram": Bigram,
    "average": partial(Climb, Average),
    "head": partial(Climb, OneHead),
    "multihead": partial(Climb, MultiHead),
    "feedforward": partial(Climb, MixBlock),
    "blocks": partial(Climb, Blocks),
    "residual": partial(Climb, Residual),
    "layernorm": partial(Climb, PreNorm),
    "dropout": partial(Climb, Dropout),
}
"""From the name in `model.architecture` to what builds the rung: (ModelConfig, vocab_size)."""
