"""Attention in blocks against torch's fused kernel and against the formula in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reprogpt.model.dropout import keyed_dropout, row_keys
from reprogpt.model.kernels import attention
from reprogpt.model.kernels.attention import causal_attention, masked_attention


def qkv(T: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(T)
    return [torch.randn(2, 3, T, 8, generator=generator).to(dtype).requires_grad_()
            for _ in range(3)]


def gradients(y: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return torch.autograd.grad((y * weights).sum(), inputs)


def definition(q: Tensor, k: Tensor, v: Tensor, window: int | None, p: float,
               dropout_keys: Tensor | None) -> Tensor:
    """The formula on the whole square of scores, in float64."""
    back = torch.arange(q.size(2))[:, None] - torch.arange(q.size(2))
    seen = (back >= 0) & (back < (window or q.size(2)))
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return (weights if dropout_keys is None else keyed_dropout(weights, dropout_keys, p)) @ v


@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 200])  # a block is 64 queries
def test_equals_the_fused_kernel(T: int) -> None:
    inputs = qkv(T)
    ours = causal_attention(*inputs)
    theirs = F.scaled_dot_product_attention(*inputs, is_causal=True)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    for a, b in zip(gradients(ours, inputs), gradients(theirs, inputs)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 1, 5, 64, 150])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_window_and_dropout_are_those_of_the_definition(window: int | None, p: float) -> None:
    inputs, keys = qkv(150), row_keys(3, 4, torch.arange(2)) if p else None
    exact = [x.detach().double().requires_grad_() for x in inputs]
    ours = causal_attention(*inputs, window, p, keys)
    theirs = definition(*exact, window, p, keys)
    torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)
    for a, b in zip(gradients(ours, inputs), gradients(theirs, exact)):
        torch.testing.assert_close(a.double(), b.double(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("T", [64, 200])
def test_bfloat16_is_as_exact_as_the_lectures_attention(T: int) -> None:
    """Written out under autocast: products in bfloat16, the softmax in float32."""
    q, k, v = qkv(T, torch.bfloat16)
    exact = definition(q.double(), k.double(), v.double(), None, 0.0, None)
    scores = (q @ k.transpose(-2, -1) / math.sqrt(8)).masked_fill(torch.ones(T, T).tril() == 0,
                                                                  float("-inf"))
    lecture = scores.float().softmax(-1).to(v.dtype) @ v
    ours = causal_attention(q, k, v)
    assert ours.dtype == torch.bfloat16
    true = [g.double() for g in gradients(exact.double(), [q, k, v])]
    for a, b, c in zip((ours, *gradients(ours, [q, k, v])),
                       (lecture, *gradients(lecture, [q, k, v])), (exact, *true)):
        assert (a - c).square().mean() < 1.1 * (b - c).square().mean()


def test_the_size_of_a_block_changes_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, keys = qkv(100), row_keys(3, 4, torch.arange(2))
    usual = causal_attention(*inputs, 40, 0.2, keys)
    monkeypatch.setattr(attention, "BLOCK_BYTES", 7 * 4)
    torch.testing.assert_close(causal_attention(*inputs, 40, 0.2, keys), usual,
                               atol=2e-6, rtol=1e-5)


def test_no_gradient_reaches_the_future() -> None:
    q, k, v = qkv(130)
    past = causal_attention(q, k, v)[:, :, :70].sum()
    for grad in torch.autograd.grad(past, [q, k, v]):
        assert grad[:, :, 70:].abs().max() == 0
        assert grad[:, :, :70].abs().max() > 0


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_masked_attention_is_the_formula(dtype: torch.dtype, error: float) -> None:
    q, k, v = (x.detach() for x in qkv(30, dtype))
    mask = torch.rand(2, 1, 5, 30, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[..., 0] = True  # a query that sees nothing has no weights
    scores = q[:, :, -5:].double() @ k.double().transpose(-2, -1) / math.sqrt(8)
    exact = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v.double()
    ours = masked_attention(q[:, :, -5:], k, v, mask)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), exact, atol=error, rtol=error)
