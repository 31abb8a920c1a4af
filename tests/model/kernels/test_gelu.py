"""GELU by a sigmoid against torch's GELU in float64, values and gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reprogpt.model.kernels.gelu import CHUNK, GeluBfloat16, gelu_by_sigmoid


def exact(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """torch's values and gradients in float64."""
    x = x.detach().double().requires_grad_()
    y = F.gelu(x, approximate="tanh")
    return y.detach(), torch.autograd.grad(y, x, grad.double())[0]


def test_the_formula_by_hand() -> None:
    x = 1.5
    expected = 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert gelu_by_sigmoid(torch.tensor(x)).item() == pytest.approx(expected, abs=1e-6)


def test_the_formula_and_its_gradient_are_torchs() -> None:
    x = torch.linspace(-8, 8, 1001, requires_grad=True)
    grad = torch.linspace(1, 2, 1001)
    y = gelu_by_sigmoid(x)
    values, gradients = exact(x, grad)
    torch.testing.assert_close(y.double(), values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(y, x, grad)[0].double(), gradients,
                               rtol=1e-5, atol=1e-6)


def test_in_bfloat16_values_and_gradients_are_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, CHUNK // 200, generator=generator).mul(4).bfloat16().t()
    x[0, :4] = torch.tensor([0.0, -100.0, 100.0, -5.0])
    grad = torch.randn(x.shape, generator=generator).bfloat16()
    x.requires_grad_()
    y = GeluBfloat16.apply(x)
    found, = torch.autograd.grad(y, x, grad)
    assert y.numel() > CHUNK  # more than one chunk, the last one smaller
    values, gradients = exact(x, grad)
    torch.testing.assert_close(y.detach(), values.bfloat16(), rtol=2**-8, atol=1e-6)  # one bit
    torch.testing.assert_close(found.double(), gradients, rtol=2**-7, atol=1e-3)
