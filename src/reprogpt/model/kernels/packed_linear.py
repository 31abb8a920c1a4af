"""Pre-packed Linear weights for inference on a CPU: sampling and scoring.

torch packs a weight again for every product, which costs a sampling step as much as the product
itself. oneDNN packs it once, and applies GELU while the product is in the cache (docs/speed.md).
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from reprogpt.model.gpt import GPT, MLP
from reprogpt.model.kernels.choose import gelu, packing_pays
from reprogpt.model.loss import softcap


class Packed(nn.Module):
    """Linear with a packed copy of ``weight`` (out, in): x (..., in) -> (..., out), followed by
    GELU's tanh approximation if ``gelu``."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self._bias = bias
        self._activation = "gelu" if gelu else "none"

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias,
                                                       self._activation, [], "tanh")
        return y


def packed(model: GPT, many_rows: bool = False) -> GPT:
    """An inference copy of ``model`` with packed Linears and all else shared. Or the model itself,
    where packing does not pay, it is no GPT, or autocast is on, which packed products ignore.

    ``many_rows``: it reads hundreds of tokens at a time, and scoring.Head computes its logits.
    """
    if (not isinstance(model, GPT) or torch.is_autocast_enabled(model.wte.weight.device.type)
            or not packing_pays(model.wte.weight, many_rows)):
        return model
    twin: GPT = _copy(model)
    if many_rows:
        return twin
    head = Packed(model.head_weight)
    twin.logits = lambda x: softcap(  # type: ignore[method-assign]
        head(x)[..., :model.vocab_size].float(), model.logit_softcap)
    return twin


def _copy(module: nn.Module) -> Any:
    """A copy of the module with its Linears packed and everything else shared."""
    if type(module) is nn.Linear:
        return Packed(module.weight, module.bias)
    twin, children = copy.copy(module), dict(module._modules)
    twin._modules = {}
    if isinstance(module, MLP) and module.activation is gelu:
        twin.c_fc = Packed(module.c_fc.weight, module.c_fc.bias, gelu=True)
        twin.activation = nn.Identity()
        del children["c_fc"]
    for name, child in children.items():  # packed() packs the head
        twin._modules[name] = child if child is None or name == "lm_head" else _copy(child)
    return twin
