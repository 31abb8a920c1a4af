"""Tokens per second of one training step, ours beside others', in one run on one machine.

    python benchmarks/train_step.py [--sizes char 6l 124m] [--rounds 5] [--json FILE]
        [--nanogpt DIR] [--build-nanogpt DIR] [--no-compile] [--threads N] [--cpu-time]

Every contender is a process of its own. They take turns, a few steps each, round after round, so
that whatever else the machine does meets all of them; the figure is the median over all rounds,
the ratio the median of the rounds' ratios. A step is forward, backward, clip and update on a batch
that is in memory. On a machine that is busy with something else, `--threads 1 --cpu-time` counts
the processor's seconds instead of the clock's. Peers are measured from a checkout given by its
path, and skipped without one.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "src")]

import torch

from benchmarks.machine import heading, write
from benchmarks.peers import nanogpt_module
from reprogpt.launch import HUGE_PAGES
from reprogpt.runtime import computes_bfloat16

SIZES = {  # n_layer, n_head, n_embd, T, B, vocab_size
    "char": (4, 4, 128, 64, 12, 65),
    "4l": (4, 4, 128, 64, 16, 50257),
    "6l": (6, 6, 384, 256, 4, 50257),
    "124m": (12, 12, 768, 256, 4, 50257),
}
Step = Callable[[], Any]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def batch(T: int, B: int, vocab_size: int) -> Any:
    both = torch.randint(vocab_size, (B, T + 1), generator=torch.Generator().manual_seed(0))
    return both[:, :-1].contiguous(), both[:, 1:].contiguous()


def reference(size: tuple[int, ...], checkout: str) -> Step:
    """benchmarks/reference.py with AdamW and clipping, as the lecture first trains it."""
    from benchmarks.reference import ReferenceGPT

    n_layer, n_head, n_embd, T, B, V = size
    model = ReferenceGPT(n_layer, n_head, n_embd, T, V)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    idx, targets = batch(T, B, V)

    def step() -> None:
        optimizer.zero_grad()
        loss = model(idx, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return step


def ours(size: tuple[int, ...], checkout: str, compiled: bool = False,
         precision: str = "float32") -> Step:
    """The step of `reprogpt.train`, deterministic as the presets have it."""
    from reprogpt.architectures import build_model
    from reprogpt.config import Config, merge, read_yaml
    from reprogpt.loader import Batch
    from reprogpt.optim import build_optimizer
    from reprogpt.runtime import Process, keep_freed_memory, set_determinism
    from reprogpt.training.network import Network

    n_layer, n_head, n_embd, T, B, V = size
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "block_size": T}
    cfg = Config.parse(merge(read_yaml(ROOT / "presets/shakespeare.yaml"),
                             {"model": shape, "train": {"batch_tokens": B * T}}))
    keep_freed_memory()
    set_determinism(cfg.train.deterministic, "float32")
    model = build_model(cfg.model, V)
    model.init_weights(torch.Generator().manual_seed(0))
    resolved = {"precision": precision, "micro_batch": B, "compile": compiled}
    net = Network(model, Process(0, 1, torch.device("cpu")), cfg.seed, resolved)
    optimizer, scaler = build_optimizer(model, cfg.train), torch.amp.GradScaler(enabled=False)
    idx, targets = batch(T, B, V)
    data = Batch(idx, targets, torch.arange(B), B * T)
    return lambda: net.update(data, 0, optimizer, scaler, cfg.train)


def nanogpt(size: tuple[int, ...], checkout: str) -> Step:
    """nanoGPT's loop on a CPU: eager float32, its own AdamW groups."""
    module = nanogpt_module(checkout)
    n_layer, n_head, n_embd, T, B, V = size
    model = module.GPT(module.GPTConfig(
        n_layer=n_layer, n_head=n_head, n_embd=n_embd, block_size=T, dropout=0.0, bias=True,
        vocab_size=V if V < 1000 else 50304))  # its default is padded
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), "cpu")
    idx, targets = batch(T, B, V)

    def step() -> None:
        loss = model(idx, targets)[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def build_nanogpt(size: tuple[int, ...], checkout: str) -> Step:
    """build-nanogpt's loop: its classes cut out of its script, under bfloat16 autocast."""
    tree = ast.parse((Path(checkout) / "train_gpt2.py").read_text())
    skip = {"hellaswag", "tiktoken"}
    kept: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.ClassDef)
            or (isinstance(node, ast.Import) and node.names[0].name not in skip)
            or (isinstance(node, ast.ImportFrom) and node.module not in skip)]
    scope: dict[str, Any] = {"__name__": "build_nanogpt", "master_process": False}
    sys.modules["build_nanogpt"] = type(sys)("build_nanogpt")  # its dataclass looks itself up
    exec(compile(ast.Module(kept, []), "train_gpt2.py", "exec"), scope)
    n_layer, n_head, n_embd, T, B, V = size
    model = scope["GPT"](scope["GPTConfig"](
        n_layer=n_layer, n_head=n_head, n_embd=n_embd, block_size=T,
        vocab_size=V if V < 1000 else 50304))
    optimizer = model.configure_optimizers(0.1, 6e-4, "cpu")
    idx, targets = batch(T, B, V)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(idx, targets)[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return step


CONTENDERS: dict[str, Callable[[tuple[int, ...], str], Step]] = {
    "reference": reference,
    "nanoGPT": nanogpt,
    "build-nanogpt": build_nanogpt,
    "reprogpt": ours,
    "reprogpt, compiled": lambda size, checkout: ours(size, checkout, compiled=True),
    "reprogpt, bfloat16": lambda size, checkout: ours(size, checkout, precision="bfloat16"),
    "reprogpt, bfloat16, compiled": lambda size, checkout: ours(
        size, checkout, compiled=True, precision="bfloat16"),
}


class Contender:
    """A child process that runs steps when told to."""

    def __init__(self, name: str, size: str, checkout: str, threads: int | None,
                 clock: str) -> None:
        self.name = name
        command = [sys.executable, __file__, "--child", name, size, checkout, clock]
        environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        if name.startswith("reprogpt"):  # as the launcher starts a training
            environment = HUGE_PAGES | environment
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      text=True, bufsize=1, env=environment)
        self.start_seconds = float(self._ask(1)[0])

    def _ask(self, steps: int) -> list[float]:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(f"{steps}\n")
        answer = self.child.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} failed, see above")
        seconds: list[float] = json.loads(answer)
        return seconds

    def run(self, steps: int) -> float:
        """The median seconds of ``steps`` steps, after one that does not count: a system may have
        taken back memory that lay idle while others ran."""
        return median(self._ask(steps + 1)[1:])

    def close(self) -> None:
        self.child.communicate("0\n")


def child(name: str, size: str, checkout: str, clock: str) -> None:
    """Runs as many steps as each line of stdin asks for, and prints their seconds."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # peers print
    step, now = CONTENDERS[name](SIZES[size], checkout), CLOCKS[clock]
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = now()
            step()
            seconds.append(now() - start)
        if not seconds:
            return
        answers.write(json.dumps(seconds) + "\n")


def measure(size: str, names: dict[str, str], rounds: int, seconds: float, threads: int | None,
            clock: str) -> list[dict[str, Any]]:
    """One row per contender: median ms a step, tokens per second, and how many times as fast as
    each other it is."""
    contenders = []
    try:
        for name, checkout in names.items():
            contenders.append(Contender(name, size, checkout, threads, clock))
        steps = [max(1, int(seconds / c.run(2))) for c in contenders]
        times = [[c.run(n) for c, n in zip(contenders, steps, strict=True)] for _ in range(rounds)]
    finally:
        for contender in contenders:
            contender.close()
    _, _, _, T, B, _ = SIZES[size]
    rows = []
    for i, contender in enumerate(contenders):
        ms = median(t[i] for t in times)
        rows.append({"size": size, "contender": contender.name, "ms": ms * 1e3,
                     "tokens_per_second": B * T / ms, "first_step_s": contender.start_seconds,
                     "times": {c.name: median(t[j] / t[i] for t in times)
                               for j, c in enumerate(contenders)}})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a Markdown table."""
    print("| size | contender | ms a step | tokens/s | x reference | x nanoGPT | x build-nanogpt |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for row in rows:
        peers = [f"{row['times'][p]:.2f}" if p in row["times"] else "" for p in
                 ("reference", "nanoGPT", "build-nanogpt")]
        print(f"| {row['size']} | {row['contender']} | {row['ms']:.1f} | "
              f"{row['tokens_per_second']:,.0f} | {' | '.join(peers)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["char", "6l", "124m"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="a contender's turn")
    parser.add_argument("--nanogpt", metavar="DIR", help="a checkout of nanoGPT")
    parser.add_argument("--build-nanogpt", metavar="DIR", help="a checkout of build-nanogpt")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=CONTENDERS,
                        help="of the contenders: several of 124M need several GB each")
    parser.add_argument("--threads", type=int, help="of each contender; torch's default without")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    names = {"reference": ""}
    names |= {"nanoGPT": args.nanogpt} if args.nanogpt else {}
    names |= {"build-nanogpt": args.build_nanogpt} if args.build_nanogpt else {}
    left_out = {"compiled"} if args.no_compile else set()
    if not computes_bfloat16(torch.device("cpu")):
        left_out.add("bfloat16")
        print("reprogpt in bfloat16 is left out: this processor only emulates it")
    names |= {name: "" for name in CONTENDERS
              if name.startswith("reprogpt") and not left_out & set(name.split(", "))}
    if missing := set(args.only or ()) - set(names):
        parser.error(f"--only {', '.join(sorted(missing))}: not on this machine, or not without "
                     "the checkout that --nanogpt or --build-nanogpt names")
    names = {name: where for name, where in names.items() if name in (args.only or names)}
    print(heading())
    clock = "cpu" if args.cpu_time else "wall"
    print(f"{args.threads or 'all'} threads, {clock} time")
    rows = [row for size in args.sizes
            for row in measure(size, names, args.rounds, args.seconds, args.threads, clock)]
    show(rows)
    write(args.json, rows)


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
