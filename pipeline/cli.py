"""How every `python -m` of this project reports a user's mistake: one line, no traceback."""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from reprogpt.errors import FULL_DISK, out_of_memory, printable, unwritable

STOPPED = 130  # 128 + SIGINT, the exit code of a shell for a program that Ctrl-C ended


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line; ``about``, the script's docstring, is its help."""

    def __init__(self, about: str | None) -> None:
        super().__init__(prog=program(), description=about, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        stop(f"{self.prog}: {message}; --help shows what it takes", 2)


@contextmanager
def one_line() -> Iterator[None]:
    """The frame of a command: ends a ValueError (ConfigError included), an OSError or a full memory
    in one line with exit code 2, and Ctrl-C in one line with exit code 130."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        stop(f"{program()}: stopped", STOPPED)
    except BrokenPipeError:  # the reader, such as `head`, has ended; Python would flush once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        stop(full_memory(program(), error), 2)
    except OSError as error:
        if error.errno in FULL_DISK:
            stop(unwritable(error), 2)
        place = f"{error.filename}: " if error.filename else ""
        stop(f"{place}{error.strerror or error}; name another file or folder", 2)
    except ValueError as error:
        from pipeline.checks.rot import healed  # here: without a project's Python it has no YAML

        stop(healed(str(error)), 2)


@contextmanager
def options_named(options: Mapping[str, str]) -> Iterator[None]:
    """Rewrites errors about a param as errors about the command line option that replaces it.

    With {"sample.top_p": "--top-p"}, `params.yaml: sample.top_p=` becomes `--top-p=`.
    """
    try:
        yield
    except ValueError as error:
        for param, option in options.items():
            about = f"params.yaml: {param}="
            if str(error).startswith(about):
                raise ValueError(f"{option}={str(error).removeprefix(about)}") from None
        raise


def dollars(text: str) -> float:
    """The value of --rate: dollars an hour, above 0."""
    rate = float(text)
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0, in dollars an hour")
    return rate


def require(*packages: str) -> None:
    """Ends the process with exit code 2 if a package is missing: not the project's Python."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        stop(f"{sys.executable} has no {', '.join(missing)}: it is not the project's Python; make "
             "setup, then export PATH=$PWD/.venv/bin:$PATH", 2)


def program() -> str:
    """The command that was run, such as `python -m pipeline.train`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else Path(sys.argv[0]).name


def full_memory(who: str, error: BaseException) -> str:
    """One line for a full memory, with the beginning of the error's text."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return f"{who}: memory is full; close other programs, or ask for less at a time ({reason})"


def stop(message: str, code: int) -> NoReturn:
    """Ends the process with one line on standard error, in which no character is a command to
    the terminal."""
    with suppress(OSError):  # a reader that has ended changes nothing
        print(printable(" ".join(message.split())), file=sys.stderr, flush=True)
    sys.exit(code)
