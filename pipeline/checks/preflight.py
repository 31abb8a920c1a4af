"""Refuses, by ConfigError, params that this machine or checkout cannot satisfy, before DVC deletes
outs."""

import os
import shutil
from pathlib import Path

from pipeline import ROOT
from reprogpt.config import Config
from reprogpt.errors import ConfigError
from reprogpt.storage.paths import local_path

OUT_FOLDERS = ("data", "models", "metrics")


def check_links(root: Path = ROOT) -> None:
    """The folders of all outs must be in this checkout. DVC notices only when a stage has ended."""
    for name in OUT_FOLDERS:
        target = (root / name).resolve()
        if not target.is_relative_to(root.resolve()):
            raise ConfigError(f"{name}: is a link to {target}, outside of this checkout, where DVC "
                              "keeps no outs; make it a folder here, and put DVC's cache there "
                              "(`dvc cache dir --local FOLDER`), or the whole checkout")


def check_git(root: Path = ROOT) -> None:
    """DVC wants a git repository, which an unpacked archive is not; unless its core.no_scm is on.
    A folder inside another repository will do."""
    config = "".join(file.read_text() for file in (root / ".dvc").glob("config*"))
    if not any((p / ".git").exists() for p in (root, *root.parents)) and "no_scm" not in config:
        raise ConfigError(f"{root}: is no git repository, which DVC needs; git clone the project, "
                          "or make this copy one: git init && git add . && git commit -m start")


def check_slurm(cfg: Config, key: str, instead: str) -> None:
    """``runtime.key`` slurm needs sbatch, unless this already is a node of an allocation."""
    inside = "SLURM_JOB_ID" in os.environ
    if getattr(cfg.runtime, key) == "slurm" and not inside and shutil.which("sbatch") is None:
        raise ConfigError(f"params.yaml: runtime.{key}=slurm needs sbatch, which is not on PATH; "
                          f"set it to {instead}, or run this where Slurm is")


def check_machine(cfg: Config) -> None:
    """Launcher and device must exist here, and a local model to start from must have the shape."""
    runtime, precision = cfg.runtime, cfg.train.precision
    check_slurm(cfg, "launcher", "torchrun")
    if runtime.launcher == "slurm":  # the nodes may have what this machine lacks
        return
    if runtime.launcher == "c10d":
        check_rendezvous(cfg)
    init_from = local_path(cfg.model.init_from or "", ROOT)
    try:  # imports torch, which takes seconds, only if needed
        if runtime.device not in ("auto", "cpu") or precision == "tf32":
            from reprogpt.runtime.device import pick_device, resolve_precision

            resolve_precision(precision, pick_device(runtime.device))
        if cfg.model.init_from and (init_from / "config.json").is_file():
            from reprogpt.formats.huggingface import check_shape, read_config

            check_shape(cfg.model, read_config(init_from)[1], init_from)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_rendezvous(cfg: Config) -> None:
    """Launcher c10d: this must be node 0, and the rendezvous an address of this machine."""
    from reprogpt.launch.network import Rendezvous, listen, node_rank

    meeting = Rendezvous.of(cfg.runtime)
    if node_rank():
        raise ConfigError(f"this is node {node_rank()} by SKYPILOT_NODE_RANK, NODE_RANK or "
                          "SLURM_NODEID, and only node 0 runs the pipeline; run python -m "
                          f"pipeline.join {meeting} here")
    listen(meeting.host, meeting.port).close()


def check_inputs(cfg: Config) -> None:
    """The user's globs must match a file, and a path to a model must exist."""
    from reprogpt.data.readers import find
    from reprogpt.formats.hub_model import local_model

    for corpus in cfg.download.corpora().values():
        if corpus.files:
            find(corpus.files, corpus.corpus)
    if cfg.model.init_from is not None:
        local_model(cfg.model.init_from)


def check_init(init_from: str | None, init: Path) -> None:
    """data/init must hold ``init_from``: a stage run alone finds what the last download left."""
    found = init / "init_from.txt"
    held = found.read_text(encoding="utf-8").strip() if found.is_file() else "nothing"
    if held != (init_from or "null"):
        raise ConfigError(f"params.yaml: model.init_from={init_from or 'null'} but data/init was "
                          f"made for {held}; run dvc repro, which runs the stage download first")
