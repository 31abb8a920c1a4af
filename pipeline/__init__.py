"""The stages that dvc.yaml runs, one thin script each, and what they have in common.

Importing this package puts this checkout's `src` first on the import path, here and in child
processes: with an editable install, a stage run by `dvc exp run --temp` would otherwise import
the main workspace's code instead of the experiment's.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = str(ROOT / "src")

if sys.path[:1] != [SRC]:
    sys.path.insert(0, SRC)
_inherited = os.environ.get("PYTHONPATH", "")
if _inherited.split(os.pathsep)[0] != SRC:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (SRC, _inherited)))

from pipeline.cli import STOPPED, refuse_arguments, require, stop  # noqa: E402

require("pydantic", "yaml", "torch")  # found, not imported
from pipeline.checks.seal import Seal  # noqa: E402
from reprogpt.config import Config  # noqa: E402 (the path comes first)
from reprogpt.errors import ConfigError, unwritable  # noqa: E402

__all__ = ["ROOT", "load_params", "stage"]

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
DVC_FILE = Path("dvc.yaml")
PARAMS_FILE = Path("params.yaml")
RESTORED = "; then `dvc repro` also brings back what DVC has just removed, if it was run before"


def load_params(path: Path = PARAMS_FILE) -> Config:
    """The checked params. Raises ConfigError, also when `preset` and the values do not agree."""
    from pipeline.preset import refuse_hybrid  # here: `python -m pipeline.preset` is a module too

    config = Config.load(path)
    refuse_hybrid(path, ROOT / "presets")
    return config


@contextmanager
def stage(name: str, dvc_file: Path = DVC_FILE, params: Callable[[], Config] = load_params
          ) -> Iterator[Config]:
    """Runs the body of stage ``name`` of ``dvc_file`` between the border and the seal.

    Yields what ``params`` loads. Bad ones, or a ConfigError out of the body, end in one line and
    exit code 2; the first before the stage touched a file. Any other ValueError, which is how the
    library says what is wrong with a file, ends in one line and exit code 1; so do a disk that is
    full or may not be written, and an edit of the stage's params or code while the body ran (see
    sealed.py). Import what is slow inside the body: the seal then stands before the code is read.
    A stage takes no argument but the value of its matrix.
    """
    refuse_arguments(but=name.partition("@")[2])
    try:
        seal = Seal.take(name, dvc_file)
        yield params()
    except ConfigError as error:
        # DVC deletes a stage's outs before it starts the stage; `make repro` asks pipeline.check
        # before that, plain `dvc repro` does not.
        under_dvc = "DVC_STAGE" in os.environ
        stop(f"{error}{RESTORED if under_dvc else ''}", 2)
    except ValueError as error:
        stop(str(error), 1)
    except OSError as error:
        if error.errno is None:  # the library's own: what cannot be fetched, what is damaged
            stop(f"{name}: {error}", 1)
        if error.errno not in DISK:
            raise
        stop(f"{name}: {unwritable(error)}", 1)
    except KeyboardInterrupt:
        stop(f"{name}: interrupted; the same command goes on from what is finished", STOPPED)
    broken = seal.broken()
    if broken:
        stop(broken, 1)
