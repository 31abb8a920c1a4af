"""Passes before the first step: they find a micro-batch that fits, compile, and settle DDP."""

import gc

import torch

from reprogpt.training.loader import Batch, Loader
from reprogpt.training.wrap import WrappedModel


def warm_up(wrapped: WrappedModel, loader: Loader, optimizer: torch.optim.Optimizer) -> None:
    """Brings the model into the state in which every start, first or resumed, computes alike: DDP
    rebuilds its buckets after its first backward, which changes the order of its sums. The passes
    change no weight, and compile before the clock starts."""
    fit_micro_batch(wrapped, loader, optimizer)
    wrapped.add_ddp()
    if wrapped.process.world_size > 1 or wrapped.resolved["compile"]:
        for micro_batch in extreme_micro_batches(wrapped, loader):
            trial_pass(wrapped, micro_batch)
    # Everything alive now lives to the end; the collector need not visit it again and again.
    gc.collect()
    gc.freeze()


def fit_micro_batch(wrapped: WrappedModel, loader: Loader, optimizer: torch.optim.Optimizer
                    ) -> None:
    """Halves the micro-batch until a pass fits on the GPU beside all that a step needs. Raises
    ValueError when one row does not fit."""
    while not _fits(wrapped, extreme_micro_batches(wrapped, loader)[0], optimizer):
        if wrapped.micro_batch == 1:
            raise ValueError("out of memory with one row at a time: lower model.block_size "
                             "or the model, or use a larger device")
        wrapped.resolved["micro_batch"] = wrapped.micro_batch // 2


def _fits(wrapped: WrappedModel, micro_batch: Batch, optimizer: torch.optim.Optimizer) -> bool:
    """Whether a pass fits on every process, beside what it lacks of a step: gradients (4 bytes a
    parameter) and, before the optimizer's first step, two moments (8)."""
    if wrapped.process.device.type != "cuda":
        return True
    own = [p.to_local() if hasattr(p, "to_local") else p for p in wrapped.model.parameters()]
    parameters = sum(p.numel() for p in own)
    full = False
    try:
        trial_pass(wrapped, micro_batch, parameters * (4 if optimizer.state else 12))
    except RuntimeError as error:  # torch's own error, and Triton's
        full = "out of memory" in str(error)
        if not full:
            raise
    wrapped.model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return not wrapped.process.any(full)


def trial_pass(wrapped: WrappedModel, micro_batch: Batch, reserve: int = 0) -> None:
    """A forward and backward without an update, with ``reserve`` bytes of the device taken."""
    reserved = torch.empty(reserve, dtype=torch.uint8, device=wrapped.process.device)
    wrapped(micro_batch.to(wrapped.process.device), 0).backward()
    wrapped.model.zero_grad(set_to_none=True)
    del reserved


def extreme_micro_batches(wrapped: WrappedModel, loader: Loader) -> tuple[Batch, Batch]:
    """The largest and the smallest micro-batch of a batch. Sizes differ by one row at most, so
    what is compiled for both is compiled for all."""
    process = wrapped.process
    batch = loader.batch(loader.sizes.settled, process.rank, process.world_size)
    by_size = sorted(batch.micro_batches(wrapped.micro_batch), key=lambda part: len(part.rows))
    if wrapped.growing:  # some batch of the ramp fills a micro-batch
        by_size.append(batch[:wrapped.micro_batch])
    return by_size[-1], by_size[0]
