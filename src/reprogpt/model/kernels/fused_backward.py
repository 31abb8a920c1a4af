"""RMSNorm and squared ReLU for eager training on a CPU, with their backward pass by formula.

torch composes both, and differentiates them, from a dozen passes over memory (docs/speed.md).
"""

from typing import Any

import torch
from torch import Tensor


class SquaredReLU(torch.autograd.Function):
    """relu(x)^2: x (...) -> (...). The derivative is 2 relu(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        r = x.relu()
        ctx.save_for_backward(r)
        return r * r

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return (grads[0] * ctx.saved_tensors[0]).mul_(2)


class RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * gain: x (..., C), gain (C,) or None -> (..., C) float32.

    With y = x / rms and g the gradient of y: dx = (g - y mean(g y)) / rms.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = length.square_().div_(x.size(-1)).add_(eps).rsqrt_()
        y = x * inverse
        ctx.save_for_backward(y, inverse, gain)
        return y if gain is None else y * gain

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, (y, inverse, gain) = grads[0], ctx.saved_tensors
        d_gain = None
        if gain is not None:
            d_gain = (grad * y).flatten(0, -2).sum(0)
            grad = grad * gain
        shared = (grad * y).mean(-1, keepdim=True)
        return torch.addcmul(grad, y, shared, value=-1).mul_(inverse), d_gain, None
