"""Tokens per second of one training step, ours beside others', in one run on one machine.

    python benchmarks/train_step.py [--sizes char 6l 124m] [--rounds 5] [--json FILE]
        [--nanogpt DIR] [--build-nanogpt DIR] [--device cuda] [--no-compile] [--only NAME ...]
        [--apart] [--threads N] [--cpu-time]

Every contender (contenders.py) is a process of its own. They take turns, a few steps each, round
after round, so that whatever else the machine does meets all of them; the figure is the median over
all rounds, the ratio the median of the rounds' ratios. On a GPU one gives its memory back before
the next one's turn. With ``--apart`` one comes after the other. On a machine that is busy with
something else, `--threads 1 --cpu-time` counts the processor's seconds instead of the clock's.
Peers are measured from a checkout given by its path, and skipped without one.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "src")]

import torch

from benchmarks.contenders import CONTENDERS, SIZES, field
from benchmarks.machine import heading, write
from reprogpt.launch.group import HUGE_PAGES
from reprogpt.runtime.device import peak_flops, pick_device, synchronize

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Contender:
    """A child process that runs steps when told to."""

    def __init__(self, name: str, size: str, checkout: str, device: torch.device,
                 threads: int | None, clock: str) -> None:
        self.name = name
        command = [sys.executable, __file__, "--child", name, size, str(device), checkout, clock]
        environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        if name.startswith("reprogpt"):  # as the launcher starts a training
            environment = HUGE_PAGES | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} | environment
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      text=True, bufsize=1, env=environment)
        self.start_seconds = 0.0

    def begin(self) -> None:
        """The first step, which compiles; waits until it is done."""
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


def child(name: str, size: str, device_name: str, checkout: str, clock: str) -> None:
    """Runs as many steps as each line of stdin asks for, and prints their seconds."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # peers print
    device, now = torch.device(device_name), CLOCKS[clock]
    step = CONTENDERS[name](SIZES[size], device, checkout)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = now()
            step()
            synchronize(device)
            seconds.append(now() - start)
        if not seconds:
            return
        if device.type == "cuda":
            torch.cuda.empty_cache()
        answers.write(json.dumps(seconds) + "\n")


def measure(size: str, names: dict[str, str], device: torch.device, args: argparse.Namespace
            ) -> list[dict[str, Any]]:
    """One row per contender: median ms a step, tokens per second, and how many times as fast as
    each other it is."""
    clock = "cpu" if args.cpu_time else "wall"
    starts: dict[str, float] = {}
    times: dict[str, list[float]] = {}  # by contender: seconds a step, a number a round
    for group in [[name] for name in names] if args.apart else [list(names)]:
        running: list[Contender] = []
        try:
            for name in group:
                running.append(Contender(name, size, names[name], device, args.threads, clock))
                if device.type != "cuda":  # there all build their models at once: it has the cores
                    running[-1].begin()
            for c in running if device.type == "cuda" else ():
                c.begin()
                print(f"first step of {c.name}: {c.start_seconds:.1f} s", flush=True)
            steps = [max(1, int(args.seconds / c.run(2))) for c in running]
            for _ in range(args.rounds):
                for c, n in zip(running, steps, strict=True):
                    times.setdefault(c.name, []).append(c.run(n))
        finally:
            for c in running:
                starts[c.name] = c.start_seconds
                c.close()
    rows = []
    for name, seconds in times.items():
        ratios = {other: median(b / a for a, b in zip(seconds, theirs, strict=True))
                  for other, theirs in times.items()}
        rows.append({"size": size, "contender": name, "ms": median(seconds) * 1e3,
                     "tokens_per_second": SIZES[size].tokens / median(seconds),
                     "first_step_s": starts[name], "times": ratios})
    return rows


def show(rows: list[dict[str, Any]], peak: float | None) -> None:
    """The rows as a Markdown table; with the MFU where the device's ``peak`` FLOP/s are known."""
    print("| size | contender | ms a step | tokens/s | MFU | x reference | x nanoGPT "
          "| x build-nanogpt |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        peers = [f"{row['times'][p]:.2f}" if p in row["times"] else "" for p in
                 ("reference", "nanoGPT", "build-nanogpt")]
        flops = SIZES[row["size"]].flops_per_token * row["tokens_per_second"]
        print(f"| {row['size']} | {row['contender']} | {row['ms']:.1f} | "
              f"{row['tokens_per_second']:,.0f} | {f'{flops / peak:.1%}' if peak else ''} | "
              f"{' | '.join(peers)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES,
                        help="char 6l 124m, or gpt2-124m on a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="a contender's turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--nanogpt", metavar="DIR", help="a checkout of nanoGPT")
    parser.add_argument("--build-nanogpt", metavar="DIR", help="a checkout of build-nanogpt")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=CONTENDERS,
                        help="of the contenders: several of 124M need several GB each")
    parser.add_argument("--apart", action="store_true", help="one contender after the other")
    parser.add_argument("--threads", type=int, help="of each contender; torch's default without")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    device = pick_device(args.device)
    peers = {"nanoGPT": args.nanogpt, "build-nanogpt": args.build_nanogpt}
    names = field(device, peers, not args.no_compile)
    if "reprogpt, bfloat16" not in names and device.type == "cpu":
        print("reprogpt in bfloat16 is left out: this processor only emulates it")
    if missing := set(args.only or ()) - set(names):
        parser.error(f"--only {', '.join(sorted(missing))}: not on this machine, or not without "
                     "the checkout that --nanogpt or --build-nanogpt names")
    names = {name: where for name, where in names.items() if name in (args.only or names)}
    print(heading(device))
    print(f"{args.threads or 'all'} threads, {'cpu' if args.cpu_time else 'wall'} time")
    sizes = args.sizes or (["gpt2-124m"] if device.type == "cuda" else ["char", "6l", "124m"])
    rows = [row for size in sizes for row in measure(size, names, device, args)]
    show(rows, peak_flops(device))
    write(args.json, rows, device)


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
