"""The run that params, data and code describe: what stage train trains, and other nodes join."""

from collections.abc import Mapping
from pathlib import Path

from pipeline import ROOT
from reprogpt.config import Config
from reprogpt.launch.checkpoint_store import fetch
from reprogpt.launch.run_dir import Paths, RunDir, runs_root
from reprogpt.storage.files import sha256_of

PATHS = Paths(tokens=str(ROOT / "data/tokens"), init=str(ROOT / "data/init"),
              model=str(ROOT / "models/gpt"), csv=str(ROOT / "metrics/train.csv"),
              json=str(ROOT / "metrics/train.json"), probes=str(ROOT / "metrics"),
              hellaswag=str(ROOT / "data/hellaswag/hellaswag_val.jsonl"))
LECTURE1 = ROOT / "src/reprogpt/model/lecture1"
"""Models that are in a run's fingerprint, but no dep of stage train: see dvc.yaml."""


def prepare(cfg: Config, paths: Paths, code: Mapping[str, str]
            ) -> tuple[RunDir, Mapping[str, str]]:
    """The run of these params, data and code, and all of the code that is in its fingerprint."""
    inputs = [Path(paths.tokens) / "manifest.json", *sorted(Path(paths.init).rglob("*"))]
    contents = [(str(p.relative_to(ROOT)), sha256_of(p)) for p in inputs if p.is_file()]
    if cfg.model.architecture != "gpt":
        code = {**code, **{f"lecture1/{p.name}": sha256_of(p) for p in LECTURE1.glob("*.py")}}
    fingerprint = cfg.fingerprint([*contents, *code.items()])
    fetch(cfg.runtime.checkpoint_store, runs_root(ROOT) / (cfg.runtime.resume or fingerprint))
    return RunDir.create(runs_root(ROOT), fingerprint, cfg, paths, contents), code
