"""The activations at points worked out by hand."""

import math

import pytest
import torch

from reprogpt.activations import ACTIVATIONS


@pytest.mark.parametrize(("name", "at_minus_two", "at_two"), [
    ("gelu", -0.0455, 1.9545), ("relu2", 0.0, 4.0), ("swiglu", -0.2384, 1.7616)])
def test_by_hand(name: str, at_minus_two: float, at_two: float) -> None:
    y = ACTIVATIONS[name](torch.tensor([-2.0, 2.0]))
    torch.testing.assert_close(y, torch.tensor([at_minus_two, at_two]), atol=1e-4, rtol=0)


def test_gpt2s_gelu_is_the_approximation_by_tanh() -> None:
    x = 1.5
    expected = 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert ACTIVATIONS["gelu_tanh"](torch.tensor(x)).item() == pytest.approx(expected, abs=1e-6)
