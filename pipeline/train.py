"""Stage train: data/tokens + data/init -> models/gpt, metrics/train.csv, metrics/train.json.

    python -m pipeline.train

The run's checkpoints are kept in runs/<fingerprint>/: started again after a kill, it continues.
"""

import sys

from pipeline import DVC_FILE, ROOT, stage
from pipeline.sealed import Seal


def main() -> None:
    with stage("train") as cfg:
        from reprogpt.files import sha256_of
        from reprogpt.launch import TrainingFailed, launch
        from reprogpt.run_dir import Paths, RunDir, runs_root

        inputs = [ROOT / "data/tokens/manifest.json", *sorted((ROOT / "data/init").rglob("*"))]
        contents = [(str(p.relative_to(ROOT)), sha256_of(p)) for p in inputs if p.is_file()]
        code = Seal.take("train", DVC_FILE).sources
        paths = Paths(tokens=str(ROOT / "data/tokens"), init=str(ROOT / "data/init"),
                      model=str(ROOT / "models/gpt"), csv=str(ROOT / "metrics/train.csv"),
                      json=str(ROOT / "metrics/train.json"))
        run = RunDir.create(runs_root(ROOT), cfg.fingerprint([*contents, *code.items()]), cfg, paths)
        try:
            launch(run)
        except TrainingFailed as failed:
            print(failed, file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
