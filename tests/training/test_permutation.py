"""The permutation is one, depends on its key, and looks random."""

import numpy as np
import pytest

from reprogpt.training.permutation import draw, permute


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 1000, 4097])
def test_permutation_is_one(n: int) -> None:
    out = permute(np.arange(n), n, 1337, 0)
    assert sorted(out.tolist()) == list(range(n))


def test_permutations_differ_by_key_and_look_random() -> None:
    n = 5000
    a, b = permute(np.arange(n), n, 1, 0), permute(np.arange(n), n, 1, 1)
    assert (a == b).mean() < 0.01
    assert abs(np.corrcoef(a, np.arange(n))[0, 1]) < 0.06  # 4 sigma of a random permutation
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06


def test_a_large_one_needs_no_table() -> None:
    n = 10**15
    out = permute(np.arange(1000), n, 1)
    assert len(set(out.tolist())) == 1000
    assert out.min() >= 0 and n // 2 < out.max() < n


def test_draws_are_uniform() -> None:
    counts = np.bincount([draw(8, 3, i) for i in range(8000)], minlength=8)
    assert len(counts) == 8
    assert abs(counts - 1000).max() < 150  # 5 sigma
