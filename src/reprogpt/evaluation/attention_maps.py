"""The attention weights of every layer and head over the tokens of a prompt."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from reprogpt.model.gpt import GPT


class _Recorder(TorchFunctionMode):
    """Records softmax(q k^T / sqrt(D)) at each call of scaled_dot_product_attention, which itself
    never has the weights as a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            q, k, _, mask = args
            scores = (q @ k.mT / math.sqrt(q.size(-1))).masked_fill(~mask, -torch.inf)
            self.weights.append(scores.softmax(-1)[0].float().cpu())
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def attention_weights(model: GPT, ids: list[int]) -> Tensor:
    """Weights (n_layer, n_head, T, T) for T token ids: row t says how much position t takes from
    each position up to t, and sums to 1. ``model`` in float32.

    Raises ValueError for a prompt of more than block_size tokens, and for a model of lecture 1.
    """
    T, limit = len(ids), model.cfg.block_size
    if model.cfg.architecture != "gpt":
        raise ValueError(f"--prompt needs a model of architecture gpt, not "
                         f"{model.cfg.architecture}; leave it out")
    if limit < T:
        raise ValueError(f"--prompt has {T} tokens and must have at most {limit}, the model's "
                         "block_size; shorten it")
    device = model.wte.weight.device
    causal = torch.ones(T, T, dtype=torch.bool, device=device).tril()
    with _Recorder() as recorder:
        model(torch.tensor([ids], device=device), mask=causal)  # a mask rules out faster paths
    return torch.stack(recorder.weights)
