"""The networks by the name that `model.architecture` gives them."""

from torch import nn

from reprogpt.config import ModelConfig
from reprogpt.model import GPT

ARCHITECTURES: dict[str, type[nn.Module]] = {"gpt": GPT}


def build_model(cfg: ModelConfig, vocab_size: int) -> GPT:
    """The network that ``cfg.architecture`` names, weights not yet initialized.

    A rung is no GPT, but speaks its protocol (rungs.py). Raises ValueError for an architecture
    that does not exist.
    """
    if cfg.architecture not in ARCHITECTURES:
        raise ValueError(f"params.yaml: model.architecture={cfg.architecture!r} must be one of "
                         f"{', '.join(ARCHITECTURES)}; correct it")
    return ARCHITECTURES[cfg.architecture](cfg, vocab_size)  # type: ignore[return-value]
