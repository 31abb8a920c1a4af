"""Stage tokens: Tiny Shakespeare, character by character -> ladder/data/tokens.

    python -m ladder.tokens
"""

import sys
import tempfile
from pathlib import Path

from ladder.rungs import DVC_FILE, TOKENS, params
from pipeline.sealed import Seal
from reprogpt.config import ConfigError


def main() -> int:
    """0; 1 when an input changed meanwhile; 2 when no text could be had."""
    seal = Seal.take("tokens", DVC_FILE)
    try:
        make_tokens()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if broken := seal.broken():
        print(broken, file=sys.stderr)
        return 1
    return 0


def make_tokens() -> None:
    """Fetches and tokenizes; the plays stand in where Tiny Shakespeare cannot be had."""
    from reprogpt.corpora import download
    from reprogpt.tokenization import tokenize

    cfg = params()
    TOKENS.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOKENS.parent, prefix=".raw.") as folder:
        raw = Path(folder) / "raw"
        try:
            download(cfg.download, raw)
        except (ConfigError, OSError) as error:
            print(f"{error}\nthe ladder stands on as much of the plays instead", file=sys.stderr)
            as_much = {"corpus": "shakespeare", "max_bytes": 1_115_394}
            download(cfg.download.model_copy(update=as_much), raw)
        tokenize(cfg.tokenize, raw, TOKENS, cfg.runtime)


if __name__ == "__main__":
    sys.exit(main())
