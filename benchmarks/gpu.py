"""Everything that is measured on a GPU, one script after the other, their JSON in one folder.

    python benchmarks/gpu.py OUT [--tokens DIR] [--nanogpt DIR] [--build-nanogpt DIR]
        [--only train_step sampling ...] [--small]

Takes about ten minutes on an H200, half of them compilation. Needs no network: DIR of --tokens are
shards with GPT-2's tokens for time_to_loss, and data/hellaswag must be there for hellaswag; either
is left out where it is missing. ``--small`` only tries whether everything runs, on any device.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """Each script's arguments, by its name, in the order in which they matter."""
    device = ["--device", "auto" if args.small else "cuda"]
    nanogpt = ["--nanogpt", str(args.nanogpt)] if args.nanogpt else []
    peers = nanogpt + (["--build-nanogpt", str(args.build_nanogpt)] if args.build_nanogpt else [])
    rounds = ["--rounds", "1"] if args.small else []
    found = {
        "train_step": ["--rounds", "3", "--sizes", "tiny" if args.small else "gpt2-124m",
                       *peers, *device],
        "sampling": [*nanogpt, *rounds, *device, "--tokens", "4" if args.small else "500"],
        "hellaswag": ["--examples", "4" if args.small else "500", *device],
        "hellaswag_all": ["--examples", "4" if args.small else "0", "--no-loop", *device],
        "time_to_loss": [str(args.tokens), "--preset", "modern-124m", "--seeds", "1",
                         "--batch-tokens", "32768", "--steps", "285", "--val-tokens", "524288",
                         *nanogpt, *device],
        "speed_ladder": [*device, *(["--layers", "1", "--repeats", "1"] if args.small else [])],
    }
    if not args.tokens or args.small:
        del found["time_to_loss"]
    if not (ROOT / "data/hellaswag/hellaswag_val.jsonl").exists():
        del found["hellaswag"], found["hellaswag_all"]
    return {name: rest for name, rest in found.items() if name in (args.only or found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--build-nanogpt", type=Path)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, rest in commands(args).items():
        script = name.removesuffix("_all")
        print(f"\n== {script} {' '.join(rest)}", flush=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, str(ROOT / f"benchmarks/{script}.py"), *rest,
                               "--json", str(args.out / f"{name}.json")], check=False)
        print(f"({time.perf_counter() - start:.0f} s)", flush=True)
        failed += [name] if done.returncode else []
    if failed:
        sys.exit(f"failed, see above: {', '.join(failed)}")


if __name__ == "__main__":
    main()
