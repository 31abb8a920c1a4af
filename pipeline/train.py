"""Stage train: data/tokens + data/init -> models/gpt, metrics/train*.

    python -m pipeline.train

The run's checkpoints are kept in runs/<fingerprint>/: started again after a kill, it continues.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline import DVC_FILE, ROOT, stage
from pipeline.checks.preflight import check_init, check_probes
from pipeline.checks.seal import Seal
from pipeline.preset import reference
from reprogpt.config import Config
from reprogpt.launch.run_dir import Paths, RunDir, runs_root
from reprogpt.storage.files import sha256_of

PATHS = Paths(tokens=str(ROOT / "data/tokens"), init=str(ROOT / "data/init"),
              model=str(ROOT / "models/gpt"), csv=str(ROOT / "metrics/train.csv"),
              json=str(ROOT / "metrics/train.json"), probes=str(ROOT / "metrics"),
              hellaswag=str(ROOT / "data/hellaswag/hellaswag_val.jsonl"))
LECTURE1 = ROOT / "src/reprogpt/model/lecture1"
"""Models that are in a run's fingerprint, but no dep of stage train: see dvc.yaml."""


def main() -> None:
    with stage("train") as cfg:
        check_init(cfg.model.init_from, Path(PATHS.init))
        check_probes(cfg, Path(PATHS.hellaswag))
        paths = replace(PATHS, reference=str(reference(cfg, ROOT / "presets") or ""))
        train(cfg, paths, Seal.take("train", DVC_FILE).sources)


def train(cfg: Config, paths: Paths, code: Mapping[str, str]) -> None:
    """Trains what ``cfg`` says, or what is left of it, from and to ``paths``.

    ``code``: the sha256 of every source file that decides the weights. Raises ValueError when
    the training did not finish.
    """
    from reprogpt.launch.launcher import TrainingFailed, launch

    run, code = prepare(cfg, paths, code)
    try:
        launch(run, code)
    except TrainingFailed as failed:
        raise ValueError(failed) from None


def prepare(cfg: Config, paths: Paths, code: Mapping[str, str]
            ) -> tuple[RunDir, Mapping[str, str]]:
    """The run of these params, data and code, and all of the code that is in its fingerprint."""
    from reprogpt.launch.checkpoint_store import fetch

    inputs = [Path(paths.tokens) / "manifest.json", *sorted(Path(paths.init).rglob("*"))]
    contents = [(str(p.relative_to(ROOT)), sha256_of(p)) for p in inputs if p.is_file()]
    if cfg.model.architecture != "gpt":
        code = {**code, **{f"lecture1/{p.name}": sha256_of(p) for p in LECTURE1.glob("*.py")}}
    fingerprint = cfg.fingerprint([*contents, *code.items()])
    fetch(cfg.runtime.checkpoint_store, runs_root(ROOT) / (cfg.runtime.resume or fingerprint))
    return RunDir.create(runs_root(ROOT), fingerprint, cfg, paths, contents), code


if __name__ == "__main__":
    main()
