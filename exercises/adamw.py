"""Exercise 14: AdamW's step.

Lecture 2, "hyperparameters, AdamW, gradient clipping"; "Decoupled Weight Decay Regularization"
(Loshchilov and Hutter, 2019).
"""

from torch import Tensor


def adamw_step(p: Tensor, grad: Tensor, m: Tensor, v: Tensor, step: int, lr: float, beta1: float,
               beta2: float, eps: float, weight_decay: float) -> tuple[Tensor, Tensor, Tensor]:
    """A parameter, its gradient and its two moments, all of one shape -> the new p, m, v.

    ``step`` counts from 1. Before the first one m and v are 0.

        p <- p - lr * weight_decay * p
        m <- beta1 * m + (1 - beta1) * grad
        v <- beta2 * v + (1 - beta2) * grad^2
        p <- p - lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
    """
    raise NotImplementedError
