"""Model directories in the Hugging Face layout: config.json, model.safetensors, tokenizer files.

A GPT-2 is written under GPT-2's own names (gpt2_names.py), so that transformers, vLLM and lm-eval
open it; any other model under our parameter names and a ``model_type`` of our own. Padding rows of
the vocabulary are not written.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reprogpt.config import ModelConfig
from reprogpt.config.messages import explain, show
from reprogpt.formats.gpt2_names import (
    GPT2_VOCAB,
    OWN_TYPE,
    from_config,
    from_gpt2,
    is_gpt2,
    to_config,
    to_gpt2,
)
from reprogpt.model.gpt import GPT
from reprogpt.model.registry import build_model, model_shapes
from reprogpt.storage.files import check_sums, naming, temporary_folder, write_sums
from reprogpt.tokens.tokenizers import load_tokenizer

AGAIN = "make or fetch the model again"
_VOCAB_ROWS = re.compile(r"(wte|lm_head|value_embeds\.\d+)\.weight$")


@dataclass(frozen=True)
class Weights:
    """A model as its files hold it: our parameter names, (out, in) matrices, no padding rows."""

    cfg: ModelConfig
    vocab_size: int
    tensors: Mapping[str, Tensor]
    source: str
    """Where it was read from, for messages."""


def save_model(folder: Path, model: nn.Module, cfg: ModelConfig,
               tokenizer_dir: Path | None) -> None:
    """Writes a model directory, whole or not at all. The same weights give the same bytes.

    ``model`` is the unwrapped network (no DDP, no torch.compile) and has a ``vocab_size``;
    ``tokenizer_dir`` holds a saved tokenizer, or is None for a model without one. An existing
    directory is replaced, never written into: its files may be hard links into DVC's cache.
    """
    with naming(folder), temporary_folder(folder) as temporary:
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        vocab_size = int(model.vocab_size)  # type: ignore[arg-type]
        eot = GPT2_VOCAB - 1 if vocab_size == GPT2_VOCAB else None
        if tokenizer_dir is not None:
            eot = load_tokenizer(tokenizer_dir).eot  # raises if there is none
            for file in tokenizer_dir.iterdir():  # it may be a whole model directory
                if (file.suffix in (".json", ".txt") and "safetensors" not in file.name
                        and not file.name.startswith(".")):
                    shutil.copyfile(file, new / file.name)
        config = json.dumps(to_config(cfg, vocab_size, eot), indent=2)
        (new / "config.json").write_text(config + "\n")
        tensors = {}
        for name, p in _state(model).items():
            rows = vocab_size if _VOCAB_ROWS.search(name) else None
            tensors[name] = p.detach()[:rows].to("cpu", torch.float32).contiguous()
        try:
            save_file(to_gpt2(tensors, cfg.bias) if is_gpt2(cfg) else tensors,
                      new / "model.safetensors",
                      metadata={"format": "pt"})  # transformers refuses a file without it
        except SafetensorError as error:
            if (code := re.search(r"os error (\d+)", str(error))) is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1])),
                          str(folder / "model.safetensors")) from None
        write_sums(new)
        for file in new.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if folder.exists():  # a rename cannot replace a directory that is not empty
            folder.rename(old)
        new.rename(folder)


def load_model(folder: Path, device: str | torch.device = "cpu") -> tuple[GPT, ModelConfig]:
    """The model in a directory, ours or any GPT-2, float32, in eval mode; and its config."""
    weights = read_checked(folder)
    model = build_model(weights.cfg, weights.vocab_size)
    load_weights(model, weights)
    return model.to(device).eval(), weights.cfg


def read_checked(folder: Path) -> Weights:
    """:func:`read_weights`, with exactly the tensors of a model of its config. Raises ValueError.
    """
    weights = read_weights(folder)
    if weights.cfg.n_layer > max(1000, len(weights.tensors)):  # 1000 cost a second to lay out
        raise ValueError(f"{folder}/config.json: n_layer={weights.cfg.n_layer}, but the file has "
                         f"only {len(weights.tensors)} tensors; {AGAIN}")
    _check_tensors(model_shapes(weights.cfg, weights.vocab_size), weights)
    return weights


@torch.no_grad()
def load_weights(model: nn.Module, source: Weights | Path) -> None:
    """Copies weights into a model that is already built, say from params.yaml.

    The model may have a shorter block_size; padding rows of the vocabulary become 0. Raises
    ValueError, one line, where configs or shapes differ, or a value is nan or infinite.
    """
    weights = source if isinstance(source, Weights) else read_weights(source)
    check_shape(model.cfg, weights.cfg, weights.source)  # type: ignore[arg-type]
    vocab_size = int(model.vocab_size)  # type: ignore[arg-type]
    if vocab_size != weights.vocab_size:
        raise ValueError(f"params.yaml: tokenize.encoding gives {vocab_size} tokens but "
                         f"{weights.source} has {weights.vocab_size}; use the encoding it was "
                         "trained with")
    _check_tensors(model, weights)
    for name, p in _state(model).items():
        tensor = weights.tensors[name]
        if not tensor.isfinite().all():
            raise ValueError(f"{weights.source}: {name} in its safetensors has values that are nan "
                             "or infinite; train it again with a lower train.lr, or fetch it again")
        rows = min(len(p), len(tensor))
        p[:rows].copy_(tensor[:rows])
        p[rows:] = 0


def _check_tensors(model: nn.Module, weights: Weights) -> None:
    """Raises ValueError naming a tensor that is absent, or not as in a model of its config."""
    shapes = {}
    for name, p in _state(model).items():  # as in the file: no padding, all positions
        rows = (weights.vocab_size if _VOCAB_ROWS.search(name) else
                weights.cfg.block_size if name == "wpe.weight" else len(p))
        shapes[name] = (rows, *p.shape[1:])
    for name in sorted(shapes.keys() | weights.tensors.keys()):
        found = tuple(weights.tensors[name].shape) if name in weights.tensors else "absent"
        wanted = shapes.get(name, "absent")
        if found != wanted:
            raise ValueError(f"{weights.source}: {name} is {found}, but would be {wanted} in a "
                             f"model of its config; {AGAIN}")


def read_weights(path: Path) -> Weights:
    """The tensors of a model directory, ours or any GPT-2, by our names. Raises ValueError."""
    config, cfg = read_config(path)
    vocab_size = config.get("vocab_size")
    if type(vocab_size) is not int or not 0 < vocab_size < 2**31:
        raise ValueError(f"{path}/config.json: vocab_size={vocab_size!r} must be a whole number of "
                         f"tokens; {AGAIN}")
    tensors = _read_safetensors(path)
    if config.get("model_type") != OWN_TYPE:
        tensors = from_gpt2(tensors, cfg.bias, path)
    return Weights(cfg, vocab_size, tensors, str(path))


def read_config(path: Path) -> tuple[dict[str, Any], ModelConfig]:
    """A model directory's config.json, and the section model it stands for. Raises ValueError."""
    if not (path / "config.json").is_file():
        raise ValueError(f"{path}: no config.json; give a model directory in the Hugging Face "
                         "layout (config.json, model.safetensors)")
    check_sums(path, ["config.json"], AGAIN)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}/config.json: is damaged ({error}); {AGAIN}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}/config.json: must hold a mapping; {AGAIN}")
    if config.get("model_type") != OWN_TYPE:
        return config, from_config(config, path)
    try:
        return config, ModelConfig.model_validate(config.get(OWN_TYPE))
    except ValidationError as error:
        raise ValueError(explain(error, ModelConfig, f"{path}/config.json")) from None


def check_shape(cfg: ModelConfig, theirs: ModelConfig, source: str | Path) -> None:
    """Raises ValueError where a model of ``cfg`` cannot start from one of ``theirs``."""
    free = {"block_size", "dropout", "dropout_at", "init_from"}
    for key in (name for name in ModelConfig.model_fields if name not in free):
        if getattr(cfg, key) != getattr(theirs, key):
            raise ValueError(f"params.yaml: model.{key}={show(getattr(cfg, key))} must be "
                             f"{show(getattr(theirs, key))}, that of {source}; correct it")
    if cfg.block_size > theirs.block_size:
        raise ValueError(f"params.yaml: model.block_size={cfg.block_size} must be at most "
                         f"{theirs.block_size}, the positions of {source}; lower it")


def check_tokenizer(path: Path, other: Mapping[str, Any]) -> None:
    """Raises ValueError where a model directory's trained tokenizer is not ``other``, that of a
    manifest: the same ids would stand for other text."""
    try:
        tokenizer = load_tokenizer(path)
    except ValueError:  # a model without one
        return
    if "bpe" in (tokenizer.name, other["name"]) and tokenizer.fingerprint != other["fingerprint"]:
        raise ValueError(f"{path}: its tokenizer ({tokenizer.name}, {tokenizer.n_vocab} ids) is "
                         f"not that of the shards ({other['name']}, {other['n_vocab']} ids), which "
                         "was trained on their text; set model.init_from: null")


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; a tied parameter once."""
    saved = model.state_dict().keys()
    return {**dict(model.named_parameters()),
            **{name: buffer for name, buffer in model.named_buffers() if name in saved}}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    check_sums(path, ["*.safetensors", "model.safetensors.index.json"], AGAIN)
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if not single.is_file() and not index.is_file():
        raise ValueError(f"{path}: no model.safetensors; pickled weights (pytorch_model.bin) are "
                         "not read, since opening one runs its code: save it with safetensors "
                         "first")
    try:
        if single.is_file():
            return load_file(single)
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return {k: v for file in files for k, v in load_file(path / Path(file).name).items()}
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError,
            RecursionError) as error:
        raise ValueError(f"{path}: its safetensors are damaged or incomplete ({error}); "
                         f"{AGAIN}") from None
