"""Checks every section of params.yaml, as `make repro` does before DVC deletes anything.

    python -m pipeline.check        exit code 2 and one line if params.yaml cannot be run here
"""

from pipeline import load_params
from pipeline.checks.preflight import check_git, check_lock, preflight
from pipeline.cli import Parser, one_line


def main() -> None:
    with one_line():
        Parser(__doc__).parse_args()
        check_lock()
        preflight(load_params())
        check_git()


if __name__ == "__main__":
    main()
