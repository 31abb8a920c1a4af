"""Shows the contents of a model directory: tensor names and shapes, embeddings as pictures.

    python -m pipeline.inspect_model models/gpt
    python -m pipeline.inspect_model gpt2 --out /tmp/gpt2 --text "hello world"

DIR is a model directory (ours, or any GPT-2 in the Hugging Face layout) or a model's id on the Hub.
"""

import re
import sys
from pathlib import Path

from pipeline import ROOT
from pipeline.cli import Parser, one_line, options_named
from reprogpt.errors import ConfigError
from reprogpt.formats.hub_model import HUB_ID


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("model", metavar="DIR", help="a model directory, or an id such as gpt2")
    parser.add_argument("--out", type=Path, default=ROOT / "metrics/inspect",
                        help="folder for README.md and the pictures (metrics/inspect)")
    parser.add_argument("--text", default="Hello, I'm a language model,",
                        help="text whose token embeddings are shown")
    options = parser.parse_args()
    with options_named({"model.init_from": "DIR"}):
        folder = _model_directory(options.model)
    from reprogpt.evaluation.inspect_weights import inspect

    print(inspect(folder, options.out, options.text))
    print(f"with pictures: {options.out}/README.md", file=sys.stderr)


def _model_directory(name: str) -> Path:
    """The directory ``name``, or the one that the Hub's model ``name`` was downloaded to."""
    folder = Path(name).expanduser()
    if name and (folder.is_dir() or folder.is_absolute()):
        return folder
    if not re.fullmatch(HUB_ID, name) or folder.exists():
        raise ConfigError(f"DIR={name!r} must be a model directory or a model's id on the Hub, "
                          "such as gpt2 or owner/name; there is no such directory")
    from reprogpt.formats.hub_model import fetch_model

    downloaded = ROOT / "data/inspect" / name.replace("/", "--")
    fetch_model(name, downloaded)
    return downloaded


if __name__ == "__main__":
    with one_line():
        main()
