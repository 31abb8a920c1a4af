"""What params.yaml asks for and this machine has not: said before DVC deletes a stage's outs."""

import os
import shutil
from pathlib import Path

from pipeline import ROOT
from reprogpt.config import Config
from reprogpt.errors import ConfigError
from reprogpt.storage.paths import local_path

PARENTS = ("data", "models", "metrics")
"""The folders of all outs: DVC finds out only when a stage has ended that one is elsewhere."""


def check_links(root: Path = ROOT) -> None:
    """Raises ConfigError when outs would be written outside of this checkout, by a link."""
    for name in PARENTS:
        target = (root / name).resolve()
        if not target.is_relative_to(root.resolve()):
            raise ConfigError(f"{name}: is a link to {target}, outside of this checkout, where DVC "
                              "keeps no outs; make it a folder here, and put DVC's cache there "
                              "(`dvc cache dir --local FOLDER`), or the whole checkout")


def check_slurm(cfg: Config, key: str, instead: str) -> None:
    """Raises ConfigError where ``runtime.key`` asks for a Slurm that is not here."""
    inside = "SLURM_JOB_ID" in os.environ  # a node of an allocation asks for no other
    if getattr(cfg.runtime, key) == "slurm" and not inside and shutil.which("sbatch") is None:
        raise ConfigError(f"params.yaml: runtime.{key}=slurm needs sbatch, which is not on PATH; "
                          f"set it to {instead}, or run this where Slurm is")


def check_machine(cfg: Config) -> None:
    """Raises ConfigError for a launcher, a device or a model to start from that is not here."""
    runtime, precision = cfg.runtime, cfg.train.precision
    check_slurm(cfg, "launcher", "torchrun")
    if runtime.launcher == "slurm":  # the nodes have what they have
        return
    init_from = local_path(cfg.model.init_from or "", ROOT)
    try:  # what follows imports torch, which takes seconds: so only where it is asked for
        if runtime.device not in ("auto", "cpu") or precision == "tf32":
            from reprogpt.runtime.device import pick_device, resolve_precision

            resolve_precision(precision, pick_device(runtime.device))
        if cfg.model.init_from and (init_from / "config.json").is_file():
            from reprogpt.formats.huggingface import check_shape, read_config

            check_shape(cfg.model, read_config(init_from)[1], init_from)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_inputs(cfg: Config) -> None:
    """Raises ConfigError where globs of one's own match nothing, or a model's path is misspelt."""
    from reprogpt.data.readers import find
    from reprogpt.formats.hub_model import local_model

    if cfg.download.files:
        find(cfg.download.files, cfg.download.corpus)
    if cfg.model.init_from is not None:
        local_model(cfg.model.init_from)


def check_init(init_from: str | None, init: Path) -> None:
    """Raises ConfigError when data/init is not what ``init_from`` asks for: a stage that is run by
    itself finds what the last download left."""
    found = init / "init_from.txt"
    held = found.read_text(encoding="utf-8").strip() if found.is_file() else "nothing"
    if held != (init_from or "null"):
        raise ConfigError(f"params.yaml: model.init_from={init_from or 'null'} but data/init was "
                          f"made for {held}; run dvc repro, which runs the stage download first")
