"""How surprised a model is by given tokens: the one measurement under every evaluation.

Evaluation needs -log p of a few targets, never the logits themselves. At GPT-2's vocabulary one
row of float32 logits is 200 kB, so they go through a small buffer that stays in the cache, a few
rows at a time, and only for the positions that are scored.
"""

import torch
from torch import Tensor

from reprogpt.loss import MASKED, softcap

CHUNK_ROWS = 128
"""Rows of logits that exist at a time: 128 x 50,304 float32 = 26 MB, below the 32 MB at which
glibc maps (and page-faults) every allocation anew."""

EVAL_TOKENS = 2048
"""Tokens that go through the model at a time, unless runtime.eval_tokens says otherwise. On a CPU
this keeps the widest activation of GPT-2 (2048 x 3072 float32 = 25 MB) below the same 32 MB."""


@torch.no_grad()
def log_normalizer(hidden: Tensor, head_weight: Tensor, vocab_size: int,
                   chunk_rows: int = CHUNK_ROWS, cap: float | None = None) -> Tensor:
    """log sum over the vocabulary of exp(logit): hidden (N, C) -> (N,) float32.

    head_weight (padded V, C); the padding does not count. Logits are computed in ``hidden``'s
    dtype (autocast's, inside it) and summed in float32. ``cap``: see loss.softcap.
    """
    hidden, weight = _same_dtype(hidden, head_weight)
    logits = hidden.new_empty(min(chunk_rows, len(hidden)), len(weight))
    result = hidden.new_empty(len(hidden), dtype=torch.float32)
    for start in range(0, len(hidden), chunk_rows):
        x = hidden[start:start + chunk_rows]
        chunk = torch.mm(x, weight.t(), out=logits[:len(x)])[:, :vocab_size].float()
        chunk = chunk if cap is None else softcap(chunk, cap)
        top = chunk.amax(1, keepdim=True)
        result[start:start + len(x)] = (chunk.sub_(top).exp_().sum(1).log_() + top[:, 0])
    return result


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
