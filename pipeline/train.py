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
from pipeline.prepare import PATHS, prepare
from pipeline.preset import reference
from reprogpt.config import Config
from reprogpt.launch.run_dir import Paths


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
    from reprogpt.launch.launcher import launch

    launch(*prepare(cfg, paths, code))


if __name__ == "__main__":
    main()
