"""Shows the contents of a model directory: tensor names and shapes, embeddings as pictures.

    python -m pipeline.inspect_model models/gpt
    python -m pipeline.inspect_model gpt2 --out /tmp/gpt2 --text "hello world"

DIR is a model directory (ours, or any GPT-2 in the Hugging Face layout) or a model's id on the Hub.
"""

import sys
from pathlib import Path

from pipeline import ROOT
from pipeline.cli import Parser, one_line, options_named
from reprogpt.formats.hub_model import fetch_model, local_model


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("model", metavar="DIR", help="a model directory, or an id such as gpt2")
    parser.add_argument("--out", type=Path, default=ROOT / "metrics/inspect",
                        help="folder for README.md and the pictures (metrics/inspect)")
    parser.add_argument("--text", default="Hello, I'm a language model,",
                        help="text whose token embeddings are shown")
    options = parser.parse_args()
    with options_named({"model.init_from": "DIR"}):
        folder = local_model(options.model)
        if folder is None:  # a model of the Hub
            folder = ROOT / "data/inspect" / options.model.replace("/", "--")
            fetch_model(options.model, folder)
    from reprogpt.evaluation.inspect_weights import inspect

    print(inspect(folder, options.out, options.text))
    print(f"with pictures: {options.out}/README.md", file=sys.stderr)


if __name__ == "__main__":
    with one_line():
        main()
