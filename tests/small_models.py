"""Small models for the tests of evaluation and sampling."""

import torch

from reprogpt.config import ModelConfig
from reprogpt.model.gpt import GPT
from reprogpt.model.registry import build_model


def model_config(**changes) -> ModelConfig:
    base = {"architecture": "gpt", "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12,
            "dropout": 0.0, "bias": True, "init_from": None}
    return ModelConfig(**{**base, **changes})


def random_model(vocab_size: int = 70, seed: int = 0, scale: float = 0.1, **changes) -> GPT:
    """A model in which every tensor counts: nothing left at 0 or 1, the padding rows included."""
    model = build_model(model_config(**changes), vocab_size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0.0, scale, generator=generator)
    return model.eval()


def random_ids(vocab_size: int, T: int, rows: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randint(vocab_size, (rows, T), generator=torch.Generator().manual_seed(seed))
