"""Everything that is measured on a GPU, one arm after the other, within a budget of seconds.

    python benchmarks/gpu.py OUT --seconds 480 [--only train_step sampling ...] [--tokens DIR]
        [--nanogpt DIR] [--build-nanogpt DIR] [--small]

Each arm is a script that prints its table as it goes; its figures are in OUT/gpu.json as soon as it
ends. An arm is skipped with a line where the budget leaves less than the seconds it takes on an
H200 (SECONDS), or where what it needs is missing; one that is still at work when the budget ends is
stopped. Needs no network: DIR of --tokens are shards with GPT-2's tokens, and hellaswag_all needs
data/hellaswag. ``--small`` only tries whether everything runs, on any device.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SECONDS = {  # of each arm, compiling included, in the order in which they matter
    "train_step": 160, "modern_step": 60, "modern_step_any_order": 50, "attention": 20,
    "scaled_mm": 50, "time_to_loss": 180, "time_to_loss_ngrams": 70, "hellaswag_all": 45,
    "sampling": 60, "memory_350m": 110, "memory_1b3": 240, "speed_ladder": 180,
    "float16": 90, "build_nanogpt": 75,
}
OURS = [f"reprogpt, bfloat16, compiled{more}" for more in
        ("", ", any order", ", any order, no biases")]
TINY = ["--steps", "1", "--set", "model.n_layer=2", "model.n_head=2", "model.n_embd=64",
        "model.block_size=64", "train.batch_tokens=512"]


def command(name: str, args: argparse.Namespace) -> list[str] | str:
    """The script and the arguments of an arm; a string where it cannot run: the reason."""
    small, nanogpt = args.small, ["--nanogpt", str(args.nanogpt)] if args.nanogpt else []
    tokens = ["--tokens", str(args.tokens)] if args.tokens else []
    build = ["--build-nanogpt", str(args.build_nanogpt)]
    turns = ["--rounds", "1", "--sizes", "tiny"] if small else [
        "--rounds", "3", "--sizes", "gpt2-124m"]
    if name == "train_step":
        only = [] if small else ["--only", *OURS, *(["nanoGPT"] if nanogpt else [])]
        return ["train_step", *turns, *nanogpt, *only]
    if name == "build_nanogpt":
        if not args.build_nanogpt:
            return "--build-nanogpt names no checkout"
        both = ["nanoGPT", "build-nanogpt"] if nanogpt else ["build-nanogpt"]
        return ["train_step", *turns, *nanogpt, *build, "--only", *both]
    if name.startswith("modern_step"):
        any_order = ["--any-order"] if name.endswith("any_order") else []
        return ["preset_step", "modern-124m", *tokens, *any_order,
                *(TINY if small else ["--steps", "8"])]
    if name.startswith("memory"):  # gpt3-1b3: a quarter of its batch, which costs no memory
        preset = {"memory_350m": "gpt2-350m", "memory_1b3": "gpt3-1b3"}[name]
        full = ["--steps", "2", *(["--set", "train.batch_tokens=262144"] if "1b3" in name else [])]
        return ["preset_step", preset, *tokens, *(TINY if small else full)]
    if name.startswith("time_to_loss"):
        if small or not args.tokens:
            return "takes minutes on a GPU" if small else "--tokens names no shards"
        # n-grams, which pay at character size: nanoGPT's minute is measured by the arm before
        more = ["--set", "model.ngram_rows=[262144, 262144]"] if "ngrams" in name else nanogpt
        return ["time_to_loss", str(args.tokens), "--preset", "modern-124m", "--seeds", "1",
                "--steps", "285", "--batch-tokens", "32768", "--val-tokens", "524288", *more]
    if name == "hellaswag_all":
        if not (ROOT / "data/hellaswag/hellaswag_val.jsonl").exists():
            return "data/hellaswag/hellaswag_val.jsonl is missing"
        return ["hellaswag", "--examples", "2" if small else "0", "--no-loop", "--bfloat16-only"]
    if name == "sampling":
        return ["sampling", *nanogpt, *(["--tokens", "4", "--rounds", "1"] if small
                                        else ["--tokens", "500"])]
    if name == "speed_ladder":
        return ["speed_ladder", *(["--layers", "1", "--repeats", "1"] if small else [
            "--layers", "12", "--width", "768", "--rows", "16", "--block", "1024"])]
    if name == "float16":
        return ["float16", *tokens, *(["--small", "--steps", "2"] if small else [])]
    options = {"attention": ["--shape", "2", "2", "64", "16"],
               "scaled_mm": ["--tokens", "16", "--layers", "MLP up"]}
    return [name, *(options[name] if small else [])]


def run(arguments: list[str], file: Path, limit: float) -> str:
    """Runs one script to its end: "ok", or what went wrong. Stops it, and all that it started,
    after ``limit`` seconds."""
    script, *rest = arguments
    child = subprocess.Popen([sys.executable, str(ROOT / f"benchmarks/{script}.py"), *rest,
                              "--json", str(file)], start_new_session=True)
    try:
        status = child.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return "stopped: the budget has ended"
    return "ok" if status == 0 else f"failed with status {status}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, required=True, help="for all arms together")
    parser.add_argument("--only", nargs="+", choices=SECONDS, metavar="ARM",
                        help=f"of {', '.join(SECONDS)}")
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--build-nanogpt", type=Path)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    began, found, device = time.monotonic(), {}, "auto" if args.small else "cuda"
    for name in SECONDS if args.only is None else args.only:
        left = args.seconds - (time.monotonic() - began)
        arguments = command(name, args)
        if isinstance(arguments, str) or left < (1 if args.small else SECONDS[name]):
            why = arguments if isinstance(arguments, str) else (
                f"takes about {SECONDS[name]} s, and {left:.0f} are left")
            print(f"\n== {name}: skipped, {why}", flush=True)
            continue
        arguments += ["--device", device]
        print(f"\n== {name}: {' '.join(arguments)}", flush=True)
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "figures.json"
            status = run(arguments, file, left)
            seconds = round(time.monotonic() - start)
            found[name] = {"status": status, "seconds": seconds,
                           "figures": json.loads(file.read_text()) if file.exists() else None}
        print(f"({name}: {status}, {seconds} s)", flush=True)
        (args.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    if failed := [name for name, arm in found.items() if arm["status"] != "ok"]:
        sys.exit(f"see above: {', '.join(failed)}")


if __name__ == "__main__":
    main()
