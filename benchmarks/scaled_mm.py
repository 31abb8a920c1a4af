"""Products in fp8 (e4m3, one scale a tensor) beside bfloat16, the cost of quantizing included.

    python benchmarks/scaled_mm.py [--tokens 65536] [--layers "MLP up" head] [--device cuda]
        [--json FILE]

For linear layers of GPT-2 (124M) and GPT-3 (1.3B) on a micro-batch, the three products of training:
y = x W^T, dx = dy W, dW = dy^T x. torch._scaled_mm wants the first matrix by rows and the second by
columns, so two of the three quantize a transposed copy. `fixed`: with the cast to fp8 of both
inputs by a scale known beforehand. `amax`: with a scale taken from the largest value of the input
at hand. Casts are compiled on a GPU; each is counted for each product, though a training can use
one twice.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "src")]

import torch
from torch import Tensor

from benchmarks.machine import heading, write
from benchmarks.timing import milliseconds
from reprogpt.runtime.device import pick_device

FP8, LARGEST = torch.float8_e4m3fn, 448.0
LAYERS = {"MLP up": (768, 3072), "MLP down": (3072, 768), "head": (768, 50304),  # in, out
          "GPT-3 1.3B's MLP up": (2048, 8192), "GPT-3 1.3B's head": (2048, 50304)}
Quantize = Callable[[Tensor, bool, float | None], tuple[Tensor, Tensor]]


def quantize(x: Tensor, transpose: bool, scale: float | None) -> tuple[Tensor, Tensor]:
    """x, or its transpose, in fp8 by rows, and the float32 scale that undoes it. ``scale`` None:
    the largest magnitude becomes fp8's largest number."""
    x = x.t() if transpose else x
    by = (x.abs().amax().float() / LARGEST).clamp(min=1e-12) if scale is None else torch.full(
        (), scale, device=x.device)
    return (x / by).clamp(-LARGEST, LARGEST).to(FP8).contiguous(), by


def product(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """a (M, K) by rows and b (N, K) by rows, each with its scale -> a b^T (M, N) in bfloat16."""
    return torch._scaled_mm(a[0], b[0].t(), scale_a=a[1], scale_b=b[1], out_dtype=torch.bfloat16,
                            use_fast_accum=True)


def products(n_in: int, n_out: int, tokens: int, device: torch.device
             ) -> dict[str, tuple[tuple[Tensor, bool], tuple[Tensor, bool]]]:
    """The pair of matrices of each product, each with whether its transpose is to be quantized."""
    options: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    x, dy = torch.randn(tokens, n_in, **options), torch.randn(tokens, n_out, **options)
    weight = torch.randn(n_out, n_in, **options) * 0.02
    return {"y = x W^T": ((x, False), (weight, False)), "dx = dy W": ((dy, False), (weight, True)),
            "dW = dy^T x": ((dy, True), (x, True))}


def measure(pair: tuple[tuple[Tensor, bool], tuple[Tensor, bool]], cast: Quantize
            ) -> dict[str, float]:
    """Milliseconds of the product in bfloat16, in fp8, and in fp8 with its two casts."""
    (a, a_t), (b, b_t) = pair
    device = a.device
    left, right = (a.t() if a_t else a), (b if b_t else b.t())
    ready = quantize(a, a_t, 0.01), quantize(b, b_t, 0.01)
    exact, close = left @ right, product(*(quantize(*m, None) for m in pair))
    error = (close - exact).float().norm() / exact.float().norm()
    del exact, close
    return {"flops": 2.0 * left.size(0) * left.size(1) * right.size(1),
            "bfloat16": milliseconds(lambda: left @ right, device),
            "fp8": milliseconds(lambda: product(*ready), device),
            "fixed": milliseconds(lambda: product(*(cast(*m, 0.01) for m in pair)), device),
            "amax": milliseconds(lambda: product(*(cast(*m, None) for m in pair)), device),
            "relative_error": float(error)}


def refused(device: torch.device) -> str | None:
    """Why fp8 products cannot be measured here."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        return "this GPU has no fp8 products (compute capability 8.9 and up have)"
    try:
        product(*(quantize(torch.ones(16, 16, device=device), False, 1.0) for _ in range(2)))
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        return f"torch {torch.__version__} has no fp8 products here ({str(error)[:80]})"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device, rows = pick_device(args.device), []
    print(heading(device))
    if reason := refused(device):
        print(f"scaled_mm is left out: {reason}")
        return
    # Compiled for each shape and layout anew: how it would be inside of a compiled model.
    torch._dynamo.config.recompile_limit = 99
    cast = torch.compile(quantize, dynamic=False) if device.type == "cuda" else quantize
    print(f"{args.tokens:,} tokens; milliseconds, TFLOP/s of the bare products in parentheses")
    print("| layer | product | bfloat16 | fp8 | fp8, fixed | fp8, amax | bfloat16 / amax | error |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    with torch.no_grad():
        for layer in args.layers:
            for name, pair in products(*LAYERS[layer], args.tokens, device).items():
                row = measure(pair, cast)
                rows.append({"layer": layer, "product": name} | row)
                bare = (f"{row[k]:.3f} ({row['flops'] / row[k] / 1e9:.0f})"
                        for k in ("bfloat16", "fp8"))
                print(f"| {layer} | {name} | {' | '.join(bare)} | {row['fixed']:.3f} | "
                      f"{row['amax']:.3f} | {row['bfloat16'] / row['amax']:.2f} | "
                      f"{row['relative_error']:.3f} |", flush=True)
                write(args.json, rows, device)


if __name__ == "__main__":
    main()
