"""Per-token negative log-likelihood against torch's cross-entropy."""

import torch
import torch.nn.functional as F

from reprogpt.evaluation.scoring import Head, tokens_at_once

torch.set_num_threads(1)


def test_scores_are_those_of_torch_at_any_tile_and_scale():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 16, generator=generator)
    weight = 30 * torch.randn(128, 16, generator=generator)  # logits in the hundreds
    targets = torch.randint(-1, 70, (50,), generator=generator)
    logits = (hidden @ weight.t())[:, :70]
    for tile in ((1, 70), (7, 9), (50, 64), (64, 128)):
        likeliest = torch.empty(50, dtype=torch.int64)
        head = Head(weight, 70, tile=tile)
        torch.testing.assert_close(head.log_normalizer(hidden, likeliest), logits.logsumexp(1))
        assert torch.equal(likeliest, logits.argmax(1))
    expected = F.cross_entropy(logits, targets, ignore_index=-1, reduction="none")
    head = Head(weight, 70)
    torch.testing.assert_close(head.nll(hidden, targets), expected, atol=1e-4, rtol=1e-5)
    assert head.nll(hidden[:0], targets[:0]).shape == (0,)


def test_under_autocast_products_are_low_and_sums_high():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, 16, generator=generator)
    weight = torch.randn(128, 16, generator=generator)
    targets = torch.randint(70, (20,), generator=generator)
    exact = Head(weight, 70).nll(hidden, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rough = Head(weight, 70).nll(hidden, targets)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.1, rtol=0.05)
    assert not torch.equal(rough, exact)


def test_a_logit_cap_is_applied_before_the_softmax():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, 16, generator=generator)
    weight = torch.randn(128, 16, generator=generator)
    targets = torch.randint(70, (20,), generator=generator)
    logits = 3 * torch.tanh((hidden @ weight.t())[:, :70] / 3)
    torch.testing.assert_close(Head(weight, 70, cap=3.0).nll(hidden, targets),
                               F.cross_entropy(logits, targets, reduction="none"))


def test_tokens_at_once_is_the_setting_or_suits_the_device():
    assert tokens_at_once(torch.device("cpu"), 40) == 40
    assert tokens_at_once(torch.device("cpu")) == 1024
    assert tokens_at_once(torch.device("cuda"), "auto") == 32768
