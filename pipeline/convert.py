"""A nanoGPT or build-nanogpt checkpoint as a model directory, which model.init_from may name.

    python -m pipeline.convert ckpt.pt models/imported [TOKENIZER_DIR]
"""

from pathlib import Path

from pipeline.cli import Parser, one_line


def main() -> None:
    with one_line():
        parser = Parser(__doc__)
        parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
        parser.add_argument("out", type=Path, metavar="OUT", help="the model directory")
        parser.add_argument("tokenizer", type=Path, metavar="TOKENIZER_DIR", nargs="?",
                            help="the tokenizer to put into OUT, e.g. data/tokens/tokenizer")
        options = parser.parse_args()

        from reprogpt.formats.nanogpt import convert

        convert(options.checkpoint, options.out, options.tokenizer)


if __name__ == "__main__":
    main()
