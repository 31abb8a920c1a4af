"""Stage train@SIZE: trains one size on every count of tokens.

    python -m scaling.train s2    -> scaling/metrics/s2.json
"""

import os
import sys
from functools import partial
from pathlib import Path

from pipeline import stage
from pipeline.checks.seal import Seal
from scaling.runs import DVC_FILE, METRICS, SMALL, TOKENS, first, runs


def main(name: str, full: str, out: Path) -> None:
    """Trains size ``name`` as stage ``full``, and writes its figures to ``out``."""
    with stage(full, DVC_FILE, partial(first, name)) as cfg:
        if cfg.model.n_embd < SMALL:
            os.environ.setdefault("OMP_NUM_THREADS", "1")
        from ladder.sweeps.sweep import loss_of
        from reprogpt.storage.files import sha256_of, write_json
        from scaling.parameters import parameters

        contents = [("tokens", sha256_of(TOKENS / "manifest.json")),
                    *Seal.take(full, DVC_FILE).sources.items()]
        write_json(out, [
            {**parameters(cfg), "tokens": cfg.train.max_steps * cfg.train.batch_tokens,
             "loss": loss_of(cfg, contents, TOKENS)} for cfg in runs(name)])


if __name__ == "__main__":
    size = sys.argv[1] if len(sys.argv) > 1 else ""  # which runs() refuses
    main(size, f"train@{size}", METRICS / f"{size}.json")
