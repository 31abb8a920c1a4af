"""The loss in chunks against the plain loss in float64."""

import pytest
import torch
from torch import Tensor

from reprogpt.model.kernels import loss_chunks
from reprogpt.model.kernels.loss_chunks import nll_in_chunks
from reprogpt.model.loss import MASKED, nll


def case(masked: bool) -> tuple[Tensor, Tensor, Tensor]:
    """hidden (20, 16), weight (64, 16) of 50 ids and 14 rows of padding, targets (20,)."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, 16, generator=generator, requires_grad=True)
    weight = torch.randn(64, 16, generator=generator, requires_grad=True)
    targets = torch.randint(50, (20,), generator=generator)
    if masked:
        targets[:3] = targets[14] = MASKED
    return hidden, weight, targets


@pytest.mark.parametrize("chunk_rows", [1, 7, 64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cap", [None, 4.0])
def test_sum_and_gradients_are_the_plain_ones(chunk_rows: int, masked: bool, cap: float | None,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_chunks, "TILE_LOGITS", 3 * 64)  # a chunk is several tiles
    hidden, weight, targets = case(masked)
    h, w = (t.detach().double().requires_grad_() for t in (hidden, weight))
    expected = nll(h, w, targets, 50, cap=cap) * 0.3
    loss = nll_in_chunks(hidden, weight, targets, 50, chunk_rows, cap) * 0.3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(torch.autograd.grad(loss, (hidden, weight)),
                            torch.autograd.grad(expected, (h, w)), strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)


def test_the_plain_loss_passes_chunk_rows_on() -> None:
    hidden, weight, targets = case(masked=True)
    assert torch.equal(nll(hidden.view(4, 5, 16), weight, targets.view(4, 5), 50, 7, 4.0),
                       nll_in_chunks(hidden, weight, targets, 50, 7, 4.0))


def test_nothing_to_learn_is_zero_not_nan() -> None:
    hidden, weight, targets = case(masked=False)
    loss = nll_in_chunks(hidden, weight, targets.fill_(MASKED), 50, 2, None)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None and hidden.grad.abs().max() == 0


def test_under_autocast_logits_are_bfloat16_and_gradients_of_the_weight_float32() -> None:
    hidden, weight, targets = case(masked=False)
    exact = nll(hidden, weight, targets, 50).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = nll_in_chunks(hidden, weight, targets, 50, 3, None)
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=2e-2)
    assert weight.grad is not None and weight.grad.dtype == torch.float32


def test_no_rows_at_all_have_gradients_of_zero() -> None:
    """The part of a batch of a process that has fewer rows than the others."""
    weight = torch.randn(64, 8, requires_grad=True)
    loss = nll_in_chunks(torch.empty(0, 8, requires_grad=True), weight,
                         torch.empty(0, dtype=torch.int64), 50, 2, None)
    loss.backward()
    assert loss.item() == 0
    assert weight.grad is not None and weight.grad.abs().max() == 0
