"""The stages that dvc.yaml runs, one thin script each, and the frame they share: :func:`stage`.

Importing it puts this checkout's `src` first on the import path, here and in child processes: with
an editable install, a stage of `dvc exp run --temp` would import the main checkout's code.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    sys.exit("Windows: the pipeline needs Linux or macOS; install WSL (wsl --install) and run the "
             "same commands in it")

ROOT = Path(__file__).resolve().parent.parent
SRC = str(ROOT / "src")

for _stream in (sys.stdout, sys.stderr):  # LANG=C, or a file name that is not UTF-8
    if isinstance(_stream, io.TextIOWrapper):
        with suppress(OSError):  # a pipe whose reader has gone
            _stream.reconfigure(errors="backslashreplace")
if sys.path[:1] != [SRC]:
    sys.path.insert(0, SRC)
_inherited = os.environ.get("PYTHONPATH", "")
if _inherited.split(os.pathsep)[0] != SRC:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (SRC, _inherited)))

from pipeline.cli import STOPPED, Parser, full_memory, require, stop  # noqa: E402
from reprogpt.runtime.signals import die_with_parent  # noqa: E402

if "DVC_STAGE" in os.environ:  # a stage ends when DVC does, also when that is killed
    parent = os.getppid()
    try:  # DVC shares our session. Who adopted us, DVC being gone already, does not.
        orphan = os.getsid(parent) != os.getsid(0)
    except ProcessLookupError:
        orphan = True
    if orphan:
        stop("DVC has ended, so this stage does; run dvc repro again", 1)
    die_with_parent(parent)

require("pydantic", "ruamel", "torch")
from pipeline.checks.rot import healed  # noqa: E402
from pipeline.checks.seal import Seal  # noqa: E402
from pipeline.queue_share import take_share  # noqa: E402
from pipeline.stage_times import recorded  # noqa: E402
from reprogpt.config import Config  # noqa: E402
from reprogpt.errors import DISK, ConfigError, out_of_memory, unwritable  # noqa: E402
from reprogpt.runtime.contention import bound_spinning  # noqa: E402
from reprogpt.storage.files import sweep  # noqa: E402
from reprogpt.storage.paths import cache_dir  # noqa: E402

bound_spinning(os.environ)  # before torch is imported
DVC_FILE = Path("dvc.yaml")
PARAMS_FILE = Path("params.yaml")


def load_params(path: Path = PARAMS_FILE) -> Config:
    """The validated params. Raises ConfigError, also when `preset` and the values do not agree."""
    from pipeline.preset import refuse_hybrid  # here: `python -m pipeline.preset` imports us

    config = Config.load(path)
    refuse_hybrid(path, ROOT / "presets")
    return config


@contextmanager
def stage(name: str, dvc_file: Path = DVC_FILE, params: Callable[[], Config] = load_params
          ) -> Iterator[Config]:
    """The frame of stage ``name`` of ``dvc_file``: yields the params, ends errors in one line.

    Exit code 2: a ConfigError, also for what this machine lacks (checks/preflight.py) for this
    stage or a later one; the stage's outs are put back. Exit code 1: a ValueError (a file with
    wrong content), a failed download, a full memory, a disk that is full or read-only, a folder in
    a file's place or the reverse, or an edit of the stage's params or code while it ran
    (checks/seal.py). A stage takes no argument but its matrix value.

    Import slow modules inside the body: the seal must be taken before the code is read.
    """
    parser = Parser(sys.modules["__main__"].__doc__)
    if "@" in name:
        parser.add_argument("value", nargs="?")
    parser.parse_args()
    try:
        seal = Seal.take(name, dvc_file)
        config = params()
        if dvc_file == DVC_FILE:
            from pipeline.checks.preflight import preflight  # it imports us

            preflight(config, name)
        take_share(config.runtime.device)
        for folder in (ROOT, ROOT / "models", ROOT / "metrics", *cache_dir().glob("*/*/")):
            sweep(folder)
        with recorded(name, ROOT):
            yield config
    except ConfigError as error:
        if "DVC_STAGE" not in os.environ:
            stop(str(error), 2)
        from pipeline.checks.restore import restore

        # DVC deletes a stage's outs before it starts the stage.
        back = ("the outs that DVC had removed are back" if restore(name, dvc_file, ROOT) else
                "`dvc repro` then also restores the outs that DVC has just removed")
        stop(f"{error}; {back}", 2)
    except (MemoryError, RuntimeError, OSError, ValueError) as error:
        if out_of_memory(error):
            stop(full_memory(name, error), 1)
        if isinstance(error, ValueError):
            stop(healed(str(error)), 1)
        if isinstance(error, OSError) and (error.errno is None or error.errno in DISK):
            stop(f"{name}: {unwritable(error) if error.errno else error}", 1)
        raise
    except KeyboardInterrupt:
        stop(f"{name}: interrupted; the same command continues from what is finished", STOPPED)
    if changed := seal.changed():
        stop(changed, 1)
