"""Causal attention by each of torch's kernels, deterministic and not: speed, and the same bits.

    python benchmarks/attention.py [--shape 64 12 1024 64] [--device cuda] [--json FILE]

Forward and backward of scaled_dot_product_attention in bfloat16 at the shape (B, n_head, T, D), q,
k and v being views of one projection as in GPT-2. `deterministic` is
torch.use_deterministic_algorithms; "same bits" says whether three passes over the same input give
equal outputs and gradients; "error" is the gradient's relative distance from the formula's in
float32. `default` is what torch chooses by itself. Two candidates for a cheaper deterministic
backward pass: `cudnn, flash` is cuDNN's forward, which repeats its bits, with flash's backward;
`flex` is FlexAttention, compiled, whose backward sums each gradient within one block.
"""

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "src")]

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks.machine import heading, write
from benchmarks.timing import milliseconds
from reprogpt.runtime.device import pick_device


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v (B, n_head, T, D) -> (B, n_head, T, D), causal, as all that follow."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class CudnnThenFlash(torch.autograd.Function):
    """cuDNN's forward pass, and flash's backward pass from cuDNN's log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y, logsumexp, *_, seed, offset, _ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            q, k, v, None, True, is_causal=True)
        ctx.save_for_backward(q, k, v, y, logsumexp.reshape(y.shape[:3]), seed, offset)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v, y, logsumexp, seed, offset = ctx.saved_tensors
        T, none = q.size(2), torch.empty(0, dtype=torch.int32, device=q.device)
        found: tuple[Tensor, ...] = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, y, logsumexp, none, none, T, T, 0.0, True, seed, offset)
        return found


class Kernel(NamedTuple):
    function: Callable[[Tensor, Tensor, Tensor], Tensor] = fused
    context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    """What makes the context to call it in."""


def kernels(T: int, device: torch.device) -> dict[str, Kernel]:
    """All contenders by name."""
    blocks = create_block_mask(lambda b, h, i, j: i >= j, None, None, T, T, device=device.type)
    flex = torch.compile(flex_attention, dynamic=False)
    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
                "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}
    return {"default": Kernel()} | {
        name: Kernel(context=partial(sdpa_kernel, backend)) for name, backend in backends.items()
    } | {"cudnn, flash": Kernel(CudnnThenFlash.apply),
         "flex": Kernel(partial(flex, block_mask=blocks))}


def forward(qkv: Tensor, heads: int, kernel: Kernel) -> Tensor:
    """qkv (B, T, 3C) -> (B, n_head, T, D), split into heads as GPT-2 does."""
    B, T, three_c = qkv.shape
    q, k, v = (x.view(B, T, heads, -1).transpose(1, 2) for x in qkv.split(three_c // 3, dim=2))
    return kernel.function(q, k, v)


def both(qkv: Tensor, grad: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of qkv (B, T, 3C) for ``grad`` (B, n_head, T, D) of it."""
    y = forward(qkv, grad.size(1), kernel)
    return y, torch.autograd.grad(y, qkv, grad)[0]


def measure(kernel: Kernel, deterministic: bool, qkv: Tensor, grad: Tensor) -> dict[str, Any]:
    """One row of the table; ``error`` where torch has no such kernel for this input."""
    row: dict[str, Any] = {"deterministic": deterministic}
    exact = both(qkv[:1].float(), grad[:1].float(), Kernel())[1]
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with kernel.context(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            first, *others = [both(qkv, grad, kernel) for _ in range(3)]
            row["same_bits"] = all(torch.equal(a, b) for other in others
                                   for a, b in zip(first, other, strict=True))
            row["relative_error"] = float((first[1][:1] - exact).norm() / exact.norm())
            del first, others
            with torch.no_grad():
                row["forward_ms"] = milliseconds(lambda: forward(qkv, grad.size(1), kernel),
                                                 qkv.device)
            row["both_ms"] = milliseconds(lambda: both(qkv, grad, kernel), qkv.device)
        if any("deterministic" in str(w.message) for w in caught):
            row["note"] = "torch warns: not deterministic"
    except (RuntimeError, NotImplementedError) as error:
        row["error"] = str(error).partition("\n")[0][:90]
        row["reasons"] = sorted({str(w.message).partition(" (")[0][:160] for w in caught})
    finally:
        torch.use_deterministic_algorithms(False)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shape", type=int, nargs=4, default=[64, 12, 1024, 64],
                        metavar=("B", "HEADS", "T", "D"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as the launcher sets it
    device, rows = pick_device(args.device), []
    B, heads, T, D = args.shape
    torch.manual_seed(0)
    qkv = torch.randn(B, T, 3 * heads * D, device=device, dtype=torch.bfloat16, requires_grad=True)
    grad = torch.randn(B, heads, T, D, device=device, dtype=torch.bfloat16)
    print(heading(device))
    print(f"(B, n_head, T, D) = {tuple(args.shape)}, bfloat16, causal; milliseconds")
    print("| kernel | deterministic | forward | forward + backward | error | same bits |")
    print("|---|---|---:|---:|---:|---|")
    for name, kernel in kernels(T, device).items():
        for deterministic in (False, True):
            row = {"kernel": name} | measure(kernel, deterministic, qkv, grad)
            rows.append(row)
            figures = ("", "", "", row["error"]) if "error" in row else (
                f"{row['forward_ms']:.3f}", f"{row['both_ms']:.3f}",
                f"{row['relative_error']:.4f}",
                f"{'yes' if row['same_bits'] else 'no'} {row.get('note', '')}".strip())
            print(f"| {name} | {'on' if deterministic else 'off'} | {' | '.join(figures)} |",
                  flush=True)
    write(args.json, rows, device)


if __name__ == "__main__":
    main()
