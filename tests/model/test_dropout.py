"""Keyed dropout as a random process: its rate, its independence, its exactness."""

import numpy as np
import pytest
import torch

from reprogpt.model.dropout import keyed_dropout, mix, row_keys, site_keys


def reference_mix(x: int) -> int:
    """The finalizer on Python's own integers."""
    x ^= x >> 16
    x = x * 0x21F0AAAD & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x735A2D97 & 0xFFFFFFFF
    return x ^ x >> 15


def test_mix_is_the_published_finalizer() -> None:
    values = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint32)
    ours = mix(torch.from_numpy(values.astype(np.int32))).numpy().astype(np.uint32)
    assert ours.tolist() == [reference_mix(int(v)) for v in values]


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_rate_scale_and_gradient(p: float) -> None:
    x = torch.ones(8, 64, 64, requires_grad=True)
    y = keyed_dropout(x, row_keys(1, 2, torch.arange(8)), p)
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.01)
    assert torch.allclose(y[kept], torch.tensor(1 / (1 - p)))
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y.detach())


def test_masks_of_neighbours_are_independent() -> None:
    """Rows, steps, seeds and sites next to each other agree as often as chance has it: half."""
    def mask(seed: int, step: int, row: int, site: int) -> torch.Tensor:
        dropout_keys = site_keys(row_keys(seed, step, torch.tensor([row])), site)
        return keyed_dropout(torch.ones(1, 100, 100), dropout_keys, 0.5)[0] != 0

    base = mask(1, 1, 1, 1)
    for other in (mask(2, 1, 1, 1), mask(1, 2, 1, 1), mask(1, 1, 2, 1), mask(1, 1, 1, 2)):
        assert (base == other).float().mean().item() == pytest.approx(0.5, abs=0.025)  # 5 sigma
    # ... and so do neighbours within one mask, along both axes.
    assert (base[1:] == base[:-1]).float().mean().item() == pytest.approx(0.5, abs=0.025)
    assert (base[:, 1:] == base[:, :-1]).float().mean().item() == pytest.approx(0.5, abs=0.025)


def test_a_large_seed_counts_whole() -> None:
    rows = torch.arange(4)
    assert not torch.equal(row_keys(1, 0, rows), row_keys(1 + 2**31, 0, rows))
