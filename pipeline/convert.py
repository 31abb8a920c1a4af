"""A nanoGPT or build-nanogpt checkpoint as a model directory, which model.init_from may name.

    python -m pipeline.convert ckpt.pt models/imported [TOKENIZER_DIR]
"""

import sys
from pathlib import Path


def main() -> None:
    from reprogpt.foreign import convert

    if not 2 <= len(sys.argv) - 1 <= 3:
        sys.exit(__doc__)
    try:
        convert(*map(Path, sys.argv[1:]))
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
