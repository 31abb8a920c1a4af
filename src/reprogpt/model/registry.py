"""The model that `model.architecture` names."""

from importlib import import_module

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
