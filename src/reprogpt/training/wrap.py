"""The model as training calls it: with its loss, compiled, and parallel (DDP or FSDP)."""

import contextlib
import os
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reprogpt.config import Config
from reprogpt.model.dropout import row_keys
from reprogpt.model.gpt import GPT
from reprogpt.model.kernels.choose import loss_chunk_rows
from reprogpt.model.loss import nll
from reprogpt.runtime.device import DTYPES, autocast, peak_flops
from reprogpt.runtime.distributed import Process
from reprogpt.storage.paths import cache_dir
from reprogpt.training.loader import Batch
from reprogpt.training.sharding import shard_model


class ModelWithLoss(nn.Module):
    """The model and its loss in one module, so that compile and DDP wrap both. ``compile_model``
    compiles the model alone: a loss in chunks is a loop, which a compiler would only unroll."""

    def __init__(self, model: GPT, chunk_rows: int | None, compile_model: bool,
                 dynamic: bool | None) -> None:
        super().__init__()
        self.model, self.chunk_rows = model, chunk_rows
        # A function, not a module: the parameters keep their names.
        self._compiled = torch.compile(model.forward, dynamic=dynamic) if compile_model else None

    def forward(self, idx: Tensor, targets: Tensor, dropout_keys: Tensor | None) -> Tensor:
        """idx, targets (b, T) int64, dropout_keys (b,) int32 -> nll () summed over the targets."""
        hidden = (self._compiled or self.model)(idx, dropout_keys)
        return nll(hidden, self.model.head_weight, targets, self.model.vocab_size, self.chunk_rows,
                   getattr(self.model, "logit_softcap", None))


class WrappedModel:
    """``wrapped(micro_batch, step)`` is the loss; ``wrapped.model`` the unwrapped model."""

    def __init__(self, model: GPT, process: Process, cfg: Config, resolved: dict[str, Any]
                 ) -> None:
        """Moves the model to its device and compiles it. ``resolved``: precision, micro_batch and
        compile without `auto`."""
        self.model, self.process, self.seed, self.resolved = model, process, cfg.seed, resolved
        self.fsdp = cfg.runtime.parallel == "fsdp" and process.world_size > 1
        self.growing = cfg.train.batch_ramp is not None
        """Whether the micro-batch's size changes."""
        if self.fsdp:  # brings one block at a time to the device, which may not hold all of them
            shard_model(model)
        else:
            model.to(process.device)
        compiled = bool(resolved["compile"])
        if compiled:  # a cache that outlives the run: the same code is compiled once a machine
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "inductor"))
        # None: a size that has changed once is made symbolic.
        dynamic = None if self.growing else False
        chunk_rows = loss_chunk_rows(len(model.head_weight), process.device,
                                     DTYPES[self.precision], compiled, self.fsdp)
        # FSDP gathers a block by hooks on the module, which a compiled function would pass by.
        model_alone = chunk_rows is not None and not self.fsdp
        self._module: Any = ModelWithLoss(model, chunk_rows, compiled and model_alone, dynamic)
        if compiled and chunk_rows is None:
            self._module = torch.compile(self._module, dynamic=dynamic)

    @property
    def precision(self) -> str:
        return str(self.resolved["precision"])

    @property
    def micro_batch(self) -> int:
        """Rows of one forward pass, at most."""
        return int(self.resolved["micro_batch"])

    @property
    def evaluators(self) -> Process:
        """The group that shares an evaluation. Under FSDP every forward is a collective, so each
        rank evaluates the full set, as a group of its own."""
        return Process(0, 1, self.process.device) if self.fsdp else self.process

    def mfu(self, tokens_per_second: float) -> float | None:
        """Model FLOPs utilization; None where the device's peak is not known."""
        if (peak := peak_flops(self.process.device)) is None:
            return None
        flops = tokens_per_second * self.model.flops_per_token(self.model.cfg.block_size)
        return flops / (peak * self.process.world_size)

    def __call__(self, micro_batch: Batch, step: int) -> Tensor:
        """The nll () of a micro-batch of ``step``, summed over its valid targets, in nats."""
        dropout = self.model.cfg.dropout
        dropout_keys = row_keys(self.seed, step, micro_batch.rows) if dropout else None
        with autocast(self.process.device, self.precision):
            loss: Tensor = self._module(micro_batch.idx, micro_batch.targets, dropout_keys)
        return loss

    def sync_gradients(self, last: bool) -> AbstractContextManager[Any]:
        """The context of a micro-batch: processes exchange gradients in the last one only."""
        if self.fsdp:
            self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
        elif self.process.world_size > 1 and not last:
            return self._module.no_sync()
        return contextlib.nullcontext()

    def add_ddp(self) -> None:
        """Has DDP average the gradients of several processes, unless FSDP does."""
        if self.process.world_size > 1 and not self.fsdp:
            self._module = DistributedDataParallel(self._module, gradient_as_bucket_view=True,
                                                   static_graph=True)
