"""Refuses, by ConfigError, params that this machine or checkout cannot satisfy.

`python -m pipeline.check`, and so `make repro`, asks before DVC deletes outs. Every stage asks
again, for itself and the stages after it (pipeline/__init__.py).
"""

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from pipeline import ROOT
from pipeline.checks.code_deps import STAGES
from reprogpt.config import Config, read_yaml
from reprogpt.errors import ConfigError
from reprogpt.launch import checkpoint_store
from reprogpt.launch.group import gpu_count
from reprogpt.launch.network import Rendezvous, listen, node_rank
from reprogpt.launch.run_dir import checkpoint_steps, runs_root
from reprogpt.storage.paths import local_path, matching, text_file

OUT_FOLDERS = ("data", "models", "metrics")
GPT2_VOCAB = 50257


def preflight(cfg: Config, stage: str = "download") -> None:
    """Checks what ``stage`` and the stages after it need."""
    left = STAGES[STAGES.index(stage):]
    check_links()
    if "download" in left:
        check_inputs(cfg)
        if cfg.evaluate.suites.tasks:  # here alone: reading lm_eval's list takes ten seconds
            from reprogpt.evaluation.tasks import check_tasks

            check_tasks(cfg.evaluate.suites, ROOT)
    if "tokenize" in left:
        check_slurm(cfg, "tokenize_executor", "local")
    if "train" in left:
        check_slurm(cfg, "launcher", "torchrun")
        check_resume(cfg)
        checkpoint_store.check(cfg.runtime.checkpoint_store, runs_root(ROOT))
        check_tracker(cfg.runtime.tracker)
        check_model(cfg)
        if cfg.runtime.launcher == "c10d":
            check_rendezvous(cfg)
    if cfg.runtime.launcher != "slurm":  # its nodes may have what this machine lacks
        check_machine(cfg)
        if "train" in left:
            check_memory(cfg)
    if "evaluate" in left and cfg.evaluate.suites.held_out:
        matching("evaluate.suites.held_out", cfg.evaluate.suites.held_out, ROOT)
    if cfg.sample.prompts_file is not None:
        text_file("sample.prompts_file", cfg.sample.prompts_file)


def check_links(root: Path = ROOT) -> None:
    """The folders of all outs must be in this checkout. DVC notices only when a stage has ended."""
    for name in OUT_FOLDERS:
        target = (root / name).resolve()
        if not target.is_relative_to(root.resolve()):
            raise ConfigError(f"{name}: is a link to {target}, outside of this checkout, where DVC "
                              "keeps no outs; make it a folder here, and put DVC's cache there "
                              "(`dvc cache dir --local FOLDER`), or the whole checkout")


def check_lock(root: Path = ROOT) -> None:
    """dvc.lock and DVC's list of paths in use must be whole. DVC writes them in place, so a kill at
    that moment tears them."""
    lock, running = root / "dvc.lock", root / ".dvc/tmp/rwlock"
    torn = "{}: is torn, perhaps by a kill while DVC wrote it; "
    try:
        stages = read_yaml(lock)["stages"] if lock.is_file() else {}
        if any(value is None for stage in stages.values() for value in stage.values()):
            raise ValueError
    except (ValueError, AttributeError, KeyError, TypeError):
        raise ConfigError(torn.format("dvc.lock") + "git checkout dvc.lock, then dvc repro, which "
                          "takes finished stages from its cache") from None
    try:
        json.loads(running.read_bytes() if running.is_file() else "{}")
    except ValueError:
        raise ConfigError(torn.format(running) + "remove it, when no dvc runs here") from None


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
    """The device, and as many GPUs as processes, must exist here."""
    runtime, precision = cfg.runtime, cfg.train.precision
    gpus = gpu_count(runtime.device)
    if runtime.nproc != "auto" and 0 < gpus < runtime.nproc:
        raise ConfigError(f"params.yaml: runtime.nproc={runtime.nproc} needs a GPU for each, and "
                          f"this machine has {gpus}; try {gpus}, or set runtime.device to cpu")
    if runtime.device in ("auto", "cpu") and precision != "tf32":
        return
    from reprogpt.runtime.device import pick_device, resolve_precision  # seconds, for torch

    try:
        resolve_precision(precision, pick_device(runtime.device))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_memory(cfg: Config) -> None:
    """What training surely needs on a CPU must fit into this machine's memory; on a GPU, the
    weights. A lower bound: make plan estimates the whole."""
    L, C, T = cfg.model.n_layer, cfg.model.n_embd, cfg.model.block_size
    limit, key = cfg.runtime.micro_batch, f"model.n_embd={C} with n_layer={L}"
    blocks = 12 * L * C**2 if cfg.model.architecture == "gpt" else 0  # attention 4 C^2, MLP 8 C^2
    blocks += GPT2_VOCAB * C if cfg.tokenize.encoding == "gpt2" else 0
    if (ngrams := sum(cfg.model.ngram_rows or ()) * C) > blocks:
        key = f"model.ngram_rows={cfg.model.ngram_rows}"
    need = 4 * (blocks + ngrams)
    have = memory_limit()
    if not gpu_count(cfg.runtime.device) and cfg.runtime.device in ("auto", "cpu"):
        need *= 3 if cfg.train.max_steps else 1  # gradients, and one moment or two
        row = 16 * L * T * C  # activations; planning/plan.py: 36 to 64
        rows = 1 if limit == "auto" else min(limit, cfg.train.batch_tokens // T)
        if need + row <= have:
            key = f"runtime.micro_batch={rows}"
        need += row * rows
    if need > have:
        raise ConfigError(f"params.yaml: {key} needs more than {need / 1e9:,.1f} GB of memory, and "
                          f"this machine gives {have / 1e9:,.1f} GB; lower it (make plan estimates "
                          "what a run takes)")


def memory_limit() -> float:
    """Bytes that a process may use here: the machine's, or its container's."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    container = Path("/sys/fs/cgroup/memory.max")  # a number, or max
    said = container.read_text().strip() if container.is_file() else "max"
    return min(machine, float(said.replace("max", "inf")))


def check_resume(cfg: Config) -> None:
    """runtime.resume must name a run with a checkpoint."""
    name, runs = cfg.runtime.resume, runs_root(ROOT)
    if name is not None and not checkpoint_steps(runs / name):
        raise ConfigError(f"params.yaml: runtime.resume={name} has no checkpoint in {runs}; name a "
                          "run that is there, or set it to null")


def check_model(cfg: Config, root: Path = ROOT) -> None:
    """model.init_from must be whole and of the shape that params.yaml gives, where its files are
    here: in a directory, or as the stage download has left it in data/init."""
    name = cfg.model.init_from
    folder = local_path(name or "", root)
    if not os.path.isfile(folder / "config.json"):  # noqa: PTH113 (False for an impossible path)
        folder = root / "data/init"
    if name is None or (folder == root / "data/init" and made_for(folder) != name):
        return
    from safetensors import SafetensorError, safe_open

    from reprogpt.formats.huggingface import check_shape, read_config

    try:
        config, theirs = read_config(folder)
        check_shape(cfg.model, theirs, name)
        vocab = config.get("vocab_size")
        if cfg.tokenize.encoding == "gpt2" and vocab != GPT2_VOCAB:
            raise ValueError(f"must have {GPT2_VOCAB} tokens, GPT-2's, not {vocab}; choose a model "
                             "without added tokens")
        for file in sorted(folder.glob("[!.]*.safetensors")):
            with safe_open(file, "pt"):  # reads the header, in which each tensor has its place
                pass
    except (ValueError, SafetensorError, OSError) as error:
        said = str(error)
        if not said.startswith("params.yaml: "):
            said = f"params.yaml: model.init_from={name}: {said}"
        if not isinstance(error, ValueError):
            said += f"; {folder} is damaged: make or fetch it again"
        raise ConfigError(said) from None


def check_tracker(tracker: str) -> None:
    """runtime.tracker needs its package."""
    if tracker != "none" and find_spec(tracker) is None:
        raise ConfigError(f"params.yaml: runtime.tracker={tracker} needs its package: pip install "
                          f"{tracker}, or set it to none")


def check_rendezvous(cfg: Config) -> None:
    """Launcher c10d: this must be node 0, and the rendezvous an address of this machine."""
    meeting = Rendezvous.of(cfg.runtime)
    if node_rank():
        raise ConfigError(f"this is node {node_rank()} by SKYPILOT_NODE_RANK, NODE_RANK or "
                          "SLURM_NODEID, and only node 0 runs the pipeline; run python -m "
                          f"pipeline.join {meeting} here")
    listen(meeting.host, meeting.port).close()


def check_inputs(cfg: Config) -> None:
    """The user's globs must match a file, and a path to a model must exist."""
    from reprogpt.data.readers import find
    from reprogpt.formats.hub_model import local_model, model_files

    for corpus in cfg.download.corpora().values():
        if corpus.files:
            find(corpus.files, corpus.corpus)
    if cfg.model.init_from is not None:
        folder = local_model(cfg.model.init_from)
        if folder:
            model_files(folder, cfg.model.init_from)


def check_init(init_from: str | None, init: Path) -> None:
    """data/init must hold ``init_from``: a stage run alone finds what the last download left."""
    held = made_for(init)
    if held != (init_from or "null"):
        raise ConfigError(f"params.yaml: model.init_from={init_from or 'null'} but data/init was "
                          f"made for {held}; run dvc repro, which runs the stage download first")


def made_for(init: Path) -> str:
    """What model.init_from was when data/init was filled."""
    found = init / "init_from.txt"
    return found.read_text(encoding="utf-8").strip() if found.is_file() else "nothing"


def check_probes(cfg: Config, hellaswag: Path) -> None:
    """With train.hellaswag_interval, the file must be the published one. Raises ValueError."""
    from reprogpt.data.hellaswag_file import check_hellaswag

    if cfg.train.hellaswag_interval is not None:
        check_hellaswag(hellaswag)
