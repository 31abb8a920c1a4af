"""Tiny trainings for the tests: tokens of a made-up language, runs, groups of processes."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reprogpt.config import Config, merge, read_yaml
from reprogpt.launch.group import LOOPBACK
from reprogpt.launch.run_dir import Paths, RunDir
from reprogpt.tokens.manifest import Manifest, Totals, write_manifest
from reprogpt.tokens.tokenizers import CharTokenizer
from reprogpt.training.metrics_log import COLUMNS, Row
from tests.shard_writer import ShardWriter

ROOT = Path(__file__).resolve().parent.parent
ALPHABET = "abcdefghijklmnopqrstuvwxyz .\n"
TINY = {
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "dropout": 0.2},
    "tokenize": {"encoding": "char"},
    "train": {"max_steps": 20, "batch_tokens": 12 * 16, "lr": 1e-2, "min_lr": 1e-3,
              "warmup_steps": 4, "eval_interval": 10, "val_tokens": 320, "log_interval": 1,
              "precision": "float32"},
    "runtime": {"device": "cpu", "nproc": 1, "micro_batch": 5, "compile": False,
                "checkpoint_interval": 4, "max_restarts": 0, "timeout": 60},
}


def write_tokens(folder: Path, tokens: int = 6000, masked: bool = False) -> Path:
    """Shards of words that follow a rule a tiny model can learn; returns their folder."""
    tokenizer = CharTokenizer("".join(sorted(ALPHABET)))
    rng = np.random.default_rng(0)
    shards, totals = [], {}
    for split, count in (("train", tokens), ("val", 700)):
        ids = np.empty(count, np.uint16)
        ids[0] = 3
        for i in range(1, count):  # each letter is mostly a function of the one before
            ids[i] = (ids[i - 1] * 7 + 3) % 29 if rng.random() < 0.8 else rng.integers(29)
        mask = (rng.random(count) < np.linspace(0.05, 0.95, count)).astype(np.uint8)
        writer = ShardWriter(folder, split, 1024, masked=masked)
        writer.document()
        writer.write(ids, mask if masked else None)
        shards += writer.close()
        totals[split] = Totals(1, count, count)
    tokenizer.save(folder / "tokenizer")
    identity = {"name": "char", "n_vocab": 29, "fingerprint": tokenizer.fingerprint}
    write_manifest(folder, Manifest(tuple(shards), totals, identity,
                                    {"name": "made up", "revision": "1"}))
    return folder


def config(**changes: Any) -> Config:
    """The tiny run's params with sections changed: config(train={"lr": 1e-3})."""
    base = merge(read_yaml(ROOT / "presets/shakespeare.yaml"), TINY)
    return Config.parse(merge(base, changes))


def make_run(folder: Path, tokens: Path, **changes: Any) -> RunDir:
    """A run in ``folder``; asked for twice, it is found again."""
    (folder / "init").mkdir(parents=True, exist_ok=True)
    cfg = config(**changes)
    paths = Paths(str(tokens), str(folder / "init"), str(folder / "gpt"),
                  str(folder / "train.csv"), str(folder / "train.json"), probes=str(folder))
    return RunDir.create(folder / "runs", cfg.fingerprint([]), cfg, paths)


def train(run: RunDir, processes: int = 1) -> None:
    """Trains a run to its end in this many processes of one gloo group, without the launcher.

    Leaves each replica's weights in run.path/rank_N.pt. Raises what rank 0 raised.
    """
    run.write()
    # Without it the server would import the installed package, perhaps another checkout's.
    os.environ.setdefault("PYTHONPATH", os.pathsep.join((str(ROOT / "src"), str(ROOT))))
    context = multiprocessing.get_context("forkserver")
    # torch._dynamo: what the first optimizer imports, twice as much as the training itself.
    context.set_forkserver_preload(["tests.tiny_runs", "reprogpt.training.trainer",
                                    "torch._dynamo"])
    (run.path / "group").unlink(missing_ok=True)
    errors = context.Queue()
    members = [context.Process(target=_member, args=(run.path, rank, processes, errors))
               for rank in range(processes)]
    for member in members:
        member.start()
    for member in members:
        member.join(240)
        if member.is_alive():
            member.kill()
            raise TimeoutError("a training process hangs")
    if any(member.exitcode for member in members):
        raise errors.get(timeout=5)


def _member(path: Path, rank: int, world: int, errors: Any) -> None:
    from reprogpt.runtime.distributed import process_group
    from reprogpt.training.trainer import Trainer

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank),
                   "RENDEZVOUS_FILE": str(path / "group"), "GLOO_SOCKET_IFNAME": LOOPBACK}
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as the launcher sets it
    torch.set_num_threads(1)
    run = RunDir.open(path)
    try:
        with process_group(run.config.runtime.device, 60) as process:
            trainer = Trainer(run, process)
            trainer.run()
            torch.save(trainer.model.state_dict(), run.path / f"rank_{rank}.pt")
    except Exception as error:
        errors.put(error)
        raise


def launch(run: RunDir, **popen: Any) -> subprocess.Popen[str]:
    """Starts the real launcher on a run, as its own process."""
    if not (run.path / "run.json").exists():
        run.write()
    path = os.pathsep.join((str(ROOT / "src"), os.environ.get("PYTHONPATH", "")))
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*popen.pop("before", ()), sys.executable, "-m",
                             "reprogpt.launch.launcher", str(run.path)], env=env, text=True,
                            stderr=subprocess.PIPE, cwd=run.path, **popen)


def join(run: RunDir, address: str, secret: str, **popen: Any) -> subprocess.Popen[str]:
    """Starts another node of a run, as python -m pipeline.join does."""
    script = ("import math, sys; from pathlib import Path; from reprogpt.launch.join import join;"
              "from reprogpt.launch.network import *; from reprogpt.launch.run_dir import RunDir;"
              "run = RunDir.open(Path(sys.argv[1])); host, _, port = sys.argv[2].rpartition(':');"
              "join(Rendezvous(2, host, int(port)), sys.argv[3], lambda: (run, {}), math.inf)")
    run.write()
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*popen.pop("before", ()), sys.executable, "-c", script,
                             str(run.path), address, secret],
                            env=env, text=True, stderr=subprocess.PIPE, cwd=run.path, **popen)


def members_in(folder: Path) -> list[int]:
    """Process ids of all that works on a run in ``folder``: launcher, training processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(word == str(folder) or word.startswith(f"{folder}/") for word in command):
            found.append(int(path.parent.name))
    return sorted(found)


def read_csv(run: RunDir) -> list[Row]:
    """metrics/train.csv as rows of numbers."""
    header, *lines = Path(run.paths.csv).read_text().splitlines()
    assert tuple(header.split(",")) == COLUMNS
    return [dict(zip(COLUMNS, map(float, line.split(",")))) for line in lines]


def losses(run: RunDir) -> list[float]:
    """The training loss of every step."""
    return [row["train_loss"] for row in read_csv(run) if row["step"] > 0]


def without_times(rows: list[Row]) -> list[str]:
    """Rows as text, less the columns that a clock decides."""
    return [str({k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")})
            for row in rows]


def weights(run: RunDir) -> bytes:
    """The finished model's bytes."""
    return (Path(run.paths.model) / "model.safetensors").read_bytes()
