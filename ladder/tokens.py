"""Stage tokens: Tiny Shakespeare, one token per character -> ladder/data/tokens.

    python -m ladder.tokens
"""

import sys
import tempfile
from pathlib import Path

from ladder.rungs import DVC_FILE, TOKENS, params
from pipeline import stage


def main() -> None:
    """Downloads and tokenizes the text, or as much of the plays if it cannot be downloaded."""
    with stage("tokens", DVC_FILE, params) as cfg:
        from reprogpt.data.corpora import download
        from reprogpt.encoding.tokenize_corpus import tokenize
        from reprogpt.storage.http import TransferError

        TOKENS.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=TOKENS.parent, prefix=".raw.") as folder:
            raw = Path(folder) / "raw"
            try:
                download(cfg.download, raw)
            except TransferError as error:
                print(f"{error}\nusing the plays of corpus shakespeare instead", file=sys.stderr)
                as_much = {"corpus": "shakespeare", "max_bytes": 1_115_394}
                download(cfg.download.model_copy(update=as_much), raw)
            tokenize(cfg.tokenize, raw, TOKENS, cfg.runtime)


if __name__ == "__main__":
    main()
