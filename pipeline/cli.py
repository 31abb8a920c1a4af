"""What every `python -m` of this project does alike with what its user got wrong: one line, exit
code 2, and no traceback."""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

STOPPED = 130  # 128 + SIGINT: what a shell reports of a program that Ctrl-C ended


class Parser(argparse.ArgumentParser):
    """argparse's, whose error is one line; ``about``, the script's docstring, is its help."""

    def __init__(self, about: str | None) -> None:
        super().__init__(prog=program(), description=about, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Ends the process with exit code 2."""
        stop(f"{self.prog}: {message}; --help shows what it takes", 2)


@contextmanager
def one_line() -> Iterator[None]:
    """The body of a command. A ValueError (as ConfigError is) or an OSError out of it ends in one
    line and exit code 2, Ctrl-C in one line and exit code 130."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        stop(f"{program()}: stopped", STOPPED)
    except BrokenPipeError:  # whoever reads, say `head`, has enough; Python flushes once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        stop(f"{place}{error.strerror or error}; name another file or folder", 2)
    except ValueError as error:
        stop(str(error), 2)


@contextmanager
def options_named(options: Mapping[str, str]) -> Iterator[None]:
    """An error about a param, out of the library, becomes one about what was said in its place.

    ``options``: the param, as in "sample.top_p", -> what the user knows it by, as in "--top-p".
    Raises ValueError in place of one that begins with such a param of params.yaml.
    """
    try:
        yield
    except ValueError as error:
        for param, option in options.items():
            about = f"params.yaml: {param}="
            if str(error).startswith(about):
                raise ValueError(f"{option}={str(error).removeprefix(about)}") from None
        raise


def refuse_arguments(but: str = "") -> None:
    """Ends the process, exit code 2, if the command line has any argument, or any after a first
    that is ``but``; -h and --help print the script's docstring."""
    given = sys.argv[1:]
    if {"-h", "--help"} & set(given):
        print((sys.modules["__main__"].__doc__ or program()).strip())
        sys.exit(0)
    extra = given[1:] if but and given[:1] == [but] else given
    if extra:
        stop(f"{program()}: takes no argument {shlex.join(extra)}; leave it out (--help says what "
             "this does)", 2)


def require(*packages: str) -> None:
    """Ends the process, exit code 2, where one is missing: this Python is not the project's."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        stop(f"{sys.executable} has no {', '.join(missing)}: it is not the project's Python; make "
             "setup, then export PATH=$PWD/.venv/bin:$PATH", 2)


def program() -> str:
    """How the running script was started: `python -m pipeline.train`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else Path(sys.argv[0]).name


def stop(message: str, code: int) -> NoReturn:
    """Ends the process with one line on standard error."""
    print(" ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(code)
