"""Position encodings of "Attention is all you need", and no positions, against the formula."""

import math

import pytest
import torch

from reprogpt.model.switches import sinusoids
from tests.model.test_switches import ids, stirred


@pytest.mark.parametrize("width", [6, 7])
def test_the_papers_formula(width: int) -> None:
    positions = torch.tensor([[0, 1, 5], [2, 99, 1000]])
    expected = [[[(math.sin, math.cos)[c % 2](p / 10000 ** ((c - c % 2) / width))
                  for c in range(width)] for p in row] for row in positions.tolist()]
    torch.testing.assert_close(sinusoids(positions, width), torch.tensor(expected),
                               atol=1e-4, rtol=1e-4)


def test_a_model_adds_them_to_scaled_token_embeddings() -> None:
    model, learned = stirred(position="sinusoidal"), stirred()
    learned.load_state_dict(model.state_dict() | {"wpe.weight": sinusoids(torch.arange(16), 32)})
    with torch.no_grad():
        learned.wte.weight.mul_(32 ** 0.5)
    torch.testing.assert_close(model(ids()), learned(ids()), atol=1e-5, rtol=1e-4)


def test_none_is_a_table_of_zeros() -> None:
    model, learned = stirred(position="none"), stirred()
    learned.load_state_dict(model.state_dict() | {"wpe.weight": torch.zeros(16, 32)})
    assert torch.equal(model(ids()), learned(ids()))
