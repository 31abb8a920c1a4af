"""Two laws for the loss L(N, D) of N parameters after D tokens, and their fit.

- Chinchilla: L = E + A / N^alpha + B / D^beta (Hoffmann et al., 2022, equation 2, approach 3).
- Kaplan: L = ((Nc / N)^(alpha / beta) + Dc / D)^beta (Kaplan et al., 2020, equation 1.5).

Both are fitted as Chinchilla's authors did: the Huber loss (delta 1e-3) of log L, by L-BFGS from a
grid of starts. The uncertainty is that of a bootstrap over the runs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

DELTA = 1e-3
Law = Callable[[Tensor, Tensor, Tensor], Tensor]
"""theta, log N (n,), log D (n,) -> log L (n,)"""


def chinchilla(theta: Tensor, log_n: Tensor, log_d: Tensor) -> Tensor:
    """theta (5,): log A, log B, log E, alpha, beta."""
    a, b, e, alpha, beta = theta
    return torch.logsumexp(torch.stack([a - alpha * log_n, b - beta * log_d,
                                        e.expand_as(log_n)]), 0)


def kaplan(theta: Tensor, log_n: Tensor, log_d: Tensor) -> Tensor:
    """theta (4,): log Nc, log Dc, alpha, beta."""
    n, d, alpha, beta = theta
    return beta * torch.logsumexp(torch.stack([alpha / beta * (n - log_n), d - log_d]), 0)


LAWS: dict[str, tuple[Law, list[tuple[float, ...]]]] = {
    "chinchilla": (chinchilla, list(product((2.0, 5.0), (2.0, 5.0), (0.0,), (0.2, 0.5),
                                            (0.2, 0.5)))),
    "kaplan": (kaplan, list(product((10.0, 20.0), (10.0, 20.0), (0.1, 0.3), (0.1, 0.3)))),
}
"""By name: the law, and the starts of its fit. N is counted as each paper counts it."""
NAMES = {"chinchilla": ("A", "B", "E", "alpha", "beta"), "kaplan": ("Nc", "Dc", "alpha", "beta")}


@dataclass(frozen=True)
class Fit:
    """A fitted law, and what a bootstrap over the runs makes of it."""

    name: str
    theta: np.ndarray  # (k,)
    resampled: np.ndarray  # (resamples, k)

    def predict(self, parameters: float, tokens: float) -> tuple[float, float, float]:
        """The loss, and the 2.5th and 97.5th percentile of the bootstrap's."""
        losses = [math.exp(_at(self.name, theta, parameters, tokens))
                  for theta in (self.theta, *self.resampled)]
        low, high = np.percentile(losses[1:], [2.5, 97.5])
        return losses[0], float(low), float(high)

    def coefficients(self) -> dict[str, tuple[float, float, float]]:
        """Each coefficient with its 2.5th and 97.5th percentile; scales are not in logarithms."""
        found = {}
        for number, name in enumerate(NAMES[self.name]):
            values = np.array([self.theta[number], *self.resampled[:, number]])
            values = values if name in ("alpha", "beta") else np.exp(values)
            low, high = np.percentile(values[1:], [2.5, 97.5])
            found[name] = (float(values[0]), float(low), float(high))
        return found


def fit(name: str, parameters: np.ndarray, tokens: np.ndarray, losses: np.ndarray,
        resamples: int = 100) -> Fit:
    """Fits the law ``name`` to runs (n,). Deterministic."""
    law, starts = LAWS[name]
    x, y, z = (torch.from_numpy(np.log(np.asarray(v, np.float64)))
               for v in (parameters, tokens, losses))
    best = min((_minimize(law, start, x, y, z) for start in starts), key=lambda found: found[1])[0]
    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(resamples):
        rows = torch.from_numpy(rng.integers(len(z), size=len(z)))
        resampled.append(_minimize(law, best, x[rows], y[rows], z[rows])[0])
    return Fit(name, np.array(best), np.array(resampled))


def _minimize(law: Law, start: tuple[float, ...], x: Tensor, y: Tensor, z: Tensor
              ) -> tuple[tuple[float, ...], float]:
    """The minimum that L-BFGS reaches from ``start``, and the objective there."""
    theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=200, tolerance_grad=1e-10,
                                  tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.huber_loss(law(theta, x, y), z, delta=DELTA) / DELTA
        loss.backward()
        return loss

    optimizer.step(objective)
    with torch.no_grad():
        value = float(torch.nn.functional.huber_loss(law(theta, x, y), z, delta=DELTA))
    return tuple(theta.tolist()), value if math.isfinite(value) else math.inf


def _at(name: str, theta: np.ndarray, parameters: float, tokens: float) -> float:
    log_n, log_d = (torch.tensor([v], dtype=torch.float64).log() for v in (parameters, tokens))
    return float(LAWS[name][0](torch.from_numpy(np.asarray(theta)), log_n, log_d))
