"""GPT-2's layout in files, as Hugging Face and OpenAI write it, and ours beside it.

Tensors only: no network is built here, so that a checkpoint can be translated without one. GPT-2
keeps its layers' matrices as (in, out), a module it calls Conv1D; ours are (out, in), torch's
Linear: they are transposed on the way, and nothing else is changed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

OWN_TYPE = "reprogpt"
"""Our key in config.json, and the `model_type` of what transformers has no class for."""

_CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def shape_config(*, n_layer: int, n_head: int, n_embd: int, block_size: int, dropout: float,
                 vocab_size: int, eot: int | None) -> dict[str, Any]:
    """What config.json says of any model: its shape, under the names GPT-2 has for it."""
    return {
        "n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "n_positions": block_size,
        "n_ctx": block_size, "vocab_size": vocab_size, "attn_pdrop": dropout,
        "embd_pdrop": dropout, "resid_pdrop": dropout, "bos_token_id": eot, "eos_token_id": eot,
        "dtype": "float32", "use_cache": True,
    }


def gpt2_config(shape: Mapping[str, Any], bias: bool) -> dict[str, Any]:
    """config.json of a GPT-2 of that shape."""
    return {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **shape,
        "activation_function": "gelu_new",  # transformers' name of the tanh approximation
        "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "n_inner": None,
        "scale_attn_weights": True, "tie_word_embeddings": True,
        # GPT-2 always has biases: a model without exports zeros, and says so here.
        OWN_TYPE: {"bias": bias},
    }


def check_gpt2(config: Mapping[str, Any], path: Path) -> None:
    """Raises ValueError, one line, for a config.json of something that we would not compute."""
    wanted = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
              "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
              "tie_word_embeddings": True}
    for key, value in wanted.items():
        found = config.get(key, None if key == "model_type" else value)
        if found != value:
            raise ValueError(f"{path}/config.json: {key}={found!r} must be {value!r}: only GPT-2 "
                             "and models saved here can be loaded; choose another init_from")
    shape = {"n_positions": config.get("n_ctx"), **config}
    for key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size"):
        if not isinstance(shape.get(key), int):
            raise ValueError(f"{path}/config.json: {key}={shape.get(key)!r} must be a whole "
                             "number; make or fetch the model again")
    width = 4 * config["n_embd"]
    if config.get("n_inner") not in (None, width):
        raise ValueError(f"{path}/config.json: n_inner={config['n_inner']} must be null or "
                         f"4 * n_embd = {width}; choose another init_from")


def to_gpt2(tensors: Mapping[str, Tensor], bias: bool) -> dict[str, Tensor]:
    """Our names and orientation -> GPT-2's, zeros for the biases that a model has not."""
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
    """GPT-2's names -> ours. ``conv1d``: matrices are (in, out), and are transposed.

    Raises ValueError for a head of its own, and for biases where there should be none.
    """
    ours = {}
    for key, tensor in tensors.items():
        name = key.removeprefix("transformer.")  # OpenAI's file has no prefix, others do
        if name.endswith((".attn.bias", ".attn.masked_bias")) or name == "lm_head.weight":
            continue  # the causal triangle, stored by old versions; the tied head, a second time
        if not bias and name.endswith(".bias"):
            if tensor.any():
                raise ValueError(f"{path}: its config says bias false, but {name} is not zero; "
                                 "one of the two is another model's")
            continue
        ours[name] = tensor.t() if conv1d and name.endswith(_CONV1D) else tensor
    head = tensors.get("lm_head.weight")
    if head is not None and not torch.equal(head, ours["wte.weight"]):
        raise ValueError(f"{path}: lm_head.weight differs from wte.weight, but GPT-2's head is "
                         "tied; choose another init_from")
    return ours
