"""Rotary position embedding against complex numbers, and what it is for."""

import pytest
import torch

from reprogpt.model.switches import rotary_angles, rotate


def test_a_rotation_is_a_product_with_a_complex_number() -> None:
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([0, 1, 2, 7, 30])
    theta = positions[:, None] * 100.0 ** -(torch.arange(4) / 4)
    product = torch.complex(x[..., :4], x[..., 4:]) * torch.exp(1j * theta)
    torch.testing.assert_close(rotate(x, rotary_angles(positions, 8, 100.0)),
                               torch.cat([product.real, product.imag], -1))


def test_rotated_scores_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(i: int, j: int) -> float:
        angles = [rotary_angles(torch.tensor([at]), 8, 100.0) for at in (i, j)]
        return (rotate(q, angles[0]) * rotate(k, angles[1])).sum().item()

    assert score(7, 3) == pytest.approx(score(12, 8), abs=1e-5)
    assert score(7, 3) != pytest.approx(score(3, 7), abs=1e-3)
