"""One process of a training, as the launcher starts it: errors as lines, exit statuses.

    python -m reprogpt.training.process RUN_DIR
"""

import sys
import traceback
from pathlib import Path

from reprogpt.errors import out_of_memory, unwritable
from reprogpt.launch.run_dir import RunDir
from reprogpt.runtime.distributed import leave, process_group
from reprogpt.runtime.signals import die_with_parent
from reprogpt.training.trainer import Stopped, Trainer


def main() -> int:
    """Trains what is left of a run. The exit status is 0 when the run is finished, 75 when a signal
    stopped it, 1 when it failed; an error that another try may not meet leaves as an exception."""
    die_with_parent()
    run = RunDir.open(Path(sys.argv[1]))
    trainer: Trainer | None = None
    try:
        with process_group(run.config.runtime.device, run.config.runtime.timeout) as process:
            trainer = Trainer(run, process)
            trainer.run()
        return 0
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 75  # EX_TEMPFAIL: try again
    except ValueError as error:
        reason = str(error)
    except OSError as error:
        reason = unwritable(error, str(run.path))
    except RuntimeError as error:
        what = str(error).partition("\n")[0]
        if out_of_memory(error):
            micro_batch = trainer.wrapped.micro_batch if trainer else run.config.runtime.micro_batch
            reason = (f"out of memory: a smaller runtime.micro_batch, which was {micro_batch}, "
                      f"changes no result; or lower the model's size ({what[:120]})")
        elif trainer is None:
            traceback.print_exc()
            reason = ("training could not start, the traceback is above: "
                      f"{type(error).__name__}: {what}")
        else:
            raise
    try:
        run.failure.write_text(reason, encoding="utf-8")  # so that the launcher makes no other try
    except OSError:  # a full disk may still hold an empty file
        print(reason, file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        status = main()
    except BaseException:
        traceback.print_exc()
        status = 1
    leave(status)
