"""Checks every section of params.yaml, as `make repro` does before DVC deletes anything.

    python -m pipeline.check        exit code 2 and one line if params.yaml cannot be run here
"""

from pipeline import load_params
from pipeline.checks import preflight
from pipeline.cli import one_line, refuse_arguments


def main() -> None:
    with one_line():
        refuse_arguments()
        cfg = load_params()
        preflight.check_links()
        preflight.check_machine(cfg)
        preflight.check_inputs(cfg)
        preflight.check_store(cfg)
        preflight.check_slurm(cfg, "tokenize_executor", "local")
        preflight.check_git()


if __name__ == "__main__":
    main()
