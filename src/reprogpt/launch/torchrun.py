"""torchrun, quieter: starts and watches the training processes of one machine.

    python -m reprogpt.launch.torchrun TORCHRUN_OPTIONS -m reprogpt.training.trainer RUN_DIR

A process that fails has told its reason before torchrun adds a table and a traceback of its own,
and a run that was asked to stop is no error: both end in an exit status here, and nothing else.
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from reprogpt.runtime.signals import die_with_parent


def main() -> int:
    """The exit status: 0, that of the first process that failed, or 128 + the signal."""
    die_with_parent()
    for part in ("agent.server.api", "multiprocessing.api"):
        logging.getLogger(f"torch.distributed.elastic.{part}").setLevel(logging.ERROR)
    try:
        torchrun(sys.argv[1:])
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        print(f"training process {rank} ended with status {failure.exitcode}", file=sys.stderr)
        return abs(failure.exitcode) or 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
