"""The bends of a feed-forward layer, by the name that `model.activation` gives them."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * LINEAR
"""GELU's tanh approximation (Hendrycks and Gimpel, 2016), 0.5 x (1 + tanh(z / 2)), is
x sigmoid(z) with z = x (LINEAR + CUBIC x^2)."""

PIECE = 1 << 17
"""Values that go through all of GELU at a time: 1.5 MB of float32 in three buffers, of a cache."""


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's GELU. On a CPU torch's own spends its time in tanh, which takes three times as long
    there as a sigmoid (in float32 six): so compiled code, and training in bfloat16, go by that."""
    if x.device.type == "cpu" and torch.compiler.is_compiling():
        wide = x.float()
        return (wide * torch.sigmoid(wide * (LINEAR + CUBIC * wide * wide))).to(x.dtype)
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.requires_grad:
        y: Tensor = _Gelu.apply(x)
        return y
    return F.gelu(x, approximate="tanh")


class _Gelu(torch.autograd.Function):
    """bfloat16 in and out, float32 between. The derivative is made on the way and kept instead of
    x, so that backward is one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        y, slope = torch.empty_like(x), torch.empty_like(x)
        linear, one = torch.tensor(LINEAR), torch.ones(())
        buffers = torch.empty(3, min(PIECE, x.numel()))
        pieces = (t.view(-1).split(PIECE) for t in (x, y, slope))
        for x_piece, y_piece, slope_piece in zip(*pieces, strict=True):
            u, s, d = buffers[:, :len(x_piece)]
            u.copy_(x_piece)
            torch.mul(u, u, out=s)
            torch.add(linear, s, alpha=3 * CUBIC, out=d)  # dz/dx
            torch.add(linear, s, alpha=CUBIC, out=s)
            s.mul_(u).sigmoid_()
            y_piece.copy_(u.mul_(s))
            d.mul_(u)  # dy/dx = s + (1 - s) y dz/dx
            slope_piece.copy_(torch.lerp(d, one, s, out=d))
        ctx.save_for_backward(slope)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        slope: Tensor
        slope, = ctx.saved_tensors
        return grads[0] * slope


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": gelu_tanh,
    "gelu": F.gelu,
    "relu2": lambda x: F.relu(x).square(),  # So et al., 2021 (Primer)
    "swiglu": F.silu,  # of the gate: see model.MLP (Shazeer, 2020)
}
