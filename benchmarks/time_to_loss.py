"""Seconds of training until a validation loss, a preset beside nanoGPT's loop on the same tokens.

    python benchmarks/time_to_loss.py TOKENS [--preset modern-char] [--steps 220] [--seeds 1 2 3]
        [--target 1.90] [--nanogpt DIR] [--threads N] [--cpu-time] [--json FILE]
    python benchmarks/time_to_loss.py TOKENS --preset modern-124m --device cuda --steps 285
        --batch-tokens 32768 --val-tokens 524288 --nanogpt DIR [--set model.ngram_rows=[65536]]

TOKENS is a folder of shards (data/tokens after `make preset NAME=modern-char; dvc repro tokenize`).
Validation is a sweep of the held-out split, outside the clock as compilation is; it is taken at
tenths of the run. nanoGPT trains the recipe that PEERS names for the preset, in its own loop:
for modern-char its CPU character config; for modern-124m GPT-2's shape, compiled, bfloat16, 64 rows
a step, over so many steps as a minute of an H200 holds (``--peer-steps``).
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
sys.path.insert(0, str(ROOT / "src"))

import torch

from benchmarks.machine import heading, write
from benchmarks.peers import nanogpt_module
from benchmarks.preset_step import params
from reprogpt.config import Config
from reprogpt.evaluation.validation import validation_loss
from reprogpt.model.registry import build_model
from reprogpt.runtime.device import (
    autocast,
    keep_freed_memory,
    pick_device,
    resolve_precision,
    set_determinism,
    synchronize,
)
from reprogpt.runtime.distributed import Process
from reprogpt.tokens.shards import TokenStream
from reprogpt.tokens.tokenizers import load_tokenizer
from reprogpt.training.loader import Loader
from reprogpt.training.micro_batch import warm_up
from reprogpt.training.optimizer import build_optimizer
from reprogpt.training.train_step import train_step
from reprogpt.training.wrap import WrappedModel

Run = Iterator[tuple[int, Callable[[], float]]]
"""A training: yields (steps done, how to validate) when it is set up, and after every step."""


class Peer(NamedTuple):
    """A recipe of nanoGPT's: AdamW, warm-up, cosine."""

    n_layer: int
    n_head: int
    n_embd: int
    T: int
    rows: int
    steps: int
    lr: float
    warmup: int
    beta2: float


PEERS = {"modern-char": Peer(4, 4, 128, 64, 12, 2000, 1e-3, 100, 0.99),
         "modern-124m": Peer(12, 12, 768, 1024, 64, 470, 6e-4, 50, 0.95)}


def preset_run(tokens: Path, cfg: Config, device: torch.device, val_tokens: int | None) -> Run:
    """The step of `reprogpt.training.trainer` with a preset's params; compiled on a GPU."""
    precision = resolve_precision(cfg.train.precision, device)
    set_determinism(cfg.train.deterministic, precision)
    tokenizer, process = load_tokenizer(tokens / "tokenizer"), Process(0, 1, device)
    model = build_model(cfg.model, tokenizer.n_vocab)
    model.init_weights(torch.Generator().manual_seed(cfg.seed))
    loader = Loader(TokenStream(tokens, "train"), cfg.train.batch_tokens, cfg.model.block_size,
                    cfg.seed, cfg.train.order)
    rows = max(1, min(loader.sizes.full, 131072 // cfg.model.block_size))
    resolved = {"precision": precision, "micro_batch": rows, "compile": device.type == "cuda"}
    wrapped = WrappedModel(model, process, cfg, resolved)
    optimizer, scaler = build_optimizer(model, cfg.train), torch.amp.GradScaler(enabled=False)
    held_out = TokenStream(tokens, "val")

    def validate() -> float:
        with autocast(device, precision if device.type == "cuda" else "float32"):
            return validation_loss(model, held_out, tokenizer.token_bytes(), process,
                                   val_tokens=val_tokens, block_size=cfg.model.block_size).loss

    warm_up(wrapped, loader, optimizer)
    yield 0, validate
    batches = loader.prefetch(range(cfg.train.max_steps), 0, 1)
    for step, batch in enumerate(batches):
        train_step(wrapped, optimizer, scaler, batch.to(device), step, cfg.train)
        yield step + 1, validate


def nanogpt_run(tokens: Path, checkout: str, seed: int, peer: Peer, device: torch.device,
                val_tokens: int | None) -> Run:
    """nanoGPT's model, optimizer and schedule in its loop; compiled and in bfloat16 on a GPU."""
    module, on_gpu, T = nanogpt_module(checkout), device.type == "cuda", peer.T
    torch.manual_seed(seed)
    if on_gpu:
        torch.set_float32_matmul_precision("high")
    data = {}
    for split in ("train", "val"):
        stream = TokenStream(tokens, split)
        count = min(stream.n_tokens, val_tokens or stream.n_tokens) if split == "val" else None
        read = stream.read(0, count or stream.n_tokens)
        data[split] = torch.from_numpy(read.astype("int64"))
    vocab_size = load_tokenizer(tokens / "tokenizer").n_vocab
    model = module.GPT(module.GPTConfig(
        n_layer=peer.n_layer, n_head=peer.n_head, n_embd=peer.n_embd, block_size=T, dropout=0.0,
        bias=False, vocab_size=50304 if vocab_size == 50257 else vocab_size)).to(device)
    optimizer = model.configure_optimizers(0.1, peer.lr, (0.9, peer.beta2), device.type)
    forward = torch.compile(model) if on_gpu else model

    def loss_of(idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with autocast(device, "bfloat16" if on_gpu else "float32"):
            loss: torch.Tensor = forward(idx.to(device), targets.to(device))[1]
        return loss

    @torch.no_grad()
    def validate() -> float:
        rows = (len(data["val"]) - 1) // T
        rows -= rows % peer.rows  # whole batches: another shape would be compiled anew
        idx, targets = (data["val"][first:rows * T + first].view(-1, peer.rows, T)
                        for first in (0, 1))
        return sum(float(loss_of(x, y)) for x, y in zip(idx, targets, strict=True)) / len(idx)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(data["train"]) - T, (peer.rows,)).tolist()
        both = torch.stack([data["train"][i:i + T + 1] for i in starts])
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    if on_gpu:
        loss_of(*draw()).backward()
        model.zero_grad(set_to_none=True)
    yield 0, validate
    for step in range(peer.steps):
        done = (step - peer.warmup) / (peer.steps - peer.warmup)
        lr = peer.lr * ((step + 1) / (peer.warmup + 1) if step < peer.warmup
                        else 0.1 + 0.45 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss_of(*draw()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield step + 1, validate


def measure(run: Run, steps: int, target: float, now: Callable[[], float], device: torch.device
            ) -> dict[str, Any]:
    """Seconds at the first validation at or below ``target``, and the run's last loss."""
    seconds, reached, loss, start = 0.0, None, math.nan, now()
    for step, validate in run:
        synchronize(device)
        if step:
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
    parser.add_argument("--preset", choices=PEERS, default="modern-char")
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--target", type=float, default=1.90, help="without nanoGPT, whose last "
                        "loss is the target otherwise")
    parser.add_argument("--batch-tokens", type=int, help="instead of the preset's")
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--val-tokens", type=int, help="of the held-out split; all without")
    parser.add_argument("--nanogpt", metavar="DIR", help="a checkout of nanoGPT")
    parser.add_argument("--peer-steps", type=int, help="instead of PEERS'")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu-time", action="store_true", help="count the processor's seconds")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as the launcher sets it
    if args.threads:
        torch.set_num_threads(args.threads)
    device, peer = pick_device(args.device), PEERS[args.preset]
    peer = peer._replace(steps=args.peer_steps or peer.steps)
    now = time.process_time if args.cpu_time else time.perf_counter
    changes = [f"train.max_steps={args.steps}", *args.set]
    changes += [f"train.batch_tokens={args.batch_tokens}"] if args.batch_tokens else []
    cfg = params(args.preset, changes, any_order=False)
    rows = []
    print(heading(device))
    print("| run | seed | steps | val loss | seconds | seconds to target |")
    print("|---|---:|---:|---:|---:|---:|")
    runs: list[tuple[str, int, int, Callable[[], Run]]] = []
    if args.nanogpt:
        runs.append(("nanoGPT", 1, peer.steps, partial(nanogpt_run, args.tokens, args.nanogpt, 1,
                                                       peer, device, args.val_tokens)))
    runs += [(args.preset, seed, args.steps,
              partial(preset_run, args.tokens, cfg.model_copy(update={"seed": seed}), device,
                      args.val_tokens))
             for seed in args.seeds]
    target = args.target
    for name, seed, steps, make in runs:
        if name != "nanoGPT" and device.type == "cpu":
            keep_freed_memory()
        row = {"run": name, "seed": seed} | measure(make(), steps, target, now, device)
        if name == "nanoGPT":
            target = row["val_loss"]
        rows.append(row)
        reached = row["seconds_to_target"]
        print(f"| {name} | {seed} | {steps} | {row['val_loss']:.4f} | {row['seconds']:.1f} | "
              f"{'not reached' if reached is None else f'{reached:.1f}'} |", flush=True)
    write(args.json, rows, device)


if __name__ == "__main__":
    main()
