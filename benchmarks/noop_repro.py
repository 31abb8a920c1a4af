"""Seconds of a `dvc repro` that finds nothing to do, in this checkout as it stands.

    python benchmarks/noop_repro.py [--rounds 5] [--json FILE]

Run it after a finished `make repro`. The import time of every stage before torch is shown beside
it: what a stage costs before it does anything.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from benchmarks.machine import heading, write

STAGES = {"download": "reprogpt.data.corpora", "tokenize": "reprogpt.encoding.tokenize_corpus"}
"""The stages that need no torch, and the module that each calls."""


def timed(command: list[str], rounds: int) -> tuple[float, str]:
    """The median seconds of a command, and what it said last."""
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                        "PYTHONPATH": str(ROOT / "src")}
    seconds, output = [], ""
    for _ in range(rounds):
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True,
                              check=True)
        seconds.append(time.perf_counter() - start)
        output = done.stdout
    return median(seconds), output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    status = timed(["dvc", "status", "dvc.yaml"], 1)[1]
    if "up to date" not in status:
        raise SystemExit("the pipeline is not up to date: run make repro first")
    figures = {"dvc repro": timed(["dvc", "repro"], args.rounds)[0],
               "dvc --version": timed(["dvc", "--version"], args.rounds)[0]}
    for stage, module in STAGES.items():
        figures[f"import of {stage}"] = timed([sys.executable, "-c", f"import {module}"],
                                              args.rounds)[0]
    print(heading())
    print("| what | seconds |\n|---|---:|")
    for what, seconds in figures.items():
        print(f"| {what} | {seconds:.2f} |")
    write(args.json, figures)


if __name__ == "__main__":
    main()
