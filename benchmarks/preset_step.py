"""One training step of whole presets: milliseconds, tokens a second, peak memory.

    python benchmarks/preset_step.py modern-124m gpt2-350m [--steps 5] [--any-order]
        [--tokens DIR] [--set train.batch_tokens=8192 runtime.compile=false] [--device cuda]
        [--json FILE]

Each preset is built as a training builds it, with runtime.micro_batch: auto, so the search for one
that fits is part of the start; the table shows what it found. DIR is a folder of shards with
GPT-2's vocabulary; without it the tokens are random. ``--any-order`` is train.deterministic: false.
On a CPU memory is the process's largest resident size, which a later preset does not lower.
"""

import argparse
import gc
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "src")]

import numpy as np
import torch

from benchmarks.machine import heading, write
from reprogpt.config import Config, merge, read_yaml
from reprogpt.launch.run_dir import Paths
from reprogpt.runtime.device import (
    peak_flops,
    pick_device,
    resolve_precision,
    set_determinism,
    synchronize,
)
from reprogpt.runtime.distributed import Process
from reprogpt.tokens.manifest import Manifest, Totals, write_manifest
from reprogpt.tokens.shards import TokenStream, write_shard
from reprogpt.training.auto import resolve_auto
from reprogpt.training.loader import Loader
from reprogpt.training.micro_batch import warm_up
from reprogpt.training.optimizer import build_optimizer
from reprogpt.training.train_step import train_step
from reprogpt.training.trainer import initial_model
from reprogpt.training.wrap import WrappedModel

VOCAB = 50257


def random_tokens(folder: Path, count: int = 1 << 22) -> Path:
    """A folder of one shard of random tokens; returns it."""
    ids = np.random.default_rng(0).integers(VOCAB, size=count, dtype=np.uint16)
    shard = write_shard(folder / "train_000000.bin", "train", [ids], count, documents=1)
    write_manifest(folder, Manifest((shard,), {"train": Totals(1, count, count)},
                                    {"name": "gpt2", "n_vocab": VOCAB, "fingerprint": ""},
                                    {"name": "random", "revision": "0"}))
    return folder


def params(preset: str, changes: list[str], any_order: bool) -> Config:
    """The preset's params with ``section.key=value`` changed; values are JSON."""
    base = read_yaml(ROOT / "presets/shakespeare.yaml")
    values = merge(base, read_yaml(ROOT / f"presets/{preset}.yaml"))
    for change in changes:
        key, _, value = change.partition("=")
        section, _, name = key.partition(".")
        values = merge(values, {section: {name: json.loads(value)}})
    if any_order:
        values = merge(values, {"train": {"deterministic": False}})
    return Config.parse(values)


def measure(cfg: Config, name: str, tokens: Path, device: torch.device, steps: int
            ) -> dict[str, Any]:
    """Starts a training of ``cfg`` and times ``steps`` optimizer steps after one that warms up."""
    set_determinism(cfg.train.deterministic, resolve_precision(cfg.train.precision, device))
    loader = Loader(TokenStream(tokens, "train"), cfg.train.batch_tokens, cfg.model.block_size,
                    cfg.seed, cfg.train.order)
    start, process = time.perf_counter(), Process(0, 1, device)
    model = initial_model(cfg, Paths(str(tokens), init="", model="", csv="", json=""))
    wrapped = WrappedModel(model, process, cfg, resolve_auto(cfg, process, {}))
    optimizer, scaler = build_optimizer(model, cfg.train), torch.amp.GradScaler(enabled=False)
    warm_up(wrapped, loader, optimizer)
    synchronize(device)
    ready, seconds = time.perf_counter() - start, []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for step, batch in enumerate(loader.prefetch(range(steps + 1), 0, 1)):
        start = time.perf_counter()
        loss = train_step(wrapped, optimizer, scaler, batch.to(device), step, cfg.train)[0]
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    taken, peak = median(seconds[1:]), peak_flops(device)
    memory = (torch.cuda.max_memory_allocated(device) if device.type == "cuda"
              else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    speed = cfg.train.batch_tokens / taken
    flops = model.flops_per_token(cfg.model.block_size)
    return {"preset": name, "deterministic": cfg.train.deterministic, **wrapped.resolved,
            "batch_tokens": cfg.train.batch_tokens, "ms": taken * 1e3, "tokens_per_second": speed,
            "mfu": speed * flops / peak if peak else None, "peak_memory_gb": memory / 1e9,
            "start_s": ready, "first_step_s": seconds[0], "loss": float(loss)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("presets", nargs="+", metavar="PRESET")
    parser.add_argument("--steps", type=int, default=5, help="that are timed")
    parser.add_argument("--any-order", action="store_true")
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as the launcher sets it
    device, rows = pick_device(args.device), []
    print(heading(device))
    print("| preset | deterministic | micro-batch | tokens a step | ms a step | tokens/s | MFU "
          "| peak GB | start, s |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tokens = args.tokens or random_tokens(Path(folder))
        for name in args.presets:
            cfg = params(name, args.set, args.any_order)
            row = measure(cfg, name, tokens, device, args.steps)
            rows.append(row)
            print(f"| {name} | {row['deterministic']} | {row['micro_batch']} | "
                  f"{row['batch_tokens']:,} | {row['ms']:.1f} | {row['tokens_per_second']:,.0f} | "
                  f"{'' if row['mfu'] is None else format(row['mfu'], '.1%')} | "
                  f"{row['peak_memory_gb']:.1f} | {row['start_s']:.0f} |", flush=True)
            write(args.json, rows, device)
            torch.compiler.reset()
            gc.unfreeze()  # warm_up froze the network, which is to go before the next one
            gc.collect()


if __name__ == "__main__":
    main()
