"""How long stages took: runs/stage_times.csv, a line a finished stage. DVC records no times."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from reprogpt.launch.run_dir import runs_root
from reprogpt.storage.files import sha256_of

LEFT = {"download": "data/raw/meta.json", "tokenize": "data/tokens/manifest.json",
        "train": "metrics/train.json", "evaluate": "metrics/eval.json",
        "sample": "metrics/samples.md"}
"""Stage -> the file by whose sha256 its time is found again, also after `dvc checkout`."""


@contextmanager
def recorded(stage: str, root: Path) -> Iterator[None]:
    """Appends the seconds of the block, if it raises nothing and is one of the five stages."""
    start = time.time()
    yield
    left = root / LEFT.get(stage, "")
    if left.is_file():
        file = runs_root(root) / "stage_times.csv"
        file.parent.mkdir(exist_ok=True)
        with file.open("a", encoding="utf-8") as table:
            table.write(f"{stage},{sha256_of(left)},{time.time() - start:.1f}\n")


def stage_times(root: Path) -> dict[str, tuple[str, float | None]]:
    """Stage -> when it wrote what is here, and its seconds, None where unknown (as of results that
    came from a remote)."""
    file = runs_root(root) / "stage_times.csv"
    rows = [line.split(",") for line in file.read_text().split()] if file.is_file() else []
    known = {(stage, sha256): float(seconds) for stage, sha256, seconds in rows}
    return {stage: (f"{datetime.fromtimestamp(left.stat().st_mtime):%Y-%m-%d %H:%M:%S}",
                    known.get((stage, sha256_of(left))))
            for stage, name in LEFT.items() if (left := root / name).is_file()}
