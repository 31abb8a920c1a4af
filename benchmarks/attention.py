"""Causal attention by each of torch's kernels, deterministic and not: speed, and the same bits.

    python benchmarks/attention.py [--shape 64 12 1024 64] [--device cuda] [--json FILE]

Forward and backward of scaled_dot_product_attention in bfloat16 at the shape (B, n_head, T, D), q,
k and v being views of one projection as in GPT-2. `deterministic` is
torch.use_deterministic_algorithms; "same bits" says whether three passes over the same input give
equal outputs and gradients. `default` is what torch chooses by itself.
"""

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "src")]

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.machine import heading, write
from benchmarks.timing import milliseconds
from reprogpt.runtime.device import pick_device

KERNELS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default": contextlib.nullcontext,
    "flash": lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION),
    "cudnn": lambda: sdpa_kernel(SDPBackend.CUDNN_ATTENTION),
    "efficient": lambda: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION),
    "math": lambda: sdpa_kernel(SDPBackend.MATH),
}


def forward(qkv: Tensor, heads: int) -> Tensor:
    """qkv (B, T, 3C) -> (B, n_head, T, D), split into heads as GPT-2 does."""
    B, T, three_c = qkv.shape
    q, k, v = (x.view(B, T, heads, -1).transpose(1, 2) for x in qkv.split(three_c // 3, dim=2))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def measure(kernel: str, deterministic: bool, qkv: Tensor, grad: Tensor) -> dict[str, Any]:
    """One row of the table; ``error`` where torch has no such kernel for this input."""
    heads = grad.size(1)

    def both() -> tuple[Tensor, Tensor]:
        y = forward(qkv, heads)
        return y, torch.autograd.grad(y, qkv, grad)[0]

    row: dict[str, Any] = {"kernel": kernel, "deterministic": deterministic}
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with KERNELS[kernel](), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            first, *others = [both() for _ in range(3)]
            row["same_bits"] = all(torch.equal(a, b) for other in others
                                   for a, b in zip(first, other, strict=True))
            del first, others
            with torch.no_grad():
                row["forward_ms"] = milliseconds(lambda: forward(qkv, heads), qkv.device)
            row["both_ms"] = milliseconds(both, qkv.device)
        if any("deterministic" in str(w.message) for w in caught):
            row["note"] = "torch warns: not deterministic"
    except RuntimeError as error:
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
    print("| kernel | deterministic | forward | forward + backward | same bits |")
    print("|---|---|---:|---:|---|")
    for kernel in KERNELS:
        for deterministic in (False, True):
            row = measure(kernel, deterministic, qkv, grad)
            rows.append(row)
            figures = ("", "", row["error"]) if "error" in row else (
                f"{row['forward_ms']:.3f}", f"{row['both_ms']:.3f}",
                f"{'yes' if row['same_bits'] else 'no'} {row.get('note', '')}".strip())
            print(f"| {kernel} | {'on' if deterministic else 'off'} | {' | '.join(figures)} |",
                  flush=True)
    write(args.json, rows, device)


if __name__ == "__main__":
    main()
