"""The loss against torch's cross-entropy in float64."""

import pytest
import torch
import torch.nn.functional as F

from reprogpt.model.loss import MASKED, nll


@pytest.mark.parametrize("chunk_rows", [None, 1, 7, 64])
@pytest.mark.parametrize("masked", [False, True])
def test_sum_and_gradients(chunk_rows: int | None, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 5, 16, generator=generator, requires_grad=True)
    weight = torch.randn(64, 16, generator=generator, requires_grad=True)  # 50 ids, 14 padding
    targets = torch.randint(50, (4, 5), generator=generator)
    if masked:
        targets[0, :3] = targets[2, 4] = MASKED

    h, w = (t.detach().double().requires_grad_() for t in (hidden, weight))
    logits = (h @ w[:50].t()).view(-1, 50)
    expected = F.cross_entropy(logits, targets.view(-1), ignore_index=MASKED, reduction="sum") * 0.3
    expected.backward()

    loss = nll(hidden, weight, targets, 50, chunk_rows) * 0.3
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert hidden.grad is not None and weight.grad is not None
    torch.testing.assert_close(hidden.grad.double(), h.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weight.grad.double(), w.grad, atol=1e-5, rtol=1e-5)


def test_nothing_to_learn_is_zero_not_nan() -> None:
    hidden = torch.randn(3, 8, requires_grad=True)
    for chunk_rows in (None, 2):
        loss = nll(hidden, torch.randn(64, 8), torch.full((3,), MASKED), 50, chunk_rows)
        loss.backward()
        assert loss.item() == 0
        assert hidden.grad is not None and hidden.grad.abs().max() == 0


def test_chunks_under_autocast() -> None:
    hidden = torch.randn(8, 16, requires_grad=True)
    weight = torch.randn(64, 16, requires_grad=True)
    targets = torch.randint(50, (8,))
    exact = nll(hidden, weight, targets, 50).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = nll(hidden, weight, targets, 50, chunk_rows=3)
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=2e-2)
    assert weight.grad is not None and weight.grad.dtype == torch.float32


def test_no_rows_at_all_have_gradients_of_zero() -> None:
    """The share of a process that has fewer rows than the others."""
    weight = torch.randn(64, 8, requires_grad=True)
    loss = nll(torch.empty(0, 8, requires_grad=True), weight,
               torch.empty(0, dtype=torch.int64), 50, 2)
    loss.backward()
    assert loss.item() == 0
    assert weight.grad is not None and weight.grad.abs().max() == 0
