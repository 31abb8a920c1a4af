"""The fit against losses made from a law with known coefficients."""

import numpy as np
import pytest

from scaling.law import Fit, fit

N, D = (a.ravel() for a in np.meshgrid([1e4, 4e4, 1e5, 4e5], [2e5, 5e5, 1e6, 2e6]))
MADE = {
    "chinchilla": 1.2 + 40 / N**0.4 + 300 / D**0.5,
    "kaplan": ((2e6 / N) ** (0.08 / 0.12) + 4e6 / D) ** 0.12,
}
TRUE = {"chinchilla": {"A": 40, "B": 300, "E": 1.2, "alpha": 0.4, "beta": 0.5},
        "kaplan": {"Nc": 2e6, "Dc": 4e6, "alpha": 0.08, "beta": 0.12}}


@pytest.fixture(scope="module", params=["chinchilla", "kaplan"])
def fitted(request: pytest.FixtureRequest) -> Fit:
    return fit(request.param, N, D, MADE[request.param], resamples=8)


def test_the_coefficients_come_back(fitted: Fit) -> None:
    found = {name: value for name, (value, _, _) in fitted.coefficients().items()}
    assert found == pytest.approx(TRUE[fitted.name], rel=0.02)


def test_a_larger_model_on_more_tokens_is_predicted(fitted: Fit) -> None:
    n, d = 2e6, 8e6
    loss, low, high = fitted.predict(n, d)
    expected = {"chinchilla": 1.2 + 40 / n**0.4 + 300 / d**0.5,
                "kaplan": ((2e6 / n) ** (0.08 / 0.12) + 4e6 / d) ** 0.12}[fitted.name]
    assert [loss, low, high] == pytest.approx([expected] * 3, rel=2e-3), "there is no noise"


def test_the_interval_widens_with_noise_and_holds_the_truth() -> None:
    noise = np.exp(np.random.default_rng(1).normal(0, 0.01, len(N)))
    noisy = fit("chinchilla", N, D, MADE["chinchilla"] * noise, resamples=24)
    loss, low, high = noisy.predict(2e6, 8e6)
    assert low <= loss <= high
    assert low < 1.2 + 40 / 2e6**0.4 + 300 / 8e6**0.5 < high
