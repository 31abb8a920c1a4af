"""Compares the HellaSwag results of two runs, question by question.

    dvc get . metrics/hellaswag.jsonl --rev OTHER -o /tmp/other.jsonl
    python -m pipeline.compare /tmp/other.jsonl metrics/hellaswag.jsonl [--each acc_norm]
"""

from pathlib import Path

from pipeline.cli import Parser, one_line


def main() -> None:
    from reprogpt.evaluation.compare_runs import compare, differences, read_records
    from reprogpt.evaluation.published import METRICS

    parser = Parser(__doc__)
    parser.add_argument("a", type=Path, metavar="A")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument("--each", choices=METRICS,
                        help="also list the questions that the two answer differently")
    options = parser.parse_args()
    a, b = read_records(options.a), read_records(options.b)
    print(*compare(a, b), *(differences(a, b, options.each) if options.each else ()), sep="\n")


if __name__ == "__main__":
    with one_line():
        main()
