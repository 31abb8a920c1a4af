"""One optimizer update on one global batch: forward, backward, clip, update."""

import math

import torch
from torch import Tensor, nn

from reprogpt.config import TrainConfig
from reprogpt.training.loader import Batch
from reprogpt.training.optimizer import lr_at, set_lr
from reprogpt.training.sharding import unsharded
from reprogpt.training.wrap import WrappedModel


def train_step(wrapped: WrappedModel, optimizer: torch.optim.Optimizer,
               scaler: torch.amp.GradScaler, batch: Batch, step: int, cfg: TrainConfig,
               lr: float | None = None) -> Tensor:
    """Update number ``step`` (from 0), on this process's rows of the global batch. ``lr``: the
    learning rate, where it does not follow from ``step``.

    Returns (2,) float32 on the device: this process's share of the global batch's mean loss, in
    nats, and the global gradient norm before clipping.
    """
    share = torch.zeros((), device=batch.idx.device)
    micro_batches = list(batch.micro_batches(wrapped.micro_batch))
    for i, micro_batch in enumerate(micro_batches):
        with wrapped.sync_gradients(last=i == len(micro_batches) - 1):
            loss = wrapped(micro_batch, step) / max(1, batch.valid)
            # DDP and FSDP average gradients over processes, but shares of the loss are to be summed
            scaler.scale(loss * wrapped.process.world_size).backward()
        share += loss.detach()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(wrapped.model.parameters(), cfg.grad_clip or math.inf)
    set_lr(optimizer, lr_at(step, cfg) if lr is None else lr)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return torch.stack([share, unsharded(norm).float()])
