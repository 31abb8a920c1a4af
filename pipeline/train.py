"""Stage train: data/tokens + data/init -> models/gpt, metrics/train.csv, metrics/train.json.

    python -m pipeline.train

The run's checkpoints are kept in runs/<fingerprint>/: started again after a kill, it continues.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from pipeline import DVC_FILE, ROOT, stage
from pipeline.machine import check_machine
from pipeline.sealed import Seal
from reprogpt.config import Config, ConfigError
from reprogpt.training.run_dir import Paths


def main() -> None:
    with stage("train") as cfg:
        paths = Paths(tokens=str(ROOT / "data/tokens"), init=str(ROOT / "data/init"),
                      model=str(ROOT / "models/gpt"), csv=str(ROOT / "metrics/train.csv"),
                      json=str(ROOT / "metrics/train.json"), probes=str(ROOT / "metrics"),
                      hellaswag=str(ROOT / "data/hellaswag/hellaswag_val.jsonl"))
        check_machine(cfg)
        check_init(cfg.model.init_from, Path(paths.init))
        train(cfg, paths, Seal.take("train", DVC_FILE).sources)


def check_init(init_from: str | None, init: Path) -> None:
    """Raises ConfigError when data/init is not what ``init_from`` asks for: a stage that is run by
    itself finds what the last download left."""
    found = init / "init_from.txt"
    held = found.read_text(encoding="utf-8").strip() if found.is_file() else "nothing"
    if held != (init_from or "null"):
        raise ConfigError(f"params.yaml: model.init_from={init_from or 'null'} but data/init was "
                          f"made for {held}; run dvc repro, which runs the stage download first")


def train(cfg: Config, paths: Paths, code: Mapping[str, str]) -> None:
    """Trains what ``cfg`` says, or what is left of it, from and to ``paths``.

    ``code``: the sha256 of every source file that decides the weights. Exits with status 1, one
    line said, when the training did not finish.
    """
    from reprogpt.files import sha256_of
    from reprogpt.launch import TrainingFailed, launch
    from reprogpt.training.run_dir import RunDir, runs_root

    inputs = [Path(paths.tokens) / "manifest.json", *sorted(Path(paths.init).rglob("*"))]
    contents = [(str(p.relative_to(ROOT)), sha256_of(p)) for p in inputs if p.is_file()]
    fingerprint = cfg.fingerprint([*contents, *code.items()])
    run = RunDir.create(runs_root(ROOT), fingerprint, cfg, paths, contents)
    try:
        launch(run)
    except TrainingFailed as failed:
        print(failed, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
