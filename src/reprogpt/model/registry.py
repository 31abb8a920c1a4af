"""The model that `model.architecture` names."""

from importlib import import_module

from reprogpt.config import ModelConfig
from reprogpt.model.gpt import GPT


def build_model(cfg: ModelConfig, vocab_size: int) -> GPT:
    """The model that ``cfg.architecture`` names, its weights not initialized yet.

    One of lecture 1's models is no GPT, but has its methods. Raises ValueError for an unknown name.
    """
    if cfg.architecture == "gpt":
        return GPT(cfg, vocab_size)
    # By name, which pipeline/checks/code_deps.py does not follow: a GPT does not depend on these.
    rungs = import_module(".lecture1.models", __package__).RUNGS
    if cfg.architecture not in rungs:
        raise ValueError(f"params.yaml: model.architecture={cfg.architecture!r} must be one of "
                         f"gpt, {', '.join(rungs)}; correct it")
    model: GPT = rungs[cfg.architecture](cfg, vocab_size)
    return model
