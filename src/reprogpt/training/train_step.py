"""The model as training runs it: with its loss, compiled, and shared among processes."""

import contextlib
import gc
import math
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reprogpt.config import Config, TrainConfig
from reprogpt.formats import huggingface as hf
from reprogpt.launch.run_dir import RunDir
from reprogpt.model.dropout import row_keys
from reprogpt.model.gpt import GPT
from reprogpt.model.kernels.choose import loss_chunk_rows
from reprogpt.model.loss import nll
from reprogpt.model.registry import build_model
from reprogpt.runtime.device import DTYPES, autocast, resolve_precision
from reprogpt.runtime.distributed import Process
from reprogpt.storage.paths import cache_dir
from reprogpt.tokens.manifest import read_manifest
from reprogpt.training.batch_schedule import batch_sizes
from reprogpt.training.loader import Batch, Loader
from reprogpt.training.optimizer import lr_at, set_lr
from reprogpt.training.sharding import local, local_numel, shard_model

COMPILE_SAVES, COMPILE_COSTS, COMPILE_WIDTH = 1e-6, 20.0, 384
"""What compiling is weighed by on a CPU: the seconds that it saves a token and layer on one core,
those that it costs a layer of up to 256 positions, and the n_embd beyond which it saves nothing,
matrix products being all that counts (docs/speed.md has the measurements)."""
CPU_MICRO_TOKENS, GPU_MICRO_TOKENS = 4096, 131072
"""Where the search for runtime.micro_batch: auto begins, in tokens."""


class NextToken(nn.Module):
    """The model and its loss as one module, so that both are wrapped together: and compiled, unless
    ``compile_body`` leaves the loss out."""

    def __init__(self, model: GPT, chunk_rows: int | None, compile_body: bool = False,
                 dynamic: bool | None = False) -> None:
        super().__init__()
        self.model, self.chunk_rows = model, chunk_rows
        # A function, not a module: the parameters keep their names.
        self._compiled = torch.compile(model.forward, dynamic=dynamic) if compile_body else None

    def forward(self, idx: Tensor, targets: Tensor, keys: Tensor | None) -> Tensor:
        """idx, targets (b, T) int64, keys (b,) int32 or None -> sum of nll over the targets."""
        x = (self._compiled or self.model)(idx, keys)
        return nll(x, self.model.head_weight, targets, self.model.vocab_size, self.chunk_rows,
                   getattr(self.model, "logit_softcap", None))


class Network:
    """``net(part, step)`` is the loss; ``net.model`` the bare model behind it."""

    def __init__(self, model: GPT, process: Process, seed: int, resolved: dict[str, Any],
                 fsdp: bool = False, growing: bool = False) -> None:
        """``growing``: the rows at a time change from step to step (train.batch_ramp)."""
        self.model, self.process, self.seed, self.resolved = model, process, seed, resolved
        self.fsdp, self.growing = fsdp, growing
        if self.fsdp:
            shard_model(model)
        compiled = bool(resolved["compile"])
        if compiled:  # where it outlives the run: the same code is compiled once a machine
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "inductor"))
        dynamic = None if growing else False  # None: what changes its size once is compiled for all
        rows = loss_chunk_rows(len(model.head_weight), process.device, DTYPES[self.precision],
                               compiled, fsdp)
        # A loss in chunks is a loop, which a compiler would only unroll; and a body compiled by
        # itself passes by the hooks that make a sharded model whole.
        body_alone = rows is not None and not self.fsdp
        self._step: Any = NextToken(model, rows, compiled and body_alone, dynamic)
        if compiled and rows is None:
            self._step = torch.compile(self._step, dynamic=dynamic)

    @property
    def apart(self) -> Process:
        """Who shares an evaluation: the group, unless a forward pass is itself a joint one (the
        weights are sharded): then every process computes all of it, in step with the others."""
        return Process(0, 1, self.process.device) if self.fsdp else self.process

    @property
    def precision(self) -> str:
        return str(self.resolved["precision"])

    @property
    def micro_batch(self) -> int:
        return int(self.resolved["micro_batch"])

    def __call__(self, part: Batch, step: int) -> Tensor:
        """The sum of nll over the valid targets of a micro-step of ``step``."""
        keys = row_keys(self.seed, step, part.rows) if self.model.cfg.dropout else None
        with autocast(self.process.device, self.precision):
            loss: Tensor = self._step(part.idx, part.targets, keys)
        return loss

    def synced(self, last: bool) -> AbstractContextManager[Any]:
        """The context of one micro-step: gradients are exchanged in the last one only."""
        if self.fsdp:
            self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
            return contextlib.nullcontext()
        if self.process.world_size == 1 or last:
            return contextlib.nullcontext()
        return self._step.no_sync()

    def update(self, batch: Batch, step: int, optimizer: torch.optim.Optimizer,
               scaler: torch.amp.GradScaler, cfg: TrainConfig) -> Tensor:
        """Forward, backward, clip, update. Returns (2,) on the device: this process's share of
        the global batch's mean loss, and the gradient's norm before clipping."""
        share = torch.zeros((), device=self.process.device)
        parts = list(batch.micro_steps(self.micro_batch))
        for i, part in enumerate(parts):
            with self.synced(last=i == len(parts) - 1):  # forward too: see DDP.no_sync
                loss = self(part, step) / max(1, batch.valid)
                # DDP averages over processes; the loss is a share of a sum, so undo that.
                scaler.scale(loss * self.process.world_size).backward()
            share += loss.detach()
        scaler.unscale_(optimizer)
        norm = local(nn.utils.clip_grad_norm_(self.model.parameters(), cfg.grad_clip or math.inf))
        set_lr(optimizer, lr_at(step, cfg))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return torch.stack([share, norm.float()])

    def warm_up(self, loader: Loader, optimizer: torch.optim.Optimizer) -> None:
        """Throw-away passes, so that every start of a run, first or resumed, computes alike.

        DDP rebuilds its buckets after its first backward pass, which changes the order of its
        sums: without these, a resumed run would differ in the last bits from a straight one.
        They also find a micro-batch that fits, and pay for compilation before the clock starts.
        """
        self._fit_micro_batch(loader, optimizer)
        if self.process.world_size > 1 and not self.fsdp:
            self._step = DistributedDataParallel(self._step, gradient_as_bucket_view=True,
                                                 static_graph=True)
        if self.process.world_size > 1 or self.resolved["compile"]:
            for part in self._extremes(loader):  # DDP's: both synchronous, as static_graph wants
                self._throw_away(part)
        # What exists now exists to the end: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()

    def _fit_micro_batch(self, loader: Loader, optimizer: torch.optim.Optimizer) -> None:
        """Halves the micro-batch until a pass on a GPU fits beside all that a step needs."""
        while not self._fits(self._extremes(loader)[0], 4 if optimizer.state else 12):
            if self.micro_batch == 1:
                raise ValueError("out of memory with one row at a time: lower model.block_size "
                                 "or the model, or use a larger device")
            self.resolved["micro_batch"] = self.micro_batch // 2

    def _fits(self, part: Batch, bytes_a_parameter: int) -> bool:
        """One pass without the group; False when any process ran out of memory. Held meanwhile:
        what a pass alone does not have, gradients (4 bytes) and the optimizer's moments (8)."""
        if self.process.device.type != "cuda":
            return True
        parameters = sum(local_numel(p) for p in self.model.parameters())
        try:
            self._throw_away(part, bytes_a_parameter * parameters)
            full = False
        except RuntimeError as error:  # torch's own error, and Triton's
            full = "out of memory" in str(error)
            if not full:
                raise
        if full:
            self.model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        return not self.process.any(full)

    def _extremes(self, loader: Loader) -> tuple[Batch, Batch]:
        """The largest and the smallest part of a batch, which is cut as evenly as can be: what is
        compiled for both is compiled for all. As many on every process: passes are joint ones."""
        process = self.process
        batch = loader.batch(loader.sizes.settled, process.rank, process.world_size)
        parts = sorted(batch.micro_steps(self.micro_batch), key=lambda part: len(part.rows))
        if self.growing:  # some step on the way has as many rows at a time as there may be
            parts.append(batch[:self.micro_batch])
        return parts[-1], parts[0]

    def _throw_away(self, part: Batch, beside: int = 0) -> None:
        """A pass without consequences, with so many bytes of the device taken meanwhile."""
        held = torch.empty(beside, dtype=torch.uint8, device=self.process.device)
        self(part.to(self.process.device), 0).backward()
        self.model.zero_grad(set_to_none=True)
        del held


def build_network(run: RunDir, process: Process, loader: Loader,
                  resolved: dict[str, Any]) -> Network:
    """The run's model on the process's device, from model.init_from or from the seed.

    ``resolved`` is what every `auto` meant when the run began; empty when it begins now.
    """
    cfg, device = run.config, process.device
    vocab_size = int(read_manifest(Path(run.paths.tokens)).tokenizer["n_vocab"])
    model = build_model(cfg.model, vocab_size)
    if (Path(run.paths.init) / "config.json").exists():
        hf.load_weights(model, run.paths.init)
    else:
        model.init_weights(torch.Generator().manual_seed(cfg.seed))
    growing, rows = cfg.train.batch_ramp is not None, loader.sizes.rows(0)
    if rows < process.world_size:
        key = "batch_ramp.start_tokens" if growing else "batch_tokens"
        raise ValueError(f"params.yaml: runtime.nproc={process.world_size} is more than the {rows} "
                         f"rows of {'the first' if growing else 'a'} batch; lower it or raise "
                         f"train.{key}")
    resolved = process.from_first(_resolve(run, process, loader, resolved))
    fsdp = cfg.runtime.parallel == "fsdp" and process.world_size > 1
    # Sharding brings a block at a time to the device, which may not hold all of them.
    return Network(model if fsdp else model.to(device), process, cfg.seed, resolved, fsdp, growing)


def _resolve(run: RunDir, process: Process, loader: Loader, known: dict[str, Any]
             ) -> dict[str, Any]:
    """What each `auto` means here; one that was resolved when the run began keeps its meaning."""
    runtime, device = run.config.runtime, process.device
    rows = -(-loader.sizes.full // process.world_size)
    limit = GPU_MICRO_TOKENS if device.type == "cuda" else CPU_MICRO_TOKENS
    asked = {"precision": run.config.train.precision, "micro_batch": runtime.micro_batch,
             "compile": runtime.compile}
    auto = {"precision": resolve_precision("auto", device),
            "compile": device.type == "cuda" or (device.type == "cpu" and pays(run.config)),
            "micro_batch": max(1, min(rows, limit // loader.block_size))} | known
    resolve_precision(run.config.train.precision, device)
    return {key: auto[key] if value == "auto" else value for key, value in asked.items()}


def pays(cfg: Config) -> bool:
    """Whether a run on a CPU is long enough that compiling its blocks saves time.

    Estimated from the run's size alone, never measured: a measurement would let two runs of the
    same params differ in their last bits.
    """
    m = cfg.model
    if m.architecture != "gpt" or not any(map(shutil.which, (os.environ.get("CXX", ""), "g++",
                                                            "clang++"))):
        return False
    tokens = batch_sizes(cfg.train, m.block_size).before(cfg.train.max_steps) * m.block_size
    saved = tokens * COMPILE_SAVES / torch.get_num_threads()
    return m.n_embd <= COMPILE_WIDTH and saved > COMPILE_COSTS * max(1, m.block_size / 256)
