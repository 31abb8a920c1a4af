"""Matrices laid out once for a model that is only read: sampling and scoring.

Torch lays a matrix out anew for each product on a CPU, which for the four rows of a step of
sampling costs as much as the product itself. oneDNN's packed form is laid out once, and computes
GELU while a product is still in the cache. docs/speed.md has what both are worth.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from reprogpt.model.activations import ACTIVATIONS
from reprogpt.model.gpt import GPT, MLP
from reprogpt.model.loss import softcap
from reprogpt.runtime.device import computes_bfloat16


class Packed(nn.Module):
    """x (..., in) -> (..., out), as the Linear whose weight (out, in) it was made of; with ``gelu``
    GELU's tanh approximation of that."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self._bias = bias
        self._then = "gelu" if gelu else "none"

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._then,
                                                        [], "tanh")
        return y


def packed(model: GPT, many_rows: bool = False) -> GPT:
    """The same model for reading only, packed where that pays: GPTs on a CPU.

    Elsewhere, and under autocast, which packed products pass by, it is the model itself. Embeddings
    and norms are shared with it; results differ in rounding. ``many_rows``: it will read hundreds
    of tokens at a time, not a few, and scoring.Head has its logits.
    """
    if (not isinstance(model, GPT) or torch.is_autocast_enabled(model.wte.weight.device.type)
            or not packing_pays(model.wte.weight, many_rows)):
        return model
    twin: GPT = _copy(model)
    if many_rows:
        return twin
    head = Packed(model.head_weight)
    vocab_size, cap = model.vocab_size, model.logit_softcap

    def logits(x: Tensor) -> Tensor:
        y = head(x)[..., :vocab_size].float()
        return y if cap is None else softcap(y, cap)

    twin.logits = logits  # type: ignore[method-assign]
    return twin


def packing_pays(weight: Tensor, many_rows: bool) -> bool:
    """Whether products with ``weight`` are quicker packed, on a CPU: with a few rows always; with
    many on processors with bfloat16, by 15% in either precision, while on those without MKL was
    quicker."""
    needed = ("_reorder_linear_weight", "_linear_pointwise")  # torch's own, for its compiler
    if (weight.device.type != "cpu" or not torch.backends.mkldnn.is_available()
            or not all(hasattr(torch.ops.mkldnn, name) for name in needed)):
        return False
    if weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    few = weight.dtype == torch.float32 and not many_rows
    return few or computes_bfloat16(weight.device)


def _copy(module: nn.Module) -> Any:
    """The module with its Linears packed and all else shared."""
    if type(module) is nn.Linear:
        return Packed(module.weight, module.bias)
    twin, children = copy.copy(module), dict(module._modules)
    twin._modules = {}
    if isinstance(module, MLP) and module.activation is ACTIVATIONS["gelu_tanh"]:
        twin.c_fc = Packed(module.c_fc.weight, module.c_fc.bias, gelu=True)
        twin.activation = nn.Identity()
        del children["c_fc"]
    for name, child in children.items():  # the head is packed apart
        twin._modules[name] = child if child is None or name == "lm_head" else _copy(child)
    return twin
