"""Stage train@SIZE: trains one size on every count of tokens.

    python -m scaling.train s2    -> scaling/metrics/s2.json
"""

import sys
from functools import partial
from pathlib import Path

from ladder.series import few_threads, losses
from pipeline import stage
from scaling.runs import DVC_FILE, METRICS, TOKENS, first, runs


def main(name: str, full: str, out: Path) -> None:
    """Trains size ``name`` as stage ``full``, and writes its figures to ``out``."""
    with stage(full, DVC_FILE, partial(first, name)) as cfg:
        few_threads(cfg)
        from reprogpt.storage.files import write_json
        from scaling.parameters import parameters

        found = losses(full, DVC_FILE, TOKENS, runs(name))
        write_json(out, [
            {**parameters(cfg), "tokens": cfg.train.max_steps * cfg.train.batch_tokens,
             "loss": loss} for cfg, loss in zip(runs(name), found, strict=True)])


if __name__ == "__main__":
    size = sys.argv[1] if len(sys.argv) > 1 else ""  # which runs() refuses
    main(size, f"train@{size}", METRICS / f"{size}.json")
