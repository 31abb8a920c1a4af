"""Shows a checkpoint: names and shapes, and its embeddings as pictures.

    python -m pipeline.inspect_model models/gpt
    python -m pipeline.inspect_model gpt2 --out /tmp/gpt2 --text "hello world"

DIR is a model directory, ours or any GPT-2 in the Hugging Face layout, or a model's id on the Hub.
"""

import re
import sys
from pathlib import Path

from pipeline import ROOT
from pipeline.cli import Parser, one_line, options_named
from reprogpt.errors import ConfigError

HUB_ID = r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?"
"""`gpt2`, `owner/name`, with or without `@revision`."""


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("model", metavar="DIR", help="a model directory, or an id such as gpt2")
    parser.add_argument("--out", type=Path, default=ROOT / "metrics/inspect",
                        help="the folder for README.md and the pictures (metrics/inspect)")
    parser.add_argument("--text", default="Hello, I'm a language model,",
                        help="whose tokens' embeddings are shown")
    options = parser.parse_args()
    with options_named({"model.init_from": "DIR"}):
        folder = _fetched(options.model)
    from reprogpt.evaluation.inspect_weights import inspect

    print(inspect(folder, options.out, options.text))
    print(f"with pictures: {options.out}/README.md", file=sys.stderr)


def _fetched(name: str) -> Path:
    """The folder that is meant, or that the Hub's model of this name was put into."""
    folder = Path(name).expanduser()
    if name and (folder.is_dir() or folder.is_absolute()):
        return folder
    if not re.fullmatch(HUB_ID, name) or folder.exists():
        raise ConfigError(f"DIR={name!r} must be a model directory or a model's id on the Hub, "
                          "such as gpt2 or owner/name; there is no such directory")
    from reprogpt.formats.hub_model import fetch_model

    kept = ROOT / "data/inspect" / name.replace("/", "--")
    fetch_model(name, kept)
    return kept


if __name__ == "__main__":
    with one_line():
        main()
