"""Muon for the hidden matrices, AdamW for the rest: one optimizer, one state.

Muon (Jordan et al., 2024) replaces a matrix's momentum by the nearest orthogonal matrix, found by
five steps of a Newton-Schulz iteration, so that every direction moves equally far.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the iteration's quintic; chosen by its author for the steepest slope at zero."""
STEPS = 5

Group = dict[str, Any]


def orthogonalize(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x (n, rows, columns) -> about U V^T of each x = U S V^T, in ``dtype``.

    Singular values end between about 0.7 and 1.2, which is enough.
    """
    a, b, c = COEFFICIENTS
    tall = x.size(-2) > x.size(-1)
    x = (x.mT if tall else x).to(dtype)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    # bfloat16 would lose the small singular values in their squares.
    if dtype == torch.float32 and x.size(-1) >= 2 * x.size(-2):
        x = _multiplier(x @ x.mT) @ x
    else:
        for _ in range(STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _multiplier(gram: Tensor) -> Tensor:
    """gram (n, rows, rows) = x x^T -> what the whole iteration multiplies x by.

    A step multiplies x from the left by a polynomial of its gram, and all those polynomials
    commute. So x itself is not needed on the way, and for a feed-forward layer, four times as wide
    as high, the steps cost 0.6 of what they do on x.
    """
    a, b, c = COEFFICIENTS
    whole = torch.eye(gram.size(-1), dtype=gram.dtype, device=gram.device).expand_as(gram)
    for left in reversed(range(STEPS)):
        step = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        step.diagonal(dim1=-2, dim2=-1).add_(a)
        whole = step @ whole
        if left:
            gram = step @ gram @ step
    return whole


class Muon(torch.optim.Optimizer):
    """Groups with ``muon=True`` are moved by Muon, the others by AdamW.

    A Muon group's ``pieces``: its matrices are that many matrices on top of each other (q, k and v
    in c_attn), each orthogonalized by itself. ``match_adamw`` scales an update to the size of
    AdamW's (Liu et al., 2025: 0.2 sqrt(max(rows, columns))) instead of sqrt(rows / columns).
    With several processes each orthogonalizes its share of the matrices; the results are those of
    one process, on a CPU bit for bit, and every process keeps the whole state.
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
        assert closure is None
        matrices = []
        for group in self.param_groups:
            if not group["muon"]:
                self._adamw(group)
                continue
            matrices += [(group, p, self._direction(group, p)) for p in group["params"]
                         if p.grad is not None]
        for (group, p, _), update in zip(matrices, self._orthogonal(matrices), strict=True):
            rows, columns = p.size(0) // group["pieces"], p.size(1)
            scale = (0.2 * math.sqrt(max(rows, columns)) if group["match_adamw"]
                     else math.sqrt(max(1, rows / columns)))
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update.view_as(p), alpha=-group["lr"] * scale)

    def _direction(self, group: Group, p: Tensor) -> Tensor:
        """Nesterov's momentum of p, as the matrices (pieces, rows, columns) that it holds."""
        state, momentum = self.state[p], group["momentum"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        assert p.grad is not None
        state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        ahead = p.grad.lerp(state["momentum_buffer"], momentum)
        return ahead.view(group["pieces"], -1, p.size(1))

    def _orthogonal(self, matrices: list[tuple[Group, Tensor, Tensor]]) -> list[Tensor]:
        """Each direction's orthogonal matrix; every process computes its share and sends it."""
        world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        directions = [x for _, _, x in matrices]
        owners = self._owners(directions, world)
        # bfloat16 is enough, and on CPUs that only emulate it, slow
        on_gpu = bool(directions) and directions[0].is_cuda
        dtype = self._dtype or (torch.bfloat16 if on_gpu else torch.float32)
        updates = {i: torch.empty_like(x, dtype=dtype)
                   for i, x in enumerate(directions) if owners[i] != rank}
        alike: dict[torch.Size, list[int]] = {}
        for i, x in enumerate(directions):
            if owners[i] == rank:
                alike.setdefault(x.shape[1:], []).append(i)
        for group in alike.values():  # matrices of one shape at once
            found = orthogonalize(torch.cat([directions[i] for i in group]), dtype)
            for i, update in zip(group, found.split([len(directions[i]) for i in group]),
                                 strict=True):
                updates[i] = update.contiguous()
        if world > 1:
            sending = [dist.broadcast(updates[i], src=owner, async_op=True)
                       for i, owner in enumerate(owners)]
            for work in sending:
                work.wait()
        return [updates[i] for i in range(len(directions))]

    @staticmethod
    def _owners(matrices: list[Tensor], world: int) -> list[int]:
        """Who orthogonalizes which: the costliest first, each to the least busy process."""
        busy, owners = [0] * world, [0] * len(matrices)
        cost = [x.numel() * min(x.shape[1:]) for x in matrices]
        for i in sorted(range(len(matrices)), key=lambda i: -cost[i]):
            owners[i] = busy.index(min(busy))
            busy[owners[i]] += cost[i]
        return owners

    def _adamw(self, group: Group) -> None:
        params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
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
