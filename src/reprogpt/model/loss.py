"""Cross-entropy summed over the targets, not averaged.

The caller divides by the number of valid targets in the global batch, so the gradient does not
depend on how the batch is split into micro-batches and processes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from reprogpt.model.kernels.loss_chunks import nll_in_chunks

MASKED = -1
"""The target of a position that is not trained on."""


def nll(hidden: Tensor, head_weight: Tensor, targets: Tensor, vocab_size: int,
        chunk_rows: int | None = None, cap: float | None = None) -> Tensor:
    """Negative log-likelihood, summed over the targets, in nats: a float32 scalar.

    hidden (..., C), head_weight (padded V, C), targets (...) int64, MASKED where there is nothing
    to predict. With ``chunk_rows`` the logits exist only for that many rows at a time.
    """
    hidden, targets = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
    if chunk_rows is not None:
        return nll_in_chunks(hidden, head_weight, targets, vocab_size, chunk_rows, cap)
    logits = softcap(F.linear(hidden, head_weight)[:, :vocab_size].float(), cap)
    return F.cross_entropy(logits, targets, ignore_index=MASKED, reduction="sum")


def softcap(logits: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(logits / cap): keeps logits within +-cap (Gemma 2, section 2). None: no cap."""
    return logits if cap is None else cap * torch.tanh(logits / cap)
