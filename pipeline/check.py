"""Checks every section of params.yaml: `make repro` asks before DVC deletes anything.

    python -m pipeline.check        exit code 2, and one line, if params.yaml cannot be run
"""

from pipeline import PARAMS_FILE, load_params
from pipeline.commands import one_line, refuse_arguments


def main() -> None:
    with one_line():
        refuse_arguments()
        load_params(PARAMS_FILE)


if __name__ == "__main__":
    main()
