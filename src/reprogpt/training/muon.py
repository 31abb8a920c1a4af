"""Muon (Jordan et al., 2024) for the hidden matrices, AdamW for all other parameters.

Muon replaces a matrix's momentum by the nearest orthogonal matrix, found by five steps of a
Newton-Schulz iteration, so that the update is equally large in every direction.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.adamw import adamw

from reprogpt.config import TrainConfig
from reprogpt.runtime.device import computes_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the iteration's quintic; chosen by its author for the steepest slope at zero."""
STEPS = 5

Group = dict[str, Any]


def orthogonalize(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x (n, rows, columns) -> about U V^T of each x = U S V^T, in ``dtype``: singular values end
    between about 0.7 and 1.2, which is enough."""
    a, b, c = COEFFICIENTS
    tall = x.size(-2) > x.size(-1)
    x = (x.mT if tall else x).to(dtype)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    # bfloat16 would lose the small singular values in their squares.
    if dtype == torch.float32 and x.size(-1) >= 2 * x.size(-2):
        x = _product_of_steps(x @ x.mT) @ x
    else:
        for _ in range(STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _product_of_steps(gram: Tensor) -> Tensor:
    """gram (n, rows, rows) = x x^T -> the matrix by which all steps together multiply x. A step's
    matrix is a polynomial of the gram, so they commute; an MLP's takes 0.6 of the time."""
    a, b, c = COEFFICIENTS
    product = torch.eye(gram.size(-1), dtype=gram.dtype, device=gram.device).expand_as(gram)
    for left in reversed(range(STEPS)):
        step = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        step.diagonal(dim1=-2, dim2=-1).add_(a)
        product = step @ product
        if left:
            gram = step @ gram @ step
    return product


class Muon(torch.optim.Optimizer):
    """Updates groups with ``muon=True`` by Muon, the others by AdamW.

    ``pieces`` of a Muon group: each of its matrices is that many stacked matrices (q, k and v in
    c_attn), orthogonalized separately. ``match_adamw`` scales an update to the size of AdamW's
    (Liu et al., 2025) instead of by sqrt(rows / columns). Of several processes each orthogonalizes
    a share of the matrices; the results are those of one process, on a CPU bit for bit.
    """

    def __init__(self, groups: list[Group], *, lr: float, weight_decay: float = 0.0,
                 momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.95),
                 eps: float = 1e-8, match_adamw: bool = False,
                 dtype: torch.dtype | None = None) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas,
                    "eps": eps, "muon": False, "pieces": 1, "match_adamw": match_adamw}
        super().__init__(groups, defaults)
        self._dtype = dtype
        for group in self.param_groups:
            # torch reads it when a state is loaded: a fused step's counter lies on the device
            group["fused"] = not group["muon"] and group["params"][0].device.type in ("cpu", "cuda")
        assert all(p.dim() == 2 for g in self.param_groups if g["muon"] for p in g["params"])

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the parameters' gradients."""
        matrices = []
        for group in self.param_groups:
            if group["muon"]:
                matrices += [(group, p, self._direction(group, p)) for p in group["params"]
                             if p.grad is not None]
            else:
                self._adamw(group)
        updates = self._orthogonal([direction for _, _, direction in matrices])
        for (group, p, _), update in zip(matrices, updates, strict=True):
            rows, columns = p.size(0) // group["pieces"], p.size(1)
            scale = (0.2 * math.sqrt(max(rows, columns)) if group["match_adamw"]
                     else math.sqrt(max(1, rows / columns)))
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update.view_as(p), alpha=-group["lr"] * scale)

    def _direction(self, group: Group, p: Tensor) -> Tensor:
        """Nesterov's momentum of p, as (pieces, rows, columns)."""
        state, momentum = self.state[p], group["momentum"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        assert p.grad is not None
        state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        ahead = p.grad.lerp(state["momentum_buffer"], momentum)
        return ahead.view(group["pieces"], -1, p.size(1))

    def _orthogonal(self, directions: list[Tensor]) -> list[Tensor]:
        """Each direction orthogonalized, by the process that owns it, which broadcasts it."""
        world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        owners = self._owners(directions, world)
        # bfloat16 is enough, and slow on CPUs that only emulate it
        native = all(computes_bfloat16(x.device) for x in directions)
        dtype = self._dtype or (torch.bfloat16 if native else torch.float32)
        updates = [x if owner == rank else torch.empty_like(x, dtype=dtype)
                   for x, owner in zip(directions, owners, strict=True)]
        by_shape: dict[torch.Size, list[int]] = {}
        for i, x in enumerate(directions):
            if owners[i] == rank:
                by_shape.setdefault(x.shape[1:], []).append(i)
        for same in by_shape.values():  # matrices of one shape in one batch
            found = orthogonalize(torch.cat([directions[i] for i in same]), dtype)
            for i, part in zip(same, found.split([len(directions[i]) for i in same]), strict=True):
                updates[i] = part.contiguous()
        if world > 1:
            sends = [dist.broadcast(update, src=owner, async_op=True)
                     for update, owner in zip(updates, owners, strict=True)]
            for send in sends:
                send.wait()
        return updates

    @staticmethod
    def _owners(matrices: list[Tensor], world: int) -> list[int]:
        """The rank that orthogonalizes each: the costliest first, each to the least busy rank."""
        busy, owners = [0] * world, [0] * len(matrices)
        cost = [x.numel() * min(x.shape[1:]) for x in matrices]
        for i in sorted(range(len(matrices)), key=lambda i: -cost[i]):
            owners[i] = busy.index(min(busy))
            busy[owners[i]] += cost[i]
        return owners

    def _adamw(self, group: Group) -> None:
        params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p] = {"step": torch.zeros((), dtype=torch.float32, device=p.device),
                                 "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        beta1, beta2 = group["betas"]
        states = [self.state[p] for p in params]
        adamw(params, [p.grad for p in params if p.grad is not None],
              [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states], [],
              [s["step"] for s in states], fused=group["fused"], amsgrad=False, beta1=beta1,
              beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"],
              eps=group["eps"], maximize=False)


def muon_groups(model: nn.Module, cfg: TrainConfig) -> list[Group]:
    """Hidden matrices by Muon, decayed; embeddings, head and vectors by AdamW, not decayed. A
    group's learning rate is the schedule's times its ``lr_scale``."""
    kinds: dict[str, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        kinds.setdefault(_kind(name, p), []).append(p)
    rates = {"qkv": cfg.muon_lr, "matrix": cfg.muon_lr, "embed": cfg.embed_lr,
             "head": cfg.head_lr, "scalar": cfg.scalar_lr}
    return [{"params": params, "lr_scale": (rates[kind] or cfg.lr) / cfg.lr,
             "muon": kind in ("qkv", "matrix"),
             "pieces": _pieces(params[0]) if kind == "qkv" else 1,
             "weight_decay": cfg.weight_decay if kind in ("qkv", "matrix") else 0.0}
            for kind, params in kinds.items()]


def _pieces(c_attn: Tensor) -> int:
    """q, k and v; with grouped-query attention q counts as several matrices of k's size."""
    rows, columns = c_attn.shape
    return rows // ((rows - columns) // 2)


def _kind(name: str, p: nn.Parameter) -> str:
    if p.dim() < 2:
        return "scalar"
    if name.startswith(("wte.", "wpe.", "value_embeds.", "ngram_embeds.")):
        return "embed"
    if name.startswith("lm_head."):
        return "head"
    return "qkv" if name.endswith("c_attn.weight") else "matrix"


def build(model: nn.Module, cfg: TrainConfig, shard_state: bool) -> Muon:
    """Muon with the rates of ``cfg``. It shares its work among processes, but never its state."""
    assert not shard_state  # config refuses runtime.shard_optimizer
    return Muon(muon_groups(model, cfg), lr=cfg.lr, momentum=cfg.muon_momentum,
                betas=(cfg.beta1, cfg.beta2), eps=cfg.eps, match_adamw=cfg.muon_lr is None)
