"""Seconds of training until a validation loss, a preset beside nanoGPT's loop on the same tokens.

    python benchmarks/time_to_loss.py TOKENS [--preset modern-char] [--steps 220] [--seeds 1 2 3]
        [--target 1.90] [--nanogpt DIR] [--threads N] [--cpu-time] [--json FILE]

TOKENS is a folder of shards (data/tokens after `make preset NAME=modern-char; dvc repro tokenize`).
Validation is the full sweep of the held-out split, outside the clock; it is taken at tenths of the
run. nanoGPT trains its CPU character config: 4 layers, 4 heads, width 128, 12 rows of 64,
2000 steps of AdamW, 1e-3 to 1e-4.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
sys.path.insert(0, str(ROOT / "src"))

import torch

from benchmarks.machine import heading, write
from benchmarks.peers import nanogpt_module
from reprogpt.architectures import build_model
from reprogpt.config import Config, merge, read_yaml
from reprogpt.evals import validation_loss
from reprogpt.loader import Loader
from reprogpt.optim import build_optimizer
from reprogpt.runtime import Process, keep_freed_memory, resolve_precision, set_determinism
from reprogpt.shards import TokenStream
from reprogpt.tokenizers import load_tokenizer
from reprogpt.training.network import Network

Run = Iterator[tuple[int, Callable[[], float]]]
"""A training: yields (steps done, how to validate) after every step."""


def preset_run(tokens: Path, name: str, steps: int, seed: int) -> Run:
    """The step of `reprogpt.train` with a preset's params."""
    base = read_yaml(ROOT / "presets/shakespeare.yaml")
    overlay = merge(read_yaml(ROOT / f"presets/{name}.yaml"),
                    {"train": {"max_steps": steps}, "seed": seed})
    cfg = Config.parse(merge(base, overlay))
    set_determinism(cfg.train.deterministic, "float32")
    tokenizer, process = load_tokenizer(tokens / "tokenizer"), Process(0, 1, torch.device("cpu"))
    model = build_model(cfg.model, tokenizer.n_vocab)
    model.init_weights(torch.Generator().manual_seed(seed))
    loader = Loader(TokenStream(tokens, "train"), cfg.train.batch_tokens, cfg.model.block_size,
                    seed, cfg.train.order)
    precision = resolve_precision(cfg.train.precision, process.device)
    resolved = {"precision": precision, "micro_batch": loader.sizes.full, "compile": False}
    net = Network(model, process, seed, resolved)
    optimizer, scaler = build_optimizer(model, cfg.train), torch.amp.GradScaler(enabled=False)
    held_out = TokenStream(tokens, "val")

    def validate() -> float:
        return validation_loss(model, held_out, tokenizer.token_bytes(), process,
                               val_tokens=held_out.n_tokens, block_size=cfg.model.block_size).loss

    for step in range(steps):
        net.update(loader.batch(step), step, optimizer, scaler, cfg.train)
        yield step + 1, validate


def nanogpt_run(tokens: Path, checkout: str, seed: int, steps: int = 2000) -> Run:
    """nanoGPT's model, optimizer and schedule in its loop."""
    module = nanogpt_module(checkout)
    torch.manual_seed(seed)
    data = {}
    for split in ("train", "val"):
        stream = TokenStream(tokens, split)
        data[split] = torch.from_numpy(stream.read(0, stream.n_tokens).astype("int64"))
    vocab_size = load_tokenizer(tokens / "tokenizer").n_vocab
    model = module.GPT(module.GPTConfig(n_layer=4, n_head=4, n_embd=128, block_size=64, dropout=0.0,
                                        bias=False, vocab_size=vocab_size))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")

    @torch.no_grad()
    def validate() -> float:
        rows = (len(data["val"]) - 1) // 64
        idx = data["val"][:rows * 64].view(rows, 64)
        targets = data["val"][1:rows * 64 + 1].view(rows, 64)
        return float(model(idx, targets)[1])

    for step in range(steps):
        starts = torch.randint(len(data["train"]) - 64, (12,))
        both = torch.stack([data["train"][i:i + 65] for i in starts])
        done = (step - 100) / (steps - 100)
        lr = (1e-3 * (step + 1) / 101 if step < 100
              else 1e-4 + 0.5 * (1 + math.cos(math.pi * done)) * 9e-4)
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = model(both[:, :-1].contiguous(), both[:, 1:].contiguous())[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield step + 1, validate


def measure(run: Run, steps: int, target: float, now: Callable[[], float]) -> dict[str, Any]:
    """Seconds at the first validation at or below ``target``, and the run's last loss."""
    seconds, reached, loss, start = 0.0, None, math.nan, now()
    for step, validate in run:
        seconds += now() - start
        if step % max(1, steps // 10) == 0 or step == steps:
            loss = validate()
            if loss <= target and reached is None:
                reached = seconds
        start = now()
    return {"steps": steps, "val_loss": loss, "seconds": seconds, "seconds_to_target": reached}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--preset", default="modern-char")
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--target", type=float, default=1.90)
    parser.add_argument("--nanogpt", metavar="DIR", help="a checkout of nanoGPT")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu-time", action="store_true", help="count the processor's seconds")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    now = time.process_time if args.cpu_time else time.perf_counter
    rows = []
    print(heading())
    print("| run | seed | steps | val loss | seconds | seconds to target |")
    print("|---|---:|---:|---:|---:|---:|")
    runs: list[tuple[str, int, int, Callable[[], Run]]] = []
    if args.nanogpt:
        runs.append(("nanoGPT", 1, 2000, partial(nanogpt_run, args.tokens, args.nanogpt, 1)))
    runs += [(args.preset, seed, args.steps,
              partial(preset_run, args.tokens, args.preset, args.steps, seed))
             for seed in args.seeds]
    for name, seed, steps, make in runs:
        if name != "nanoGPT":
            keep_freed_memory()
        row = {"run": name, "seed": seed} | measure(make(), steps, args.target, now)
        rows.append(row)
        reached = row["seconds_to_target"]
        print(f"| {name} | {seed} | {steps} | {row['val_loss']:.4f} | {row['seconds']:.1f} | "
              f"{'not reached' if reached is None else f'{reached:.1f}'} |", flush=True)
    write(args.json, rows)


if __name__ == "__main__":
    main()
