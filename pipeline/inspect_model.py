"""Shows a checkpoint: names and shapes, and its embeddings as pictures.

    python -m pipeline.inspect_model models/gpt
    python -m pipeline.inspect_model gpt2 --out /tmp/gpt2 --text "hello world"

DIR is a model directory, ours or any GPT-2 in the Hugging Face layout, or a model's id on the Hub.
"""

import argparse
import sys
from pathlib import Path

from pipeline import ROOT
from reprogpt.config import ConfigError


def main(arguments: list[str]) -> int:
    """0, or 2 after one line on standard error."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", metavar="DIR", help="a model directory, or an id such as gpt2")
    parser.add_argument("--out", type=Path, default=ROOT / "metrics/inspect",
                        help="the folder for README.md and the pictures (metrics/inspect)")
    parser.add_argument("--text", default="Hello, I'm a language model,",
                        help="whose tokens' embeddings are shown")
    options = parser.parse_args(arguments)
    try:
        folder = _fetched(options.model)
        from reprogpt.inspection import inspect

        print(inspect(folder, options.out, options.text))
    except (ConfigError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"with pictures: {options.out}/README.md", file=sys.stderr)
    return 0


def _fetched(name: str) -> Path:
    if (Path(name) / "config.json").is_file() or Path(name).is_absolute():
        return Path(name)
    from reprogpt.corpus.hub import fetch_model

    folder = ROOT / "data/inspect" / name.replace("/", "--")
    fetch_model(name, folder)
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
