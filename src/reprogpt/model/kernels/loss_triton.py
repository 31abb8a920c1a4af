"""Softmax and cross-entropy of the loss on a GPU: one kernel, one program a row of logits.

A row, 100 kB in bfloat16, is read from GPU memory once, for its log-sum-exp; the second pass, which
overwrites it with the gradient, finds it in the cache (docs/speed.md has the times).
Triton comes with torch's CUDA builds alone: import this file only where it runs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(1.4426950408889634)
BLOCK, WARPS = 4096, 4
"""Logits of a row processed at a time, and the warps that process them."""


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit  # type: ignore[untyped-decorator]
def _differentiate_row(logits, targets, sums, stride, WIDTH: tl.constexpr,  # type: ignore
                       VOCAB: tl.constexpr, CAP: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    columns = tl.arange(0, BLOCK)
    highest, total = -float("inf"), 0.0
    for start in range(0, WIDTH, BLOCK):
        at = start + columns  # up to WIDTH, not VOCAB: aligned loads of 16 bytes
        x = tl.load(logits + at, mask=at < WIDTH, other=0.0).to(tl.float32)
        if CAP is not None:
            x = CAP * _tanh(x / CAP)
        x = tl.where(at < VOCAB, x, -float("inf"))
        before, highest = highest, tl.maximum(highest, tl.max(x, 0))
        total = (total * tl.exp2((before - highest) * LOG2_E)
                 + tl.sum(tl.exp2((x - highest) * LOG2_E), 0))
    log_sum = highest + tl.log2(total) / LOG2_E
    tl.store(sums + row, log_sum)
    for start in range(0, WIDTH, BLOCK):
        at = start + columns
        x = tl.load(logits + at, mask=at < WIDTH, other=0.0).to(tl.float32)
        tanh = 0.0
        if CAP is not None:
            tanh = _tanh(x / CAP)
            x = CAP * tanh
        p = tl.exp2((x - log_sum) * LOG2_E)
        gradient = p - tl.where(at == target, 1.0, 0.0)
        gradient = tl.where((at < VOCAB) & (target >= 0), gradient, 0.0)
        if CAP is not None:
            gradient *= 1 - tanh * tanh
        tl.store(logits + at, gradient.to(logits.dtype.element_ty), mask=at < WIDTH)


def differentiate(logits: Tensor, targets: Tensor, vocab_size: int, cap: float | None) -> Tensor:
    """Overwrites logits (rows, padded V) with the gradient of their nll; returns the nll (rows,)
    float32. Both are 0 where a target (rows,) int64 is negative.

    logits may have any float dtype; the arithmetic is float32 and deterministic.
    """
    assert logits.stride(1) == 1, "each row of logits must be contiguous"
    targets = targets.contiguous()
    at_target = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0].float()
    if cap is not None:
        at_target = cap * torch.tanh(at_target / cap)
    sums = torch.empty_like(at_target)
    with torch.cuda.device(logits.device):  # Triton launches on the current device
        _differentiate_row[(len(logits),)](
            logits, targets, sums, logits.stride(0), WIDTH=logits.size(1), VOCAB=vocab_size,
            CAP=cap, BLOCK=BLOCK, num_warps=WARPS)
    return (sums - at_target).masked_fill_(targets < 0, 0)
