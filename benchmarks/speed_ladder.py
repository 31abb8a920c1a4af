"""Lecture 2's speed ladder, measured on this machine.

    python benchmarks/speed_ladder.py                       # sizes that suit the device
    python benchmarks/speed_ladder.py --layers 12 --width 768 --rows 16 --block 1024
    python benchmarks/speed_ladder.py --svg speed.svg       # and a bar chart

Each rung adds one optimization to those before it. Times are of the fastest of ``--repeats``
optimizer steps; the lecture's are of GPT-2 (124M) with 16 x 1024 tokens on one A100.
"""

import argparse
import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
sys.path.insert(0, str(ROOT / "src"))

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import reprogpt.model.gpt
import reprogpt.model.kernels.choose
from benchmarks.machine import heading, write
from reprogpt.config import ModelConfig
from reprogpt.evaluation.plots import bars, render
from reprogpt.model.loss import nll
from reprogpt.runtime.device import (
    autocast,
    computes_bfloat16,
    keep_freed_memory,
    peak_flops,
    pick_device,
    synchronize,
)
from reprogpt.training.adamw import decay_groups

VOCAB = 50257
LECTURE = {"float32": 1000, "TF32": 333, "bfloat16": 300, "compile": 130, "flash attention": 96,
           "padded vocabulary": 93, "fused AdamW": 90}


@dataclass(frozen=True)
class Rung:
    """One configuration of a training step."""

    name: str = "float32"
    precision: str = "float32"
    tf32: bool = False
    compile: bool = False
    flash: bool = False
    multiple: int = 1
    fused: bool = False
    chunk: int | None = None
    blocks: bool = False
    accumulate: int = 1


def rungs(device: torch.device, accumulate: int, compiling: bool) -> Iterator[Rung]:
    """The rungs that this device supports, each with those before it."""
    yield (r := Rung())
    if device.type == "cuda":
        yield (r := replace(r, name="TF32", tf32=True))
    if device.type != "cpu" or computes_bfloat16(device):
        yield (r := replace(r, name="bfloat16", precision="bfloat16"))
    if compiling and (device.type == "cuda" or shutil.which("g++")):
        yield (r := replace(r, name="compile", compile=True))
    yield (r := replace(r, name="flash attention", flash=True))
    yield (r := replace(r, name="padded vocabulary", multiple=64))
    yield (r := replace(r, name="fused AdamW", fused=True))
    # Not in the lecture: head and loss in chunks (kernels/loss_chunks.py), on a GPU by Triton.
    if device.type == "cuda" and compiling:
        yield (r := replace(r, name="loss in chunks", chunk=16384))
    if device.type == "cpu":
        rows = 1024 if r.precision == "bfloat16" else 512
        yield (r := replace(r, name="loss in chunks", chunk=rows))
        yield (r := replace(r, name="attention in blocks", blocks=True))  # kernels/attention.py
    yield replace(r, name=f"{accumulate} micro-steps", accumulate=accumulate)


def step_of(rung: Rung, cfg: ModelConfig, rows: int, device: torch.device) -> Callable[[], None]:
    """A function that does one optimizer step as ``rung`` says."""
    reprogpt.model.gpt.VOCAB_MULTIPLE = rung.multiple
    reprogpt.model.kernels.choose.LONGEST = cfg.block_size if rung.blocks else 0
    torch.backends.cuda.matmul.fp32_precision = "tf32" if rung.tf32 else "ieee"
    model = reprogpt.model.gpt.GPT(cfg, VOCAB)
    model.init_weights(torch.Generator().manual_seed(0))
    model.to(device)
    optimizer = torch.optim.AdamW(decay_groups(model, 0.1), lr=6e-4, fused=rung.fused,
                                  foreach=None if rung.fused else False)
    tokens = torch.randint(VOCAB, (rows, cfg.block_size + 1), device=device)

    # The loss in chunks is a loop that torch.compile would unroll: as in training, it is left out.
    whole = rung.compile and rung.chunk is None
    forward = torch.compile(model.forward, dynamic=False) if rung.compile and not whole else model

    def loss() -> torch.Tensor:
        x = forward(tokens[:, :-1])
        return nll(x, model.head_weight, tokens[:, 1:], VOCAB, rung.chunk) / tokens[:, 1:].numel()

    run = torch.compile(loss, dynamic=False) if whole else loss

    def step() -> None:
        kernels = contextlib.nullcontext() if rung.flash else sdpa_kernel(SDPBackend.MATH)
        for _ in range(rung.accumulate):
            with kernels, autocast(device, rung.precision):
                (run() / rung.accumulate).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(step: Callable[[], None], device: torch.device, repeats: int) -> float:
    """Seconds of the fastest of ``repeats`` steps, after three to warm up."""
    seconds = []
    for i in range(repeats + 3):
        synchronize(device)
        began = time.perf_counter()
        step()
        synchronize(device)
        if i >= 3:
            seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    options = parse()
    device = pick_device(options.device)
    large = device.type == "cuda"
    if device.type == "cpu":
        keep_freed_memory()  # as training does
    rows, block = options.rows or (16 if large else 4), options.block or (1024 if large else 256)
    width, layers = options.width or (768 if large else 256), options.layers or (12 if large else 4)
    cfg = ModelConfig(architecture="gpt", n_layer=layers, n_head=width // 64, n_embd=width,
                      block_size=block, dropout=0.0, bias=True, init_from=None)
    threads = torch.get_num_threads()
    name = torch.cuda.get_device_name(device) if large else f"CPU, {threads} threads"
    print(heading(device))
    print(f"{layers} layers, {width} wide, {rows} x {block} tokens a micro-step, on {name}")
    if not large and not computes_bfloat16(device):
        print("no bfloat16: this processor emulates it, slower than float32")
    print(f"\n{'':20}{'ms':>9}{'tokens/s':>12}{'MFU':>8}{'lecture ms':>12}")
    times, peak = {}, peak_flops(device)
    for rung in rungs(device, options.accumulate, not options.no_compile):
        torch.compiler.reset()
        seconds = measure(step_of(rung, cfg, rows, device), device, options.repeats)
        speed = rows * block * rung.accumulate / seconds
        times[rung.name] = seconds * 1000
        flops = reprogpt.model.gpt.GPT(cfg, VOCAB).flops_per_token(block)
        mfu = f"{speed * flops / peak:8.1%}" if peak else f"{'':8}"
        lecture = LECTURE.get(rung.name, "")
        print(f"{rung.name:20}{seconds * 1000:9.1f}{speed:12,.0f}{mfu}{lecture:>12}", flush=True)
    write(options.json, times, device)
    if options.svg:
        steps = {k: v for k, v in times.items() if "micro" not in k}
        marks = LECTURE if large else {}
        caption = f"ms a step, {name}" + ("; red: the lecture's, on one A100" if large else "")
        options.svg.write_bytes(render(bars(steps, marks, caption, 1), "svg"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto")
    for name in ("rows", "block", "width", "layers"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--accumulate", type=int, default=4, help="micro-steps of the last rung")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--no-compile", action="store_true",
                        help="leave out torch.compile, which takes a minute or two")
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--json", type=Path, help="milliseconds a step, by rung")
    return parser.parse_args()


if __name__ == "__main__":
    main()
