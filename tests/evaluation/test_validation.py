"""Validation loss against torch's own cross-entropy, window by window."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reprogpt.evaluation.validation import validation_loss
from reprogpt.runtime.distributed import Process
from tests.small_models import random_model

torch.set_num_threads(1)
ALONE = Process(0, 1, torch.device("cpu"))
VOCAB, T = 70, 12
BYTES = np.arange(VOCAB) % 5  # some tokens stand for no text


class Tokens:
    """A split in memory."""

    def __init__(self, n: int, masked: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.n_tokens = n
        self.ids = rng.integers(0, VOCAB, n).astype(np.uint16)
        self.mask = rng.integers(0, 2, n).astype(np.uint8) if masked else None

    def read(self, start, count):
        assert start + count <= self.n_tokens
        return self.ids[start:start + count]

    def read_mask(self, start, count):
        return None if self.mask is None else self.mask[start:start + count]


def by_hand(model, tokens, windows):
    nll, byte_count, n = 0.0, 0, 0
    for w in range(windows):
        idx = torch.from_numpy(tokens.ids[w * T:(w + 1) * T].astype(np.int64))
        y = tokens.ids[w * T + 1:(w + 1) * T + 1].astype(np.int64)
        with torch.no_grad():
            logits = model.logits(model(idx[None]))[0]
        each = F.cross_entropy(logits.double(), torch.from_numpy(y), reduction="none").numpy()
        keep = np.ones(T) if tokens.mask is None else tokens.mask[w * T + 1:(w + 1) * T + 1]
        nll, n = nll + (each * keep).sum(), n + keep.sum()
        byte_count += (BYTES[y] * keep).sum()
    return nll / n, nll / math.log(2) / byte_count, n


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("n_tokens", "val_tokens", "windows"), [
    (100, None, 8), (100, 40, 3), (100, 48, 4), (100, 5000, 8),
    (97, None, 8), (96, None, 7),  # the last target is one past its window
])
def test_the_loss_is_the_mean_over_windows_from_token_0(masked, n_tokens, val_tokens, windows):
    model, tokens = random_model(VOCAB), Tokens(n_tokens, masked)
    found = validation_loss(model, tokens, BYTES, ALONE, val_tokens=val_tokens, block_size=T)
    loss, bits, n = by_hand(model, tokens, windows)
    assert found.tokens == n
    assert found.loss == pytest.approx(loss, rel=1e-6)
    assert found.bits_per_byte == pytest.approx(bits, rel=1e-6)


class Share(Process):
    """One of several processes, whose sum is left to the test."""

    def sum(self, values):
        self.seen.append(values.clone())
        return values


@pytest.mark.parametrize("rows", [1, 3, 8, 100])
def test_batch_and_processes_do_not_matter(rows):
    model, tokens = random_model(VOCAB), Tokens(100)
    reference = validation_loss(model, tokens, BYTES, ALONE, val_tokens=None, block_size=T)
    shares = []
    for rank in range(3):
        part = Share(rank, 3, torch.device("cpu"))
        object.__setattr__(part, "seen", shares)
        validation_loss(model, tokens, BYTES, part, val_tokens=None, block_size=T,
                        at_once=rows * T)
    sums = torch.stack(shares)
    assert ((sums[:, :, 1] != 0).sum(0) == 1).all()  # every window on exactly one process
    total = sums.sum((0, 1))
    assert float(total[0] / total[1]) == pytest.approx(reference.loss, rel=1e-6)


def test_a_split_without_one_window_is_refused():
    with pytest.raises(ValueError, match="not one window of model.block_size = 12"):
        validation_loss(random_model(VOCAB), Tokens(12), BYTES, ALONE, val_tokens=None,
                        block_size=T)


def test_evaluating_touches_no_generator_and_leaves_no_gradient():
    model, state = random_model(VOCAB), torch.get_rng_state()
    validation_loss(model, Tokens(100), BYTES, ALONE, val_tokens=None, block_size=T)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
