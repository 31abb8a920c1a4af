"""The networks by the name that `model.architecture` gives them."""

from collections.abc import Callable
from typing import Any

from reprogpt.config import ModelConfig
from reprogpt.model.gpt import GPT
from reprogpt.model.lecture1.models import RUNGS

ARCHITECTURES: dict[str, Callable[[ModelConfig, int], Any]] = {"gpt": GPT, **RUNGS}


def build_model(cfg: ModelConfig, vocab_size: int) -> GPT:
    """The network that ``cfg.architecture`` names, weights not yet initialized.

    A rung is no GPT, but speaks its protocol. Raises ValueError for a name that is none.
    """
    if cfg.architecture not in ARCHITECTURES:
        raise ValueError(f"params.yaml: model.architecture={cfg.architecture!r} must be one of "
                         f"{', '.join(ARCHITECTURES)}; correct it")
    model: GPT = ARCHITECTURES[cfg.architecture](cfg, vocab_size)
    return model
