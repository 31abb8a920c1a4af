"""Stage tokens: the text of scaling/params.yaml -> scaling/data/tokens.

    python -m scaling.tokens
"""

import tempfile
from pathlib import Path

from pipeline import stage
from scaling.runs import DVC_FILE, TOKENS, shared


def main() -> None:
    with stage("tokens", DVC_FILE, shared) as cfg:
        from reprogpt.data.corpora import download
        from reprogpt.encoding.tokenize_corpus import tokenize

        TOKENS.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=TOKENS.parent, prefix=".raw.") as folder:
            download(cfg.download, Path(folder) / "raw")
            tokenize(cfg.tokenize, Path(folder) / "raw", TOKENS, cfg.runtime)


if __name__ == "__main__":
    main()
