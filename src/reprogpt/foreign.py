"""Checkpoints of nanoGPT and build-nanogpt, translated into a model directory.

Theirs are pickles, which can run any code when opened. torch's ``weights_only`` reader builds
tensors, numbers, text and containers and refuses all else, so that is the only reader used here.
build-nanogpt stores its settings as an object of its own class: for that one name a stand-in of
ours, which only holds attributes, is allowed in its place. Optimizer state is not taken over.
"""

import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from reprogpt.files import replacing, write_json
from reprogpt.gpt2_layout import from_gpt2, gpt2_config, shape_config, to_gpt2

GPT2_VOCAB = 50257


class _Settings:
    """Stands in for build-nanogpt's GPTConfig: attributes, and no behaviour."""


# The script that saves it is run as __main__, or imported under its file's name.
_STAND_INS = [(_Settings, f"{module}.GPTConfig") for module in ("__main__", "train_gpt2", "model")]


def convert(checkpoint: Path, out_dir: Path, tokenizer_dir: Path | None = None) -> None:
    """Writes ``out_dir`` in the Hugging Face GPT-2 layout from a nanoGPT or build-nanogpt .pt.

    Raises ValueError, one line with the reason, when it cannot be read without running its code
    or is no such checkpoint.
    """
    checkpoint = Path(checkpoint)
    state = _load(checkpoint)
    settings = _settings(state, checkpoint)
    prefix = "_orig_mod."  # torch.compile's
    tensors = {k.removeprefix(prefix): v.float() for k, v in state["model"].items()}
    bias = bool(settings.get("bias", True))
    ours = from_gpt2(tensors, bias, checkpoint, conv1d=False)  # theirs are nn.Linear, as ours
    vocab_size = _vocab_size(settings, ours, checkpoint)
    ours["wte.weight"] = ours["wte.weight"][:vocab_size]
    shape = shape_config(
        n_layer=settings["n_layer"], n_head=settings["n_head"], n_embd=settings["n_embd"],
        block_size=settings["block_size"], dropout=float(settings.get("dropout", 0.0)),
        vocab_size=vocab_size, eot=GPT2_VOCAB - 1 if vocab_size == GPT2_VOCAB else None)
    out_dir.mkdir(parents=True, exist_ok=True)
    with replacing(out_dir / "model.safetensors") as temporary:
        save_file({k: v.contiguous() for k, v in to_gpt2(ours, bias).items()}, temporary,
                  metadata={"format": "pt"})
    for file in sorted(Path(tokenizer_dir).iterdir()) if tokenizer_dir else []:
        with replacing(out_dir / file.name) as temporary:
            shutil.copyfile(file, temporary)
    write_json(out_dir / "config.json", gpt2_config(shape, bias))


def _load(checkpoint: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals(_STAND_INS):  # type: ignore[arg-type]
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{checkpoint}: does not exist; name a .pt file") from None
    except pickle.UnpicklingError as error:
        reason = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line),
                      "it holds more than tensors and plain values")
        raise ValueError(f"{checkpoint}: refused, since reading it would run code from the file "
                         f"({reason}); save its weights as safetensors where it was made") from None
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{checkpoint}: is no torch checkpoint "
                         f"({(str(error).splitlines() or ['it ends early'])[0][:100]})") from None
    if not isinstance(state, Mapping) or not isinstance(state.get("model"), Mapping):
        raise ValueError(f"{checkpoint}: has no state under the key model; only checkpoints of "
                         "nanoGPT and build-nanogpt can be converted")
    return state


def _settings(state: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
    """nanoGPT: the dict model_args. build-nanogpt: the attributes of config."""
    found = state.get("model_args", state.get("config"))
    settings = vars(found) if isinstance(found, _Settings) else found
    needed = ("n_layer", "n_head", "n_embd", "block_size")
    if not isinstance(settings, Mapping) or not all(key in settings for key in needed):
        raise ValueError(f"{checkpoint}: has no model_args or config with {', '.join(needed)}; "
                         "only checkpoints of nanoGPT and build-nanogpt can be converted")
    return dict(settings)


def _vocab_size(settings: Mapping[str, Any], tensors: Mapping[str, Tensor],
                checkpoint: Path) -> int:
    """The tokenizer's vocabulary: both projects pad GPT-2's 50,257 to 50,304 and say 50,304."""
    if "wte.weight" not in tensors:
        raise ValueError(f"{checkpoint}: has no transformer.wte.weight; only checkpoints of "
                         "nanoGPT and build-nanogpt can be converted")
    rows = int(settings.get("vocab_size") or tensors["wte.weight"].size(0))
    return GPT2_VOCAB if GPT2_VOCAB <= rows <= 50304 else rows
