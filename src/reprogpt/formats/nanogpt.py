"""Checkpoints of nanoGPT and build-nanogpt (.pt), converted to model directories.

They are pickles, which can run any code when opened, so only torch's ``weights_only`` reader is
used. build-nanogpt stores its settings as an object of a class of its own: for that one name an
empty class of ours is allowed in its place. Optimizer state is not converted.
"""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from reprogpt.config import ModelConfig
from reprogpt.config.messages import explain
from reprogpt.formats.gpt2_names import GPT2_VOCAB, from_gpt2
from reprogpt.formats.hub_model import MODEL_FILES
from reprogpt.formats.huggingface import Weights, load_weights, save_model
from reprogpt.model.registry import build_model
from reprogpt.storage.files import SUMS
from reprogpt.tokens.tokenizers import load_tokenizer

_SHAPE = ("n_layer", "n_head", "n_embd", "block_size")
_NOT_THEIRS = "only checkpoints of nanoGPT and build-nanogpt can be converted"


class _Settings:
    """Takes the place of build-nanogpt's GPTConfig: attributes, and no behaviour."""


# The script that saves it is run as __main__, or imported by its file's name.
_STAND_INS = [(_Settings, f"{module}.GPTConfig") for module in ("__main__", "train_gpt2", "model")]


def convert(checkpoint: Path, out_dir: Path, tokenizer_dir: Path | None = None) -> None:
    """Writes a model directory from a nanoGPT or build-nanogpt checkpoint.

    Raises ValueError before anything is written: for a file that cannot be read without running its
    code, is no such checkpoint, or has tensors of another shape than its settings say.
    """
    for other in out_dir.iterdir() if out_dir.is_dir() else [out_dir]:
        if other.exists() and not any(map(other.match, (*MODEL_FILES, SUMS))):
            raise ValueError(f"{out_dir}: must be a new folder or a model directory, which is then "
                             f"replaced, but {other} is no file of a model; name another")
    if tokenizer_dir:
        if not tokenizer_dir.is_dir():
            raise ValueError(f"{tokenizer_dir}: is no folder; name one with a tokenizer, such as "
                             "data/tokens/tokenizer")
        load_tokenizer(tokenizer_dir)  # raises if there is none
    state = _load(checkpoint)
    cfg, rows = _settings(state, checkpoint)
    # Their matrices are nn.Linear's, as ours.
    tensors = from_gpt2(_tensors(state, checkpoint), cfg.bias, checkpoint, conv1d=False)
    table = tensors["wte.weight"]
    if rows not in (None, len(table)):
        raise ValueError(f"{checkpoint}: its vocab_size={rows!r} must be {len(table)}, the rows of "
                         "wte.weight; correct the settings where it was made")
    # The tokenizer's vocabulary: both projects pad GPT-2's 50,257 to 50,304, and say 50,304.
    vocab_size = GPT2_VOCAB if GPT2_VOCAB <= len(table) <= 50304 else len(table)
    tensors["wte.weight"] = table[:vocab_size]
    model = build_model(cfg, vocab_size)
    load_weights(model, Weights(cfg, vocab_size, tensors, str(checkpoint)))
    save_model(out_dir, model, cfg, tokenizer_dir)


def _load(checkpoint: Path) -> Mapping[str, Any]:
    try:
        with (warnings.catch_warnings(action="ignore"),  # of pickles that it may not understand
              torch.serialization.safe_globals(_STAND_INS)):  # type: ignore[arg-type]
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{checkpoint}: {error.strerror or 'cannot be read'}; name a .pt file"
                         ) from None
    except pickle.UnpicklingError as error:
        reason = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line),
                      "it holds more than tensors and plain values")
        raise ValueError(f"{checkpoint}: refused, since reading it would run code from the file "
                         f"({reason}); save its weights as safetensors where it was made") from None
    except Exception as error:  # torch's reader raises whatever the bytes of another format lead to
        reason = (str(error).splitlines() or ["it ends early"])[0][:100]
        raise ValueError(f"{checkpoint}: is no torch checkpoint ({type(error).__name__}: {reason})"
                         "; name a .pt file of nanoGPT or build-nanogpt") from None
    if not isinstance(state, Mapping) or not isinstance(state.get("model"), Mapping):
        raise ValueError(f"{checkpoint}: has no state under the key model; {_NOT_THEIRS}")
    return state


def _settings(state: Mapping[str, Any], checkpoint: Path) -> tuple[ModelConfig, Any]:
    """The config that the checkpoint states, and its vocab_size, None if it states none.

    nanoGPT: the dict model_args. build-nanogpt: the attributes of config.
    """
    found = state.get("model_args", state.get("config"))
    settings = vars(found) if isinstance(found, _Settings) else found
    if not isinstance(settings, Mapping) or not all(key in settings for key in _SHAPE):
        raise ValueError(f"{checkpoint}: has no model_args or config with {', '.join(_SHAPE)}; "
                         f"{_NOT_THEIRS}")
    try:
        cfg = ModelConfig.model_validate({
            "architecture": "gpt", **{key: settings[key] for key in _SHAPE},
            "dropout": settings.get("dropout", 0.0), "bias": settings.get("bias", True),
            "init_from": None})
    except ValidationError as error:
        raise ValueError(explain(error, ModelConfig, f"{checkpoint}: its settings")) from None
    return cfg, settings.get("vocab_size")


def _tensors(state: Mapping[str, Any], checkpoint: Path) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in state["model"].items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{checkpoint}: model holds {name!r}, which is no tensor; "
                             f"{_NOT_THEIRS}")
        tensors[name.removeprefix("_orig_mod.")] = tensor.float()  # torch.compile's prefix
    if "transformer.wte.weight" not in tensors:
        raise ValueError(f"{checkpoint}: has no transformer.wte.weight; {_NOT_THEIRS}")
    return tensors
