"""Trains a rung of the ladder with the learner's own function or class in it.

    python -m exercises.use heads      # averaging, head or heads

The params are those of ladder/params.yaml. Nothing is kept but what is printed.
"""

import importlib
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from exercises.check import verdict
from ladder.rungs import DVC_FILE, METRICS, TOKENS, params
from pipeline import ROOT
from pipeline.cli import Parser, one_line, stop
from reprogpt.config import Config, ModelConfig

RUNGS = {"averaging": "average", "head": "head", "heads": "multihead"}
"""The rung that each of these exercises is a part of."""


class Body(nn.Module):
    """The learner's part as the ladder's models call it: always causal, without dropout."""

    def __init__(self, module: ModuleType, cfg: ModelConfig) -> None:
        super().__init__()
        self.part = {"average": lambda: module.average_softmax,
                     "head": lambda: module.Head(cfg.n_embd, cfg.n_embd),
                     "multihead": lambda: module.Heads(cfg.n_embd, cfg.n_head)}[cfg.architecture]()

    def forward(self, x: Tensor, mask: Tensor, dropout_keys: Tensor | None) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        return self.part(x)


def train(module: ModuleType, cfg: Config, tokens: Path) -> tuple[float, str]:
    """Trains ``cfg``'s rung with the learner's ``module``: its validation loss, and a sample."""
    from reprogpt.evaluation.validation import validation_loss
    from reprogpt.generation.samples import write
    from reprogpt.launch.run_dir import Paths, RunDir
    from reprogpt.model.lecture1 import models
    from reprogpt.runtime.distributed import process_group
    from reprogpt.tokens.shards import TokenStream
    from reprogpt.tokens.tokenizers import load_tokenizer
    from reprogpt.training.trainer import Trainer

    models.RUNGS[cfg.model.architecture] = partial(models.Climb, partial(Body, module))
    tokenizer = load_tokenizer(tokens / "tokenizer")
    with (tempfile.TemporaryDirectory(prefix="reprogpt-") as folder,
          process_group(cfg.runtime.device, cfg.runtime.timeout) as process):
        files = (f"{folder}/{name}" for name in ("init", "model", "train.csv", "train.json"))
        trainer = Trainer(RunDir.create(Path(folder), "run", cfg, Paths(str(tokens), *files)),
                          process)
        trainer.run()
        found = validation_loss(trainer.model, TokenStream(tokens, "val"), tokenizer.token_bytes(),
                                process, val_tokens=cfg.evaluate.val_tokens,
                                block_size=cfg.model.block_size)
        return found.loss, write(trainer.model, tokenizer, cfg.sample, cfg.seed)[0][0]


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("exercise", choices=RUNGS)
    name = parser.parse_args().exercise
    cfg = params(RUNGS[name])
    if wrong := verdict(name):
        stop(f"{wrong}; make it right first: make exercise N={name}", 1)
    if not (TOKENS / "manifest.json").exists():
        made = [sys.executable, "-m", "dvc", "repro", f"{DVC_FILE}:tokens"]
        if code := subprocess.run(made, cwd=ROOT, check=False).returncode:
            sys.exit(code)  # dvc has said why
    torch.set_num_threads(1)  # a model as small is slower with two
    loss, text = train(importlib.import_module(f"exercises.{name}"), cfg, TOKENS)
    corpus = json.loads((TOKENS / "manifest.json").read_text())["corpus"]
    known = json.loads((METRICS / f"{RUNGS[name]}.json").read_text())
    print(f"{text}\n\nrung {RUNGS[name]} with exercises/{name}.py: validation loss {loss:.3f} on "
          f"{corpus['name']}; the library's own: {known['val_loss']:.3f} on {known['corpus']}")


if __name__ == "__main__":
    with one_line():
        main()
