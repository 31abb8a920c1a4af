"""Checks every section of params.yaml: `make repro` asks before DVC deletes anything.

    python -m pipeline.check        exit code 2, and one line, if params.yaml cannot be run
"""

import sys

from pipeline import PARAMS_FILE, load_params
from pipeline.machine import check_machine, check_slurm
from reprogpt.config import ConfigError


def main() -> int:
    """0, or 2 after one line on standard error."""
    try:
        cfg = load_params(PARAMS_FILE)
        check_machine(cfg)
        check_slurm(cfg, "tokenize_executor", "local")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
