"""A model directory in the Hugging Face layout: what is trained here opens elsewhere as it is.

``config.json``, ``model.safetensors`` and the tokenizer's files; see gpt2_layout.py. The
vocabulary's padding rows stay behind.

A model with a switch that GPT-2 has not, or of another architecture, is written in the same layout
under its own ``model_type``, with our parameter names: it loads back here exactly, and transformers
refuses it by that name rather than computing something else.
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
from reprogpt.config.messages import explain
from reprogpt.formats.gpt2_names import (
    OWN_TYPE,
    check_gpt2,
    from_gpt2,
    gpt2_config,
    shape_config,
    to_gpt2,
)
from reprogpt.model.gpt import GPT, padded_vocab
from reprogpt.model.registry import build_model
from reprogpt.storage.files import sync_folder
from reprogpt.tokens.tokenizers import load_tokenizer

_VOCAB_ROWS = re.compile(r"(wte|lm_head|value_embeds\.\d+)\.weight$")
# The shape of a GPT-2, which every reader of config.json finds under GPT-2's own names.
_GPT2_FIELDS = frozenset({"architecture", "n_layer", "n_head", "n_embd", "block_size", "dropout",
                          "bias", "init_from"})


@dataclass(frozen=True)
class Weights:
    """A model as a file holds it: our parameter names, (out, in) matrices, no padding rows."""

    cfg: ModelConfig
    vocab_size: int
    tensors: Mapping[str, Tensor]
    source: str
    """Where it came from, for messages."""


def save_model(dir: str | Path, model: nn.Module, model_cfg: ModelConfig,
               tokenizer_dir: str | Path | None) -> None:
    """Writes ``dir`` whole or not at all: config.json, model.safetensors and the tokenizer.

    ``model`` is the bare network (no DDP or compile wrapper) with ``vocab_size``;
    ``tokenizer_dir`` holds what ``Tokenizer.save`` wrote, or is None for a model without one. The
    same weights give the same bytes. A directory that is there is replaced, never written into:
    DVC may have hard-linked its files to the cache.
    """
    final = Path(dir)
    final.parent.mkdir(parents=True, exist_ok=True)
    building = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        eot = None
        if tokenizer_dir is not None:
            eot = load_tokenizer(Path(tokenizer_dir)).eot
            for file in sorted(Path(tokenizer_dir).iterdir()):
                shutil.copyfile(file, building / file.name)
        vocab_size = int(model.vocab_size)  # type: ignore[arg-type]
        config = _to_config(model_cfg, vocab_size, eot)
        (building / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(_to_tensors(model, model_cfg, vocab_size), building / "model.safetensors",
                  metadata={"format": "pt"})  # transformers refuses a file without it
        for file in building.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        _replace(building, final)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def load_model(dir: str | Path, device: str | torch.device = "cpu",
               block_size: int | None = None) -> tuple[GPT, ModelConfig]:
    """The model in a directory, on ``device``, float32, in eval mode, and its config.

    Ours, or any GPT-2 in the Hugging Face layout. ``block_size`` crops the context: positions
    are learned one by one, so the first ones stand on their own. Raises ValueError.
    """
    weights = read_weights(dir)
    cfg = weights.cfg
    if block_size is not None:
        cfg = cfg.model_copy(update={"block_size": block_size})
    model = build_model(cfg, weights.vocab_size)
    load_weights(model, weights)
    return model.to(device).eval(), cfg


@torch.no_grad()
def load_weights(model: nn.Module, source: Weights | str | Path) -> None:
    """Copies weights into a model already built, say from params.yaml.

    The model may have a shorter block_size than the weights: their first positions are taken.
    Raises ValueError, one line, where shapes or names differ.
    """
    weights = source if isinstance(source, Weights) else read_weights(source)
    cfg: ModelConfig = model.cfg  # type: ignore[assignment]
    check_shape(cfg, weights.cfg, weights.source)
    vocab_size = int(model.vocab_size)  # type: ignore[arg-type]
    if vocab_size != weights.vocab_size:
        raise ValueError(f"params.yaml: tokenize.encoding gives {vocab_size} tokens but "
                         f"{weights.source} has {weights.vocab_size}; use the encoding it was "
                         "trained with")
    assert weights.tensors["wte.weight"].size(0) <= padded_vocab(vocab_size)
    left = dict(weights.tensors)
    for name, p in _state(model).items():
        if name not in left:
            raise ValueError(f"{weights.source}: has no tensor {name}; its model is not that of "
                             "params.yaml's section model")
        tensor = left.pop(name)
        if name == "wpe.weight":
            tensor = tensor[:p.size(0)]
        if _VOCAB_ROWS.search(name):
            p.zero_()
            p[:weights.vocab_size].copy_(tensor)
        elif p.shape != tensor.shape:
            raise ValueError(f"{weights.source}: {name} is {tuple(tensor.shape)}, but params.yaml "
                             f"asks for {tuple(p.shape)}; make section model agree with it")
        else:
            p.copy_(tensor)
    if left:
        raise ValueError(f"{weights.source}: has {next(iter(left))}, which the model of "
                         "params.yaml has no place for; make section model agree with it")


def read_weights(path: str | Path) -> Weights:
    """Weights from a model directory in the Hugging Face layout: ours, OpenAI's, anyone's GPT-2.

    Raises ValueError (one line) for what is not there, not safetensors, or not a GPT-2.
    """
    path = Path(path)
    config, cfg = read_config(path)
    tensors = _read_safetensors(path)
    if config.get("model_type") != OWN_TYPE:
        tensors = from_gpt2(tensors, cfg.bias, path)
    return Weights(cfg, config["vocab_size"], tensors, str(path))


def read_config(path: Path) -> tuple[dict[str, Any], ModelConfig]:
    """A model directory's config.json, and the section model that it stands for. Raises ValueError
    (one line) for what is not there, or not a GPT-2."""
    if not (path / "config.json").is_file():
        raise ValueError(f"{path}: no config.json; give a model directory in the Hugging Face "
                         "layout (config.json, model.safetensors)")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}/config.json: is damaged ({error}); make or fetch the model "
                         "again") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}/config.json: must hold a mapping; make or fetch the model again")
    if config.get("model_type") == OWN_TYPE:
        try:
            return config, ModelConfig.model_validate(config.get(OWN_TYPE))
        except ValidationError as error:
            raise ValueError(explain(error, ModelConfig, f"{path}/config.json")) from None
    check_gpt2(config, path)
    return config, _from_config(config)


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; a tied parameter once."""
    state = dict(model.named_parameters())
    saved = model.state_dict().keys()
    return state | {name: b for name, b in model.named_buffers() if name in saved}


def _is_gpt2(cfg: ModelConfig) -> bool:
    return cfg.architecture == "gpt" and set(cfg.canonical()) <= _GPT2_FIELDS


def _to_config(cfg: ModelConfig, vocab_size: int, eot: int | None) -> dict[str, Any]:
    shape = shape_config(n_layer=cfg.n_layer, n_head=cfg.n_head, n_embd=cfg.n_embd,
                         block_size=cfg.block_size, dropout=cfg.dropout, vocab_size=vocab_size,
                         eot=eot)
    if _is_gpt2(cfg):
        return gpt2_config(shape, cfg.bias)
    ours = cfg.model_copy(update={"init_from": None})
    return {"model_type": OWN_TYPE, **shape, OWN_TYPE: ours.model_dump(exclude_defaults=True)}


def _to_tensors(model: nn.Module, cfg: ModelConfig, vocab_size: int) -> dict[str, Tensor]:
    tensors = {}
    for name, p in _state(model).items():
        tensor = p.detach().to("cpu", torch.float32)
        if _VOCAB_ROWS.search(name):
            tensor = tensor[:vocab_size]
        tensors[name] = tensor.contiguous()
    return to_gpt2(tensors, cfg.bias) if _is_gpt2(cfg) else tensors


def _from_config(config: Mapping[str, Any]) -> ModelConfig:
    """A GPT-2's config.json as a ModelConfig."""
    return ModelConfig(
        architecture="gpt", n_layer=config["n_layer"], n_head=config["n_head"],
        n_embd=config["n_embd"], block_size=config.get("n_positions", config.get("n_ctx")),
        dropout=float(config.get("resid_pdrop", 0.1)),  # 0.1: transformers' default
        bias=config.get(OWN_TYPE, {}).get("bias", True), init_from=None)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.is_file():
        return _load(single)
    if index.is_file():
        parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return {k: v for part in parts for k, v in _load(path / Path(part).name).items()}
    raise ValueError(f"{path}: no model.safetensors; pickled weights (pytorch_model.bin) are not "
                     "read, since opening one runs its code: save it with safetensors first")


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: is damaged or cut short ({error}); make or fetch the model "
                         "again") from None


def check_shape(cfg: ModelConfig, theirs: ModelConfig, source: str | Path) -> None:
    """Raises ValueError where a model of ``cfg`` cannot start from one of ``theirs``."""
    free = {"block_size", "dropout", "init_from"}
    for key in (name for name in ModelConfig.model_fields if name not in free):
        if getattr(cfg, key) != getattr(theirs, key):
            raise ValueError(f"params.yaml: model.{key}={getattr(cfg, key)} must be "
                             f"{getattr(theirs, key)}, that of {source}; correct it")
    if cfg.block_size > theirs.block_size:
        raise ValueError(f"params.yaml: model.block_size={cfg.block_size} must be at most "
                         f"{theirs.block_size}, the positions of {source}; lower it")


def _replace(building: Path, final: Path) -> None:
    """``building`` becomes ``final``. A rename cannot replace a full directory, so the old one
    steps aside first: a reader sees the old, none for an instant, or the new."""
    aside = building.with_name(building.name + ".old")
    if final.exists():
        final.rename(aside)
    building.rename(final)
    shutil.rmtree(aside, ignore_errors=True)
    sync_folder(final.parent)
