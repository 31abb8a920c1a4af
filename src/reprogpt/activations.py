"""The bends of a feed-forward layer, by the name that `model.activation` gives them."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": partial(F.gelu, approximate="tanh"),  # Hendrycks and Gimpel, 2016: GPT-2's
    "gelu": F.gelu,
    "relu2": lambda x: F.relu(x).square(),  # So et al., 2021 (Primer)
    "swiglu": F.silu,  # of the gate: see model.MLP (Shazeer, 2020)
}
