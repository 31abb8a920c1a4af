"""The bends of a feed-forward layer, by the name that `model.activation` gives them."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CUBIC = 0.044715
_SLOPE = 2 * math.sqrt(2 / math.pi)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU as GPT-2 computes it (Hendrycks and Gimpel, 2016, the approximation by tanh).

    0.5 x (1 + tanh(u / 2)) is x sigmoid(u): the same function, and on a CPU a much faster one,
    since torch's kernel there spends 4 to 8 ns a value on a tanh where a sigmoid takes 1.
    """
    if x.device.type != "cpu":
        return F.gelu(x, approximate="tanh")
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return x * torch.sigmoid(x * (_SLOPE + _SLOPE * _CUBIC * x * x))
    y: Tensor = _GeluTanh.apply(x)
    return y


class _GeluTanh(torch.autograd.Function):
    """x sigmoid(u(x)), u = slope (x + cubic x^3), in passes that reuse one buffer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        s = torch.mul(x, x).mul_(_SLOPE * _CUBIC).add_(_SLOPE).mul_(x).sigmoid_()
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, s = ctx.saved_tensors
        # d/dx x s(u) = s + x u'(x) s (1 - s), with x u'(x) = slope (x + 3 cubic x^3)
        slope = torch.mul(x, x).mul_(3 * _SLOPE * _CUBIC).add_(_SLOPE).mul_(x)
        return torch.ops.aten.sigmoid_backward(slope, s).add_(s).mul_(grads[0])


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": gelu_tanh,
    "gelu": F.gelu,
    "relu2": lambda x: F.relu(x).square(),  # So et al., 2021 (Primer)
    "swiglu": F.silu,  # of the gate: see model.MLP (Shazeer, 2020)
}
