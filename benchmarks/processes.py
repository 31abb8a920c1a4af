"""What sharing a training among processes costs on this machine.

    python -m benchmarks.processes [--rounds 3] [--steps 36] [--json FILE]

The real trainer, started by the launcher: one process with all cores, one with half of them, and
two with half each, in turn. `efficiency` is the speed of two over twice that of one with as many
cores a process: what the exchange of gradients, and whatever else two processes share, leaves.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import ROOT
from benchmarks.machine import heading, write
from reprogpt.config import Config, merge, read_yaml
from reprogpt.launch.launcher import launch
from reprogpt.launch.run_dir import Paths, RunDir
from reprogpt.runtime.workers import usable_cores
from reprogpt.tokens.manifest import Manifest, Totals, write_manifest
from reprogpt.tokens.shards import write_shard
from reprogpt.tokens.tokenizers import CharTokenizer

SIZES = {
    "4L/128 T64 B24": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "rows": 24},
    "6L/192 T256 B8": {"n_layer": 6, "n_head": 6, "n_embd": 192, "block_size": 256, "rows": 8},
}


def write_tokens(folder: Path) -> None:
    """Random characters: speed does not depend on what they say."""
    tokenizer = CharTokenizer("".join(map(chr, range(32, 97))))
    rng, shards, totals = np.random.default_rng(0), [], {}
    for split, count in (("train", 1_000_000), ("val", 5000)):
        ids = rng.integers(65, size=count).astype(np.uint16)
        shards.append(write_shard(folder / f"{split}_000000.bin", split, [ids], count, 1))
        totals[split] = Totals(1, count, count)
    tokenizer.save(folder / "tokenizer")
    identity = {"name": "char", "n_vocab": 65, "fingerprint": tokenizer.fingerprint}
    write_manifest(folder, Manifest(tuple(shards), totals, identity, {"name": "random"}))


def tokens_per_second(folder: Path, size: dict[str, int], nproc: int, threads: int,
                      steps: int) -> float:
    """The median over a short run's logged steps, the first quarter left out."""
    model = {k: v for k, v in size.items() if k != "rows"}
    overlay = {"model": model, "tokenize": {"encoding": "char"},
               "train": {"max_steps": steps, "batch_tokens": size["rows"] * size["block_size"],
                         "warmup_steps": 1, "eval_interval": steps, "val_tokens": 512,
                         "log_interval": max(1, steps // 12)},
               "runtime": {"device": "cpu", "nproc": nproc, "checkpoint_interval": 10**6}}
    cfg = Config.parse(merge(read_yaml(ROOT / "presets/shakespeare.yaml"), overlay))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as name:
        run = RunDir.create(Path(name), "speed", cfg, Paths(
            tokens=str(folder), init=name, model=f"{name}/gpt", csv=f"{name}/train.csv",
            json=f"{name}/train.json"))
        launch(run)
        lines = (Path(name) / "train.csv").read_text().splitlines()[2:]
    speeds = [float(line.rsplit(",", 1)[1]) for line in lines]
    return statistics.median(speeds[len(speeds) // 4:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cores = usable_cores()
    half = max(1, cores // 2)
    ways = {f"1 x {cores}": (1, cores), f"1 x {half}": (1, half), f"2 x {half}": (2, half)}
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        write_tokens(Path(name))
        for title, size in SIZES.items():
            found: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(arguments.rounds):  # in turn, so that all meet the same noise
                for way, (nproc, threads) in ways.items():
                    found[way].append(tokens_per_second(Path(name), size, nproc, threads,
                                                        arguments.steps))
            results[title] = {way: statistics.median(speeds) for way, speeds in found.items()}
    print(heading())
    print(f"tokens a second, processes x threads, medians of {arguments.rounds} rounds\n")
    print(f"| model | {' | '.join(ways)} | efficiency of 2 |")
    print("|---|" + "---|" * (len(ways) + 1))
    for title, speeds in results.items():
        whole, one, two = speeds.values()
        print(f"| {title} | {whole:,.0f} | {one:,.0f} | {two:,.0f} | {two / (2 * one):.0%} |")
    write(arguments.json, results)


if __name__ == "__main__":
    main()
