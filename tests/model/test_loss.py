"""The loss against torch's cross-entropy in float64."""

import pytest
import torch
import torch.nn.functional as F

from reprogpt.model.loss import MASKED, nll, softcap


@pytest.mark.parametrize("cap", [None, 4.0])
@pytest.mark.parametrize("masked", [False, True])
def test_sum_and_gradients(cap: float | None, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 5, 16, generator=generator, requires_grad=True)
    weight = torch.randn(64, 16, generator=generator, requires_grad=True)  # 50 ids, 14 padding
    targets = torch.randint(50, (4, 5), generator=generator)
    if masked:
        targets[0, :3] = targets[2, 4] = MASKED

    h, w = (t.detach().double().requires_grad_() for t in (hidden, weight))
    logits = (h @ w[:50].t()).view(-1, 50)
    logits = logits if cap is None else cap * (logits / cap).tanh()
    expected = F.cross_entropy(logits, targets.view(-1), ignore_index=MASKED, reduction="sum")
    loss = nll(hidden, weight, targets, 50, cap=cap)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(torch.autograd.grad(loss, (hidden, weight)),
                            torch.autograd.grad(expected, (h, w)), strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)


def test_nothing_to_learn_is_zero_not_nan() -> None:
    hidden = torch.randn(3, 8, requires_grad=True)
    loss = nll(hidden, torch.randn(64, 8), torch.full((3,), MASKED), 50)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None and hidden.grad.abs().max() == 0


def test_a_softcap_keeps_small_logits_and_bounds_large_ones() -> None:
    capped = softcap(torch.tensor([0.01, -1000.0, 1000.0]), 5.0)
    torch.testing.assert_close(capped, torch.tensor([0.01, -5.0, 5.0]), atol=1e-6, rtol=0)
