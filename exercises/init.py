"""Exercise 7: initialize GPT-2's weights.

Lecture 2, "model initialization: std 0.02, residual init".
"""

import torch

from reprogpt.model.gpt import GPT


def init_weights(model: GPT, generator: torch.Generator) -> None:
    """Sets every parameter of ``model.named_parameters()`` in place.

    - matrices and embeddings: N(0, 0.02), ``p.normal_(0, std, generator=generator)``
    - ``*.c_proj.weight``, the two of each block that add to the residual stream: std
      0.02 / sqrt(2 * model.cfg.n_layer), so that the sum does not grow with depth
    - biases 0; the weights of a LayerNorm, which are vectors, 1

    Within ``torch.no_grad()``.
    """
    raise NotImplementedError
