"""GPT-2's config.json and tensor names, as Hugging Face and OpenAI write them, and ours.

Works on dictionaries of tensors; no model is built. GPT-2 stores the matrices of its layers as
(in, out), in a module called Conv1D; ours are (out, in), as in torch's Linear, and are transposed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from reprogpt.config import ModelConfig
from reprogpt.config.messages import explain

OWN_TYPE = "reprogpt"
"""Our key in config.json, and the `model_type` of models that transformers has no class for."""
GPT2_VOCAB = 50257
_CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
# The params that a GPT-2 may set. Any other one makes it a model of our own type.
_GPT2_FIELDS = frozenset({"architecture", "n_layer", "n_head", "n_embd", "block_size", "dropout",
                          "bias", "init_from", "dropout_at"})


def is_gpt2(cfg: ModelConfig) -> bool:
    """Whether transformers' GPT2LMHeadModel computes the same as a model of this config."""
    return cfg.architecture == "gpt" and set(cfg.canonical()) <= _GPT2_FIELDS


def to_config(cfg: ModelConfig, vocab_size: int, eot: int | None) -> dict[str, Any]:
    """config.json of a model: the shape by GPT-2's names for any, the rest by its type. ``eot``:
    the id of <|endoftext|>."""
    shape = {
        "n_layer": cfg.n_layer, "n_head": cfg.n_head, "n_embd": cfg.n_embd,
        "n_positions": cfg.block_size, "n_ctx": cfg.block_size, "vocab_size": vocab_size,
        "attn_pdrop": cfg.dropout_of("attention"), "embd_pdrop": cfg.dropout_of("embedding"),
        "resid_pdrop": cfg.dropout_of("residual"),
        "bos_token_id": eot, "eos_token_id": eot, "dtype": "float32", "use_cache": True,
    }
    if not is_gpt2(cfg):
        ours = cfg.model_copy(update={"init_from": None})
        return {"model_type": OWN_TYPE, **shape, OWN_TYPE: ours.model_dump(exclude_defaults=True)}
    # GPT-2 always has biases: a model without exports zeros, and says so here.
    own: dict[str, Any] = {"bias": cfg.bias}
    if cfg.dropout_at != "all":  # which a probability of 0 at a site does not tell
        own |= {"dropout": cfg.dropout, "dropout_at": cfg.dropout_at}
    return {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **shape,
        "activation_function": "gelu_new",  # transformers' name of the tanh approximation
        "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "n_inner": None,
        "scale_attn_weights": True, "tie_word_embeddings": True,
        OWN_TYPE: own,
    }


def from_config(config: Mapping[str, Any], path: Path) -> ModelConfig:
    """Section model of a GPT-2's config.json. Raises ValueError for a model of another kind."""
    wanted = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
              "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
              "tie_word_embeddings": True}
    for key, value in wanted.items():
        found = config.get(key, None if key == "model_type" else value)
        if found != value:
            raise ValueError(f"{path}/config.json: {key}={found!r} must be {value!r}: only GPT-2 "
                             "and models saved here can be loaded; choose another init_from")
    own = config.get(OWN_TYPE, {})
    try:
        cfg = ModelConfig.model_validate({
            "architecture": "gpt", "init_from": None,
            "n_layer": config.get("n_layer"), "n_head": config.get("n_head"),
            "n_embd": config.get("n_embd"),
            "block_size": config.get("n_positions", config.get("n_ctx")),
            "dropout": config.get("resid_pdrop", 0.1),  # 0.1: transformers' default
            "bias": True, **(own if isinstance(own, dict) else {"bias": own})})
    except ValidationError as error:
        raise ValueError(explain(error, ModelConfig, f"{path}/config.json")) from None
    if config.get("n_inner") not in (None, 4 * cfg.n_embd):
        raise ValueError(f"{path}/config.json: n_inner={config['n_inner']} must be null or "
                         f"4 * n_embd = {4 * cfg.n_embd}; choose another init_from")
    return cfg


def to_gpt2(tensors: Mapping[str, Tensor], bias: bool) -> dict[str, Tensor]:
    """Tensors by our names -> by GPT-2's, with zeros as the biases of a model without biases."""
    gpt2 = {}
    for name, tensor in tensors.items():
        transposed = name.endswith(_CONV1D)
        gpt2[f"transformer.{name}"] = tensor.t().contiguous() if transposed else tensor
        if not bias and name.endswith(".weight") and not name.startswith(("wte", "wpe")):
            # c_attn, c_proj, c_fc: (out, in); a LayerNorm's gain: (C,)
            gpt2[f"transformer.{name.removesuffix('weight')}bias"] = torch.zeros(tensor.size(0))
    return gpt2


def from_gpt2(tensors: Mapping[str, Tensor], bias: bool, path: Path,
              conv1d: bool = True) -> dict[str, Tensor]:
    """Tensors by GPT-2's names -> by ours. ``conv1d``: matrices are (in, out).

    Raises ValueError for an untied head, and for biases other than 0 in a model without biases.
    """
    ours = {}
    for key, tensor in tensors.items():
        name = key.removeprefix("transformer.")  # OpenAI's file has no prefix, others do
        if name.endswith((".attn.bias", ".attn.masked_bias")) or name == "lm_head.weight":
            continue  # old versions store the causal mask; the tied head is stored twice
        if not bias and name.endswith(".bias"):
            if tensor.any():
                raise ValueError(f"{path}: its config says bias false, but {name} is not zero; "
                                 "one of the two is another model's")
            continue
        # (0, -1): of any dimensions, so that who compares shapes can name one that is no matrix
        ours[name] = tensor.transpose(0, -1) if conv1d and name.endswith(_CONV1D) else tensor
    head, wte = tensors.get("lm_head.weight"), ours.get("wte.weight")
    if head is not None and wte is not None and not torch.equal(head, wte):
        raise ValueError(f"{path}: lm_head.weight differs from wte.weight, but GPT-2's head is "
                         "tied; choose another init_from")
    return ours
