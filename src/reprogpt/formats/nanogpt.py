"""Checkpoints of nanoGPT and build-nanogpt, translated into a model directory.

Theirs are pickles, which can run any code when opened. torch's ``weights_only`` reader builds
tensors, numbers, text and containers and refuses all else, so that is the only reader used here.
build-nanogpt stores its settings as an object of its own class: for that one name a stand-in of
ours, which only holds attributes, is allowed in its place. Optimizer state is not taken over.
"""

import pickle
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from reprogpt.config import ModelConfig
from reprogpt.config.messages import explain
from reprogpt.formats.gpt2_names import from_gpt2, gpt2_config, shape_config, to_gpt2
from reprogpt.model.registry import build_model
from reprogpt.storage.files import replacing, write_json
from reprogpt.tokens.tokenizers import load_tokenizer

GPT2_VOCAB = 50257
_SHAPE = ("n_layer", "n_head", "n_embd", "block_size")
_NOT_THEIRS = "only checkpoints of nanoGPT and build-nanogpt can be converted"


class _Settings:
    """Stands in for build-nanogpt's GPTConfig: attributes, and no behaviour."""


# The script that saves it is run as __main__, or imported under its file's name.
_STAND_INS = [(_Settings, f"{module}.GPTConfig") for module in ("__main__", "train_gpt2", "model")]


def convert(checkpoint: Path, out_dir: Path, tokenizer_dir: Path | None = None) -> None:
    """Writes ``out_dir`` in the Hugging Face GPT-2 layout from a nanoGPT or build-nanogpt .pt.

    Raises ValueError, one line with the reason, when it cannot be read without running its code,
    is no such checkpoint, or says of itself what its tensors are not; before anything is written.
    """
    checkpoint, out_dir = Path(checkpoint), Path(out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        raise ValueError(f"{out_dir}: is a file, and the model needs a folder; name another")
    tokenizer = _tokenizer_files(Path(tokenizer_dir)) if tokenizer_dir else []
    state = _load(checkpoint)
    cfg, rows = _settings(state, checkpoint)
    ours = from_gpt2(_tensors(state, checkpoint), cfg.bias, checkpoint,
                     conv1d=False)  # theirs are nn.Linear, as ours
    rows = rows or ours["wte.weight"].size(0)
    _check_tensors(cfg, rows, ours, checkpoint)
    # The tokenizer's vocabulary: both projects pad GPT-2's 50,257 to 50,304 and say 50,304.
    vocab_size = GPT2_VOCAB if GPT2_VOCAB <= rows <= 50304 else rows
    ours["wte.weight"] = ours["wte.weight"][:vocab_size]
    shape = shape_config(**{key: getattr(cfg, key) for key in _SHAPE}, dropout=cfg.dropout,
                         vocab_size=vocab_size,
                         eot=GPT2_VOCAB - 1 if vocab_size == GPT2_VOCAB else None)
    out_dir.mkdir(parents=True, exist_ok=True)
    with replacing(out_dir / "model.safetensors") as temporary:
        save_file({k: v.contiguous() for k, v in to_gpt2(ours, cfg.bias).items()}, temporary,
                  metadata={"format": "pt"})
    for file in tokenizer:
        with replacing(out_dir / file.name) as temporary:
            shutil.copyfile(file, temporary)
    write_json(out_dir / "config.json", gpt2_config(shape, cfg.bias))


def _tokenizer_files(folder: Path) -> list[Path]:
    """What of a folder with a tokenizer goes with the model: of a whole model not its weights."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: is no folder; name one with a tokenizer, such as "
                         "data/tokens/tokenizer")
    load_tokenizer(folder)
    model = {"config.json", "generation_config.json", "model.safetensors.index.json"}
    return [file for file in sorted(folder.iterdir())
            if file.is_file() and file.name not in model and file.suffix != ".safetensors"]


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


def _settings(state: Mapping[str, Any], checkpoint: Path) -> tuple[ModelConfig, int | None]:
    """The shape that the file says it has, and rows of the embedding, if it says those.

    nanoGPT: the dict model_args. build-nanogpt: the attributes of config.
    """
    found = state.get("model_args", state.get("config"))
    settings = vars(found) if isinstance(found, _Settings) else found
    if not isinstance(settings, Mapping) or not all(key in settings for key in _SHAPE):
        raise ValueError(f"{checkpoint}: has no model_args or config with {', '.join(_SHAPE)}; "
                         f"{_NOT_THEIRS}")
    rows = settings.get("vocab_size")
    if rows is not None and (type(rows) is not int or rows < 1):
        raise ValueError(f"{checkpoint}: its vocab_size={rows!r} must be a whole number >= 1; "
                         f"{_NOT_THEIRS}")
    try:
        return ModelConfig.model_validate({
            "architecture": "gpt", **{key: settings[key] for key in _SHAPE},
            "dropout": settings.get("dropout", 0.0), "bias": settings.get("bias", True),
            "init_from": None}), rows
    except ValidationError as error:
        raise ValueError(explain(error, ModelConfig, f"{checkpoint}: its settings")) from None


def _tensors(state: Mapping[str, Any], checkpoint: Path) -> dict[str, Tensor]:
    prefix = "_orig_mod."  # torch.compile's
    tensors = {}
    for name, tensor in state["model"].items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{checkpoint}: model holds {name!r}, which is no tensor; "
                             f"{_NOT_THEIRS}")
        tensors[name.removeprefix(prefix)] = tensor.float()
    if "transformer.wte.weight" not in tensors:
        raise ValueError(f"{checkpoint}: has no transformer.wte.weight; {_NOT_THEIRS}")
    return tensors


def _check_tensors(cfg: ModelConfig, rows: int, tensors: Mapping[str, Tensor], checkpoint: Path
                   ) -> None:
    """Raises ValueError unless the tensors are those of a model of shape ``cfg`` with ``rows`` rows
    in its embedding. ``n_head`` is in no tensor: n_embd is a multiple of it, and no more is known.
    """
    layers = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
    wrong = f"n_layer={cfg.n_layer}, but it has {layers} layers" if layers != cfg.n_layer else ""
    if not wrong:
        with torch.device("meta"):  # names and shapes alone
            wanted = {name: tuple(p.shape)
                      for name, p in build_model(cfg, rows).named_parameters()}
        wanted["wte.weight"] = (rows, cfg.n_embd)  # ours is padded
        for name in sorted(wanted.keys() | tensors.keys()):
            found = tuple(tensors[name].shape) if name in tensors else "absent"
            if not wrong and found != wanted.get(name, "absent"):
                wrong = f"{name} is {found}, but would be {wanted.get(name, 'absent')}"
    if wrong:
        said = ", ".join(f"{key}={getattr(cfg, key)}" for key in (*_SHAPE, "bias"))
        raise ValueError(f"{checkpoint}: its settings ({said}, vocab_size={rows}) are not those of "
                         f"its tensors: {wrong}; correct the settings where it was made")
