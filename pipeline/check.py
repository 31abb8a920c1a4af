"""Checks every section of params.yaml, as `make repro` does before DVC deletes anything.

    python -m pipeline.check        exit code 2 and one line if params.yaml cannot be run here
"""

from pipeline import load_params
from pipeline.checks.preflight import (
    check_git,
    check_inputs,
    check_links,
    check_machine,
    check_slurm,
)
from pipeline.cli import one_line, refuse_arguments


def main() -> None:
    with one_line():
        refuse_arguments()
        cfg = load_params()
        check_links()
        check_machine(cfg)
        check_inputs(cfg)
        check_slurm(cfg, "tokenize_executor", "local")
        check_git()


if __name__ == "__main__":
    main()
