"""Parameters and optimizer state cut up among processes, and put together again for a checkpoint.

Two ways, for models that would not fit otherwise: ``runtime.shard_optimizer`` keeps each AdamW
moment on one process only (ZeRO, stage 1), ``runtime.parallel: fsdp`` also the weights and the
gradients (stage 3). A checkpoint always holds the whole, so a run may go on under another way.

What torch has for this takes seconds to import, so it is imported where something is cut up, and
known elsewhere by what it can do: a sharded tensor by ``full_tensor``, a sharded optimizer by
``consolidate_state_dict``.
"""

from typing import Any

import torch
from torch import Tensor, nn

from reprogpt.runtime.distributed import Process


def shard_model(model: nn.Module) -> None:
    """Cuts the parameters among all processes, in place: each block is whole only while it
    computes. The rest (embeddings, last norm) stays whole from forward to backward."""
    from torch.distributed.fsdp import fully_shard

    blocks = getattr(model, "h", ())
    for block in blocks:
        fully_shard(block)
    fully_shard(model)


def whole(value: Any, process: Process) -> Any:
    """``value`` (a tensor, or dicts and lists of them) with sharded tensors made whole, on the CPU
    of the first process. All must call it, one tensor is whole at a time; others get None."""
    if hasattr(value, "full_tensor"):
        gathered = value.full_tensor()
        return gathered.cpu() if process.is_first else None
    if isinstance(value, dict):
        return {k: whole(v, process) for k, v in value.items()}
    if isinstance(value, list):
        return [whole(v, process) for v in value]
    return value


def local(value: Tensor) -> Tensor:
    """A number that every process needs: itself, or the whole of a sharded one."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def local_numel(parameter: Tensor) -> int:
    """How many numbers of a parameter lie on this process."""
    return parameter.to_local().numel() if hasattr(parameter, "to_local") else parameter.numel()


def model_state(model: nn.Module, process: Process) -> dict[str, Any]:
    """The model's whole state, on the first process. All must call it."""
    state: dict[str, Any] = whole(dict(model.state_dict()), process)
    return state


def optimizer_state(optimizer: torch.optim.Optimizer, process: Process) -> dict[str, Any] | None:
    """The optimizer's whole state, on the first process. All must call it."""
    if hasattr(optimizer, "consolidate_state_dict"):
        optimizer.consolidate_state_dict(to=0)
        return optimizer.state_dict() if process.is_first else None
    state: dict[str, Any] = whole(optimizer.state_dict(), process)
    return state


def load_model_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Puts a whole state into a model, sharded or not."""
    own = model.state_dict()
    model.load_state_dict({name: _like(value, own[name]) for name, value in state.items()})


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Puts a whole state into an optimizer, whose parameters may be sharded."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        i: {name: _like(value, parameters[i])
            if isinstance(value, Tensor) and value.shape == parameters[i].shape else value
            for name, value in of_parameter.items()}
        for i, of_parameter in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": moments})


def _like(value: Tensor, own: Any) -> Tensor:
    """``value`` cut up as ``own`` is."""
    if not hasattr(own, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
