"""How surprised a model is by given tokens: the one measurement under every evaluation.

Evaluation needs -log p of a few targets, never the logits themselves. At GPT-2's vocabulary one
row of float32 logits is 200 kB, so they exist only for the positions that are scored, and only a
tile of them at a time: some rows by a slice of the vocabulary, in one small buffer that stays in
the cache.
"""

import torch
from torch import Tensor

from reprogpt.loss import MASKED, softcap

TILE_ROWS, TILE_VOCAB = 1024, 2048
"""The logits that exist at a time: 1024 x 2048 float32 = 8 MB. Many rows, because the matrix
product lays out every slice of the head anew for each group of rows, which at 128 rows took a
quarter of the time; few words, so that the passes of the softmax find the tile in the cache."""

EVAL_TOKENS = 1024
"""Tokens that go through the model at a time, unless runtime.eval_tokens says otherwise. More make
no matrix product faster, and waste more padding."""


@torch.no_grad()
def log_normalizer(hidden: Tensor, head_weight: Tensor, vocab_size: int,
                   tile: tuple[int, int] = (TILE_ROWS, TILE_VOCAB), cap: float | None = None
                   ) -> Tensor:
    """log sum over the vocabulary of exp(logit): hidden (N, C) -> (N,) float32.

    head_weight (padded V, C); the padding does not count. Logits are computed in ``hidden``'s
    dtype (autocast's, inside it) and summed in float32. ``cap``: see loss.softcap.
    """
    hidden, weight = _same_dtype(hidden, head_weight)
    rows, words = min(tile[0], len(hidden)), min(tile[1], vocab_size)
    buffer = hidden.new_empty(rows * words)
    result = hidden.new_empty(len(hidden), dtype=torch.float32)
    for start in range(0, len(hidden), tile[0]):
        x = hidden[start:start + rows]
        slices = weight[:vocab_size].split(words)
        sums = [_log_sum_exp(torch.mm(x, part.t(), out=buffer[:len(x) * len(part)]
                                      .view(len(x), len(part))), cap) for part in slices]
        result[start:start + rows] = torch.stack(sums).logsumexp(0)
    return result


def _log_sum_exp(logits: Tensor, cap: float | None) -> Tensor:
    """logits (N, V) -> (N,) float32; overwrites them."""
    logits = logits.float() if cap is None else softcap(logits.float(), cap)
    top = logits.amax(1, keepdim=True)
    return logits.sub_(top).exp_().sum(1).log_() + top[:, 0]


@torch.no_grad()
def token_nll(hidden: Tensor, head_weight: Tensor, targets: Tensor, vocab_size: int,
              cap: float | None = None) -> Tensor:
    """-log p of each target, in nats: hidden (..., C), targets (...) int64 -> (...) float32.

    0 where the target is MASKED; no logits are computed for those.
    """
    flat, wanted = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
    result = torch.zeros(len(wanted), dtype=torch.float32, device=hidden.device)
    scored = (wanted != MASKED).nonzero()[:, 0]
    if len(scored) < len(wanted):
        flat, wanted = flat[scored], wanted[scored]
    result[scored] = (log_normalizer(flat, head_weight, vocab_size, cap=cap)
                      - target_logit(flat, head_weight, wanted, cap))
    return result.view(targets.shape)


def target_logit(hidden: Tensor, head_weight: Tensor, targets: Tensor,
                 cap: float | None = None) -> Tensor:
    """The logit of one target a row: hidden (N, C), targets (N,) -> (N,) float32."""
    hidden, weight = _same_dtype(hidden, head_weight)
    logits = (hidden.float() * weight[targets].float()).sum(1)
    return logits if cap is None else softcap(logits, cap)


def _same_dtype(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    return hidden, weight.to(hidden.dtype)
