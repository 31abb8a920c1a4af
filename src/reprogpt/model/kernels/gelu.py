"""GELU's tanh approximation by a sigmoid, which takes a third of tanh's time on a CPU.

0.5 x (1 + tanh(z / 2)) = x sigmoid(z) with z = x (LINEAR + CUBIC x^2): Hendrycks and Gimpel, 2016.
"""

import math
from typing import Any

import torch
from torch import Tensor

LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * LINEAR
CHUNK = 1 << 17
"""Values that GeluBfloat16 processes at a time: float32 buffers of 0.5 MB, which fit in a cache."""


def gelu_by_sigmoid(x: Tensor) -> Tensor:
    """The formula, for torch.compile to fuse: x (...) -> (...), computed in float32."""
    wide = x.float()
    return (wide * torch.sigmoid(wide * (LINEAR + CUBIC * wide * wide))).to(x.dtype)


class GeluBfloat16(torch.autograd.Function):
    """The same for eager training: x (...) bfloat16 -> (...) bfloat16, computed in float32.
    Forward saves the derivative instead of x, so backward is one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        y, slope = torch.empty_like(x), torch.empty_like(x)
        linear, one = torch.tensor(LINEAR), torch.ones(())
        buffers = torch.empty(3, min(CHUNK, x.numel()))
        chunks = (t.view(-1).split(CHUNK) for t in (x, y, slope))
        for x_chunk, y_chunk, slope_chunk in zip(*chunks, strict=True):
            u, s, d = buffers[:, :len(x_chunk)]
            u.copy_(x_chunk)
            torch.mul(u, u, out=s)
            torch.add(linear, s, alpha=3 * CUBIC, out=d)  # dz/dx
            torch.add(linear, s, alpha=CUBIC, out=s)
            s.mul_(u).sigmoid_()
            y_chunk.copy_(u.mul_(s))
            d.mul_(u)  # dy/dx = s + (1 - s) y dz/dx
            slope_chunk.copy_(torch.lerp(d, one, s, out=d))
        ctx.save_for_backward(slope)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * ctx.saved_tensors[0]
