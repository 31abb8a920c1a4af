"""Sharded parameters and optimizer state, and their gathering for a checkpoint.

``runtime.shard_optimizer`` keeps each AdamW moment on one process only (ZeRO stage 1);
``runtime.parallel: fsdp`` shards weights and gradients too (stage 3). A checkpoint always holds the
whole state, so a run may resume under the other setting. torch's modules for this take seconds to
import: a sharded tensor is known by its ``full_tensor``, an optimizer by consolidate_state_dict.
"""

from typing import Any

import torch
from torch import Tensor, nn

from reprogpt.runtime.distributed import Process


def shard_model(model: nn.Module) -> None:
    """Shards the parameters over all processes, in place. A block is gathered only while it
    computes; the rest (embeddings, last norm) from forward to backward."""
    from torch.distributed.fsdp import fully_shard

    for part in (*getattr(model, "h", ()), model):
        fully_shard(part)


def unsharded(value: Tensor) -> Tensor:
    """The full tensor on every process. A collective where ``value`` is sharded."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def gather(value: Any, process: Process) -> Any:
    """``value`` (a tensor, or dicts of them) with sharded tensors in full, on the first
    process's CPU, and None in their place elsewhere. A collective; gathers a tensor at a time."""
    if hasattr(value, "full_tensor"):
        full = value.full_tensor()
        return full.cpu() if process.is_first else None
    if isinstance(value, dict):
        return {k: gather(v, process) for k, v in value.items()}
    return value


def full_state(part: Any, process: Process) -> Any:
    """The full state of a model or an optimizer, on the first process. A collective."""
    if hasattr(part, "consolidate_state_dict"):
        part.consolidate_state_dict(to=0)
        return part.state_dict() if process.is_first else None
    return gather(part.state_dict(), process)


def load_model_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads a full state into a model, sharded or not."""
    own = model.state_dict()
    model.load_state_dict({name: _shard_like(value, own[name]) for name, value in state.items()})


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads a full state into an optimizer, whose parameters may be sharded. Raises ValueError for
    a moment of another shape than its parameter's: torch would take it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, of_parameter in state["state"].items():
        for name, value in of_parameter.items():
            shape, own = tuple(getattr(value, "shape", ())), tuple(parameters[i].shape)
            if shape not in ((), own):  # (): a counter
                raise ValueError(f"optimizer: {name} of parameter {i} is {shape}, not {own}")
    optimizer.load_state_dict(state | {"state": {
        i: {name: _shard_like(value, parameters[i]) for name, value in of_parameter.items()}
        for i, of_parameter in state["state"].items()}})


def _shard_like(value: Any, own: Any) -> Any:
    """``value`` sharded as ``own`` is, if it has the same shape: an optimizer's counter has not."""
    if not hasattr(own, "full_tensor") or value.shape != own.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
