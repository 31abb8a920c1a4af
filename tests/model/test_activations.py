"""The activations at points worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from reprogpt.model.activations import ACTIVATIONS, PIECE


@pytest.mark.parametrize(("name", "at_minus_two", "at_two"), [
    ("gelu", -0.0455, 1.9545), ("relu2", 0.0, 4.0), ("swiglu", -0.2384, 1.7616)])
def test_by_hand(name: str, at_minus_two: float, at_two: float) -> None:
    y = ACTIVATIONS[name](torch.tensor([-2.0, 2.0]))
    torch.testing.assert_close(y, torch.tensor([at_minus_two, at_two]), atol=1e-4, rtol=0)


def test_gpt2s_gelu_is_the_approximation_by_tanh() -> None:
    x = 1.5
    expected = 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert ACTIVATIONS["gelu_tanh"](torch.tensor(x)).item() == pytest.approx(expected, abs=1e-6)


def test_gelu_in_bfloat16_and_its_gradient_are_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, PIECE // 200, generator=generator).mul(4).bfloat16().t()
    x[0, :4] = torch.tensor([0.0, -100.0, 100.0, -5.0])
    grad = torch.randn(x.shape, generator=generator).bfloat16()
    x.requires_grad_()
    y = ACTIVATIONS["gelu_tanh"](x)
    y.backward(grad)
    exact = x.detach().double().requires_grad_()
    F.gelu(exact, approximate="tanh").backward(grad.double())
    assert y.numel() > PIECE  # it went in pieces, the last one smaller
    assert x.grad is not None
    assert exact.grad is not None
    expected = F.gelu(exact.detach(), approximate="tanh").bfloat16()
    torch.testing.assert_close(y.detach(), expected, rtol=2**-8, atol=1e-6)  # one bit
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=2**-7, atol=1e-3)
