"""What `auto` means for train.precision, runtime.micro_batch and runtime.compile."""

import os
import shutil
from typing import Any

import torch

from reprogpt.config import Config
from reprogpt.runtime.device import resolve_precision
from reprogpt.runtime.distributed import Process
from reprogpt.training.batch_schedule import batch_sizes

CPU_MICRO_TOKENS, GPU_MICRO_TOKENS = 4096, 131072
"""Tokens of a micro-batch, at most; on a GPU the search for one that fits begins there."""
COMPILE_SAVES, COMPILE_COSTS, COMPILE_WIDTH = 1e-6, 20.0, 384
"""Compilation on a CPU: seconds saved per token and layer on one core; seconds it costs per layer
of up to 256 positions; and the n_embd beyond which it saves nothing (docs/speed.md)."""


def resolve_auto(cfg: Config, process: Process, known: dict[str, Any]) -> dict[str, Any]:
    """precision, micro_batch and compile with every `auto` made concrete, as in ``known`` where the
    run began before. Raises ValueError when the device lacks the precision."""
    device, rows = process.device, batch_sizes(cfg.train, cfg.model.block_size).full
    micro_tokens = GPU_MICRO_TOKENS if device.type == "cuda" else CPU_MICRO_TOKENS
    auto = {
        "precision": resolve_precision("auto", device),
        "compile": device.type == "cuda" or (device.type == "cpu" and compiling_pays(cfg)),
        "micro_batch": max(1, min(-(-rows // process.world_size),
                                  micro_tokens // cfg.model.block_size)),
    } | known
    resolve_precision(cfg.train.precision, device)
    params = {"precision": cfg.train.precision, "micro_batch": cfg.runtime.micro_batch,
              "compile": cfg.runtime.compile}
    return {key: auto[key] if value == "auto" else value for key, value in params.items()}


def compiling_pays(cfg: Config) -> bool:
    """Whether a run on a CPU is long enough that compiling its blocks saves time. Never measured:
    two runs of the same params could then differ in their last bits."""
    m = cfg.model
    compiler = any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++")))
    if m.architecture != "gpt" or not compiler:
        return False
    tokens = batch_sizes(cfg.train, m.block_size).before(cfg.train.max_steps) * m.block_size
    saved = tokens * COMPILE_SAVES / torch.get_num_threads()
    return m.n_embd <= COMPILE_WIDTH and saved > COMPILE_COSTS * max(1, m.block_size / 256)
