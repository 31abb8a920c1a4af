"""Training tokens a second on this machine, from a few steps on random tokens."""

import time

import torch

from reprogpt.config import Config
from reprogpt.model.registry import build_model
from reprogpt.runtime.device import keep_freed_memory, pick_device, set_determinism, synchronize
from reprogpt.runtime.distributed import Process
from reprogpt.training.auto import resolve_auto
from reprogpt.training.loader import Batch
from reprogpt.training.optimizer import build_optimizer
from reprogpt.training.train_step import train_step
from reprogpt.training.wrap import WrappedModel


def measured_speed(cfg: Config, vocab_size: int, rounds: int = 10) -> float:
    """Tokens a second of one process: the fastest of ``rounds`` steps, one micro-batch each.

    Compiles as the run would, so that the first step, which is not counted, may take a minute. A
    batch of several micro-batches updates less often and is a few percent faster.
    """
    device, T = pick_device(cfg.runtime.device), cfg.model.block_size
    keep_freed_memory()
    set_determinism(cfg.train.deterministic, cfg.train.precision)
    model = build_model(cfg.model, vocab_size)
    model.init_weights(torch.Generator().manual_seed(cfg.seed))
    process = Process(0, 1, device)
    wrapped = WrappedModel(model, process, cfg, resolve_auto(cfg, process, {}))
    optimizer = build_optimizer(model, cfg.train)
    scaler = torch.amp.GradScaler(device.type, enabled=wrapped.precision == "float16")
    rows = min(wrapped.micro_batch, cfg.train.batch_tokens // T)
    ids = torch.randint(vocab_size, (rows, T + 1)).to(device)
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.arange(rows, device=device), rows * T, rows)
    seconds = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        train_step(wrapped, optimizer, scaler, batch, 0, cfg.train)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return rows * T / min(seconds[2:])  # what else runs only slows a step down
