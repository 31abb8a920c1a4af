"""The model that `model.architecture` names."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from reprogpt.config import ModelConfig
from reprogpt.model.gpt import GPT


def build_model(cfg: ModelConfig, vocab_size: int) -> GPT:
    """The model, its weights not initialized yet. Lecture 1's models have the methods of GPT."""
    if cfg.architecture == "gpt":
        return GPT(cfg, vocab_size)
    # By name, which pipeline/checks/code_deps.py does not follow: a GPT does not depend on these.
    rungs = import_module(".lecture1.models", __package__).RUNGS
    model: GPT = rungs[cfg.architecture](cfg, vocab_size)
    return model


def model_shapes(cfg: ModelConfig, vocab_size: int) -> GPT:
    """The model on the device meta: names and shapes without memory, so that none is too large."""
    with torch.device("meta"), _NoInit():
        return build_model(cfg, vocab_size)


class _NoInit(TorchFunctionMode):
    """Leaves out torch.nn.init, which on the device meta imports torch's compiler: 3 seconds."""

    def __torch_function__(self, func: Callable[..., Tensor], types: Sequence[type],
                           args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
                           ) -> Tensor:
        if getattr(func, "__module__", "") == "torch.nn.init":
            found: Tensor = args[0] if args else (kwargs or {})["tensor"]
            return found
        return func(*args, **(kwargs or {}))
