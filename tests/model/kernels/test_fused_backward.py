"""RMSNorm and squared ReLU against torch's in float64, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from reprogpt.model.kernels.choose import rms_norm, squared_relu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_gain", [False, True])
def test_rms_norm_is_torchs(dtype: torch.dtype, with_gain: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 16, generator=generator).mul(2).to(dtype)
    x[0, 0] = 0  # eps keeps it from 0 / 0
    gain = torch.randn(16, generator=generator) if with_gain else None
    grad = torch.randn(3, 5, 16, generator=generator)
    given = [t.requires_grad_() for t in (x, gain) if t is not None]
    y = rms_norm(x, gain, 1e-3)
    assert y.grad_fn is not None and "RMSNorm" in y.grad_fn.name()
    found = torch.autograd.grad(y, given, grad)
    exact = [t.detach().double().requires_grad_() for t in given]
    expected = F.rms_norm(exact[0], (16,), exact[1] if with_gain else None, 1e-3)
    error = {"rtol": 2**-7, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5,
                                                                           "atol": 1e-5}
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    for a, b, t in zip(found, torch.autograd.grad(expected, exact, grad.double()), given):
        assert a.dtype == t.dtype
        torch.testing.assert_close(a.double(), b, **error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squared_relu_is_torchs(dtype: torch.dtype) -> None:
    x = torch.linspace(-3, 3, 101).to(dtype).requires_grad_()
    grad = torch.linspace(1, 2, 101).to(dtype)
    exact = x.detach().double().requires_grad_()
    y, expected = squared_relu(x), F.relu(exact).square()
    assert y.grad_fn is not None and "SquaredReLU" in y.grad_fn.name()
    error = 2**-7 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(y.double(), expected, rtol=error, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(y, x, grad)[0].double(),
                               torch.autograd.grad(expected, exact, grad.double())[0],
                               rtol=error, atol=1e-6)


def test_without_gradients_and_when_compiled_they_are_torchs_own() -> None:
    x = torch.randn(4, 16)
    assert torch.equal(rms_norm(x), F.rms_norm(x, (16,)))
    assert torch.equal(squared_relu(x), F.relu(x).square())
    x.requires_grad_()
    y = torch.compile(lambda x: squared_relu(rms_norm(x)), backend="aot_eager")(x)
    torch.testing.assert_close(y, F.relu(F.rms_norm(x, (16,))).square())
