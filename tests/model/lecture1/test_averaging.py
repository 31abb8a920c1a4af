"""Three ways to average the past against a cumulative sum."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reprogpt.model.lecture1.averaging import average_loop, average_product, average_softmax


@settings(max_examples=20, deadline=None)
@given(B=st.integers(1, 3), T=st.integers(1, 9), C=st.integers(1, 5), seed=st.integers(0, 99))
def test_three_ways_to_average_the_past_are_one(B: int, T: int, C: int, seed: int) -> None:
    x = torch.randn(B, T, C, generator=torch.Generator().manual_seed(seed))
    expected = x.cumsum(1) / torch.arange(1, T + 1)[:, None]
    for average in (average_loop, average_product, average_softmax):
        torch.testing.assert_close(average(x), expected, atol=1e-5, rtol=1e-5)
