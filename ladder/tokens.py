"""Stage tokens: Tiny Shakespeare, one token per character -> ladder/data/tokens.

    python -m ladder.tokens
"""

import sys
import tempfile
from pathlib import Path

from ladder.rungs import DVC_FILE, TOKENS, params
from pipeline import stage
from reprogpt.config import Config


def main() -> None:
    with stage("tokens", DVC_FILE, params) as cfg:
        write_tokens(cfg, TOKENS)


def write_tokens(cfg: Config, out_dir: Path) -> None:
    """Downloads and tokenizes the text; where Tiny Shakespeare cannot be downloaded, as much of the
    plays."""
    from reprogpt.data.corpora import download
    from reprogpt.encoding.tokenize_corpus import tokenize
    from reprogpt.storage.http import TransferError

    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=".raw.") as folder:
        raw = Path(folder) / "raw"
        try:
            download(cfg.download, raw)
        except TransferError as error:
            if cfg.download.corpus != "tinyshakespeare":
                raise
            print(f"{error}\nusing the plays of corpus shakespeare instead", file=sys.stderr)
            as_much = {"corpus": "shakespeare", "max_bytes": 1_115_394}
            download(cfg.download.model_copy(update=as_much), raw)
        tokenize(cfg.tokenize, raw, out_dir, cfg.runtime)


if __name__ == "__main__":
    main()
