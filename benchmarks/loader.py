"""Speed of the data loader, compared with a memmap loop (nanoGPT's get_batch).

    python benchmarks/loader.py [--tokens 20000000] [--rounds 5] [--cpu-time] [--json FILE]

Both read the same shard. The loader also shuffles windows, reads across shards and numbers rows.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
sys.path.insert(0, str(ROOT / "src"))

import numpy as np
import torch

from benchmarks.machine import write
from reprogpt.tokens.manifest import Manifest, Totals, write_manifest
from reprogpt.tokens.shards import TokenStream, write_shard
from reprogpt.training.loader import Loader

SHAPES = {"char B12 T64": (12, 64), "B64 T1024": (64, 1024)}


def write_tokens(folder: Path, tokens: int) -> None:
    """Writes a shard of random tokens; their values do not affect the speed."""
    ids = np.random.default_rng(0).integers(50257, size=tokens, dtype=np.uint16)
    shard = write_shard(folder / "train_000000.bin", "train", [ids], tokens, documents=1)
    totals = {"train": Totals(documents=1, tokens=tokens, bytes=tokens)}
    write_manifest(folder, Manifest(shards=(shard,), totals=totals,
                                    tokenizer={"name": "gpt2", "n_vocab": 50257,
                                               "fingerprint": "none"}, corpus={}))


def memmap_batch(path: Path, B: int, T: int) -> Callable[[int], Any]:
    """nanoGPT's get_batch: a new memmap for each batch, random windows one at a time."""
    def get(step: int) -> Any:
        data = np.memmap(path, dtype=np.uint16, mode="r", offset=1024)
        starts = torch.randint(len(data) - T, (B,))
        x = torch.stack([torch.from_numpy(data[i:i + T].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(data[i + 1:i + 1 + T].astype(np.int64)) for i in starts])
        return x, y

    return get


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="count the processor's seconds")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    now = time.process_time if args.cpu_time else time.perf_counter
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokens(folder, args.tokens)
        print("| batch | reader | ms a batch | tokens/s |\n|---|---|---:|---:|")
        for shape, (B, T) in SHAPES.items():
            ours = Loader(TokenStream(folder, "train"), B * T, T, seed=1).batch
            readers = {"memmap": memmap_batch(next(folder.glob("train_*.bin")), B, T),
                       "reprogpt": ours}
            times: dict[str, list[float]] = {reader: [] for reader in readers}
            for _ in range(args.rounds):
                for reader, get in readers.items():
                    for step in range(10):
                        start = now()
                        get(step)
                        times[reader].append(now() - start)
            for reader, seconds in times.items():
                ms = median(seconds) * 1e3
                rows.append({"batch": shape, "reader": reader, "ms": ms})
                print(f"| {shape} | {reader} | {ms:.3f} | {B * T / ms * 1e3:,.0f} |")
    write(args.json, rows)


if __name__ == "__main__":
    main()
