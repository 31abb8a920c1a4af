"""GPT-2's GELU, written by a sigmoid, against torch's own in float64."""

import pytest
import torch
import torch.nn.functional as F

from reprogpt.activations import ACTIVATIONS, gelu_tanh


def test_value_and_gradient_are_those_of_gelu_by_tanh() -> None:
    x = torch.linspace(-12, 12, 4001, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    expected = F.gelu(exact, approximate="tanh")
    weights = torch.linspace(0.5, 2, 4001)
    (expected * weights.double()).sum().backward()
    (gelu_tanh(x) * weights).sum().backward()
    assert x.grad is not None and exact.grad is not None
    torch.testing.assert_close(gelu_tanh(x).double(), expected, atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(x.grad.double(), exact.grad, atol=4e-6, rtol=2e-6)
    with torch.no_grad():
        torch.testing.assert_close(gelu_tanh(x).double(), expected, atol=2e-6, rtol=2e-6)


def test_gradcheck() -> None:
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gelu_tanh, x)


@pytest.mark.parametrize(("name", "at_minus_two", "at_two"), [
    ("gelu", -0.0455, 1.9545), ("relu2", 0.0, 4.0), ("swiglu", -0.2384, 1.7616)])
def test_the_others_by_hand(name: str, at_minus_two: float, at_two: float) -> None:
    y = ACTIVATIONS[name](torch.tensor([-2.0, 2.0]))
    torch.testing.assert_close(y, torch.tensor([at_minus_two, at_two]), atol=1e-4, rtol=0)
