"""What a training loses to other programs on the same cores, by how long its threads spin.

    python -m benchmarks.contention [--rounds 3] [--steps 60] [--json FILE]

Tokens a second of the real trainer, started by the launcher with two threads or as many as there
are cores: alone, beside one and two processes that only compute, and of two trainings at once (the
slower one, and with `shared` each on its own half of the cores, as under `dvc queue start -j 2`).
All settings in turn, medians of the rounds. Worth something on an idle machine only.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import ROOT
from benchmarks.machine import heading, write
from benchmarks.processes import tokens_per_second, write_tokens
from reprogpt.runtime.contention import SPIN_COUNT
from reprogpt.runtime.workers import usable_cores

SIZES = {
    "6L/64 T64 B8": {"n_layer": 6, "n_head": 4, "n_embd": 64, "block_size": 64, "rows": 8},
    "6L/384 T256 B4": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "rows": 4},
}
SETTINGS = {"libgomp's default": {"GOMP_SPINCOUNT": "300000"}} | {
    f"GOMP_SPINCOUNT={n}": {"GOMP_SPINCOUNT": n}
    for n in sorted({"10000", "5000", "4000", "2000", "1000", SPIN_COUNT}, key=int, reverse=True)
} | {"OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"}}
CASES = {"alone": (0, 1, False), "beside one": (1, 1, False), "beside two": (2, 1, False),
         "two at once": (0, 2, False), "two, shared": (0, 2, True)}
"""Name -> (busy processes, trainings, each on cores of its own)."""


def measure(arguments: argparse.Namespace, size: str, case: str, setting: dict[str, str],
            tokens: str) -> float:
    """The slowest training's tokens a second."""
    busy, trainings, shared = CASES[case]
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        children = [subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contention", "--steps", str(arguments.steps),
             "--one", size, tokens, str(part if shared else -1)], env=env | setting, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for part in range(trainings)]
        return min(float(child.communicate()[0]) for child in children)
    finally:
        for other in others:
            other.kill()
            other.wait()


def one(size: str, tokens: str, part: int, steps: int) -> None:
    """Prints the tokens a second of one training, on all cores or on half ``part`` of them."""
    if part >= 0:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[part::2])
    print(tokens_per_second(Path(tokens), SIZES[size], 1, usable_cores(), steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        size, folder, part = arguments.one
        one(size, folder, int(part), arguments.steps)
        return
    results: dict[str, dict[str, dict[str, float]]] = {}
    print(heading())
    with tempfile.TemporaryDirectory() as tokens:
        write_tokens(Path(tokens))
        for size in SIZES:
            found: dict[tuple[str, str], list[float]] = {}
            for _ in range(arguments.rounds):
                for name, setting in SETTINGS.items():
                    for case in CASES:
                        found.setdefault((name, case), []).append(
                            measure(arguments, size, case, setting, tokens))
            results[size] = {name: {case: statistics.median(found[name, case]) for case in CASES}
                             for name in SETTINGS}
            print(f"\n| {size}, tokens/s | {' | '.join(CASES)} |\n|---|{'---:|' * len(CASES)}")
            for name, row in results[size].items():
                print(f"| {name} | {' | '.join(f'{value:,.0f}' for value in row.values())} |")
    write(arguments.json, results)


if __name__ == "__main__":
    main()
