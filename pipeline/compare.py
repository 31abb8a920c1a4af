"""Two runs' HellaSwag, question by question.

    dvc get . metrics/hellaswag.jsonl --rev OTHER -o /tmp/other.jsonl
    python -m pipeline.compare /tmp/other.jsonl metrics/hellaswag.jsonl [--each acc_norm]
"""

import argparse
import sys
from pathlib import Path


def main() -> None:
    from reprogpt.comparison import FIGURES, compare, differing, read_answers

    parser = argparse.ArgumentParser(prog="python -m pipeline.compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path, metavar="A")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument("--each", choices=FIGURES, help="also every question that is answered "
                        "differently by this figure")
    options = parser.parse_args()
    try:
        a, b = read_answers(options.a), read_answers(options.b)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    for line in compare(a, b):
        print(line)
    for line in differing(a, b, options.each) if options.each else ():
        print(line)


if __name__ == "__main__":
    main()
