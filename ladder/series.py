"""A series of small runs, trained one by one for their losses: a sweep, or a scaling law's runs."""

import math
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pipeline import ROOT
from pipeline.checks.seal import Seal
from reprogpt.config import Config, read_yaml

SMALL = 64
"""The n_embd below which a second thread costs more time than it saves."""


def few_threads(cfg: Config) -> None:
    """One thread for a small model, unless the user has chosen. Call it before importing torch."""
    if cfg.model.n_embd < SMALL:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def losses(stage: str, dvc_file: Path, tokens: Path, series: Iterable[Config]) -> list[float]:
    """The validation loss at the end of each run on the shards in ``tokens``; nan where training
    diverged. A finished run is kept in runs/ and not repeated while the code of the stage stays."""
    from reprogpt.storage.files import sha256_of

    contents = [("tokens", sha256_of(tokens / "manifest.json")),
                *Seal.take(stage, dvc_file).sources.items()]
    return [_loss(cfg, cfg.fingerprint(contents), tokens) for cfg in series]


def _loss(cfg: Config, fingerprint: str, tokens: Path) -> float:
    from reprogpt.launch.run_dir import Paths, RunDir, runs_root
    from reprogpt.runtime.distributed import process_group
    from reprogpt.training.loss_monitor import NotFinite
    from reprogpt.training.trainer import Trainer

    with (tempfile.TemporaryDirectory() as folder,
          process_group(cfg.runtime.device, cfg.runtime.timeout) as process):
        files = (f"{folder}/{name}" for name in ("init", "model", "train.csv", "train.json"))
        run = RunDir.create(runs_root(ROOT), fingerprint, cfg, Paths(str(tokens), *files))
        lock = run.lock()
        try:
            Trainer(run, process).run()
            return float(read_yaml(Path(folder, "train.json"))["val_loss"])
        except NotFinite as error:
            print(error, file=sys.stderr)
            return math.nan
        finally:
            os.close(lock)
