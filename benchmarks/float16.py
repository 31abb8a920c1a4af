"""float16 with its gradient scaler: a run, and the same run stopped half-way and resumed.

    python benchmarks/float16.py --tokens DIR [--steps 50] [--device cuda] [--small] [--json FILE]

Each part is a process of its own, with the trainer of the stage train. The second run gets the
first one's half-way checkpoint, which is what a stop leaves; its weights and its scaler's state
must equal the first one's bit for bit. GPT-2 (124M)'s shape at 32,768 tokens a step; ``--small``:
two layers, for a CPU. Exits 1 where the runs differ.
"""

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "src")]

import torch

from benchmarks.machine import heading, write
from benchmarks.preset_step import random_tokens
from reprogpt.config import Config, merge, read_yaml
from reprogpt.launch.run_dir import Paths, RunDir
from reprogpt.runtime.device import pick_device
from reprogpt.runtime.distributed import leave, process_group
from reprogpt.tokens.tokenizers import gpt2_tokenizer
from reprogpt.training import checkpoint
from reprogpt.training.trainer import Trainer

SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64}


def run_in(folder: Path, tokens: Path, device: str, steps: int, small: bool) -> RunDir:
    """A run in float16 whose checkpoints stay: one half-way, one at the end."""
    values = merge(read_yaml(ROOT / "presets/shakespeare.yaml"),
                   read_yaml(ROOT / "presets/gpt2-124m.yaml"))
    changes: dict[str, Any] = {
        "model": SMALL if small else {},
        "train": {"precision": "float16", "max_steps": steps, "warmup_steps": steps // 5,
                  "batch_tokens": 512 if small else 32768, "val_tokens": 1024,
                  "eval_interval": steps, "log_interval": 1},
        "runtime": {"device": device, "nproc": 1, "checkpoint_interval": steps // 2,
                    "keep_checkpoints": 9, "compile": not small, "max_restarts": 0}}
    cfg = Config.parse(merge(values, changes))
    (folder / "init").mkdir(parents=True)
    paths = Paths(str(tokens), str(folder / "init"), str(folder / "gpt"),
                  str(folder / "train.csv"), str(folder / "train.json"))
    return RunDir.create(folder / "runs", "float16", cfg, paths)


def train(run: RunDir) -> None:
    """Trains what is left of a run, in a new process."""
    run.write()
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} | os.environ  # as the launcher sets it
    subprocess.run([sys.executable, __file__, "--child", str(run.path)], check=True,
                   env=environment)


def child(path: str) -> None:
    """The new process."""
    run = RunDir.open(Path(path))
    with process_group(run.config.runtime.device, 60) as process:
        Trainer(run, process).run()
    leave()


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of weights that are not bit for bit equal, and the scaler where its state is not."""
    found = [name for name, value in a["model"].items() if not torch.equal(value, b["model"][name])]
    return found + (["scaler"] if a["scaler"] != b["scaler"] else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tokens", type=Path, help="shards; random tokens without")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = pick_device(args.device)
    print(heading(device), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens = args.tokens or random_tokens(folder / "tokens")
        if not (tokens / "tokenizer").exists():
            gpt2_tokenizer().save(tokens / "tokenizer")
        straight, resumed = (run_in(folder / which, tokens.resolve(), device.type, args.steps,
                                    args.small) for which in ("straight", "resumed"))
        train(straight)
        half = f"step_{args.steps // 2:06d}"
        for file in straight.path.glob(f"{half}.*"):
            shutil.copy(file, resumed.path)
        train(resumed)
        middle = checkpoint.load(straight.path / f"{half}.pt")
        first, second = (checkpoint.latest(run.path) for run in (straight, resumed))
    assert first is not None
    assert second is not None
    rows = [row for row in first["rows"] if row["step"] > 0]
    different = differences(first, second)
    result = {
        "steps": first["step"], "loss_first": rows[0]["train_loss"],
        "loss_last": rows[-1]["train_loss"], "scale_half_way": middle["scaler"].get("scale"),
        "scale_end": first["scaler"].get("scale"),
        "skipped_steps": sum(not math.isfinite(row["grad_norm"]) for row in rows),
        "tokens_per_second": rows[-1]["tokens_per_second"], "different": different}
    for key, value in result.items():
        print(f"{key:18} {value}")
    print("resumed equals straight, bit for bit" if not different else "RESUMED DIFFERS")
    write(args.json, result, device)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    child(sys.argv[2]) if sys.argv[1:2] == ["--child"] else main()
