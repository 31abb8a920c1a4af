"""Where files lie: the cache, a user's own files, and those that a param's globs name.

`dvc exp run --temp` and a queue run in a copy under .dvc/tmp/exps/ that has what git tracks and
nothing else: no runs/, no models kept by hand, no text of one's own. What such a copy lacks is
taken from the main checkout.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from reprogpt.errors import ConfigError

_COPIES = "/.dvc/tmp/exps/"


def main_checkout(checkout: Path) -> Path:
    """``checkout``, or the main one when this is a copy in DVC's temporaries."""
    main, inside, _ = str(checkout.resolve()).partition(_COPIES)
    return Path(main) if inside else checkout


def local_path(name: str, root: Path = Path()) -> Path:
    """The file or folder that a param names, relative to ``root`` or from `~` or absolute. One
    that this copy of the project lacks is the main checkout's. It need not exist."""
    name = os.path.expanduser(name)  # noqa: PTH111 (Path's own raises for a user who is none)
    here, there = root / name, main_checkout(root) / name
    # os.path takes what can be no path (too long, with a zero byte) for one that does not exist.
    return there if os.path.exists(there) and not os.path.exists(here) else here  # noqa: PTH110


def cache_dir() -> Path:
    """Where fetched files and finished pieces stay between runs, outside every out."""
    if given := os.environ.get("REPROGPT_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "reprogpt"


def matching(key: str, patterns: Sequence[str], root: Path = Path(),
             outs: Iterable[str] = ()) -> dict[str, Path]:
    """Name -> file, in the order of the names, which are relative where the glob is.

    A glob is relative to ``root``, or from `~`, or absolute; a folder stands for all in it. Files
    that this copy of the project lacks are the main checkout's. Raises ConfigError, naming
    ``key``, for a glob that matches no file, or one in ``outs``, folders that stages write.
    """
    roots = [root] if main_checkout(root) == root else [main_checkout(root), root]  # ours wins
    theirs = {os.path.realpath(base / out): out for base in roots for out in outs}
    found: dict[str, Path] = {}
    for pattern in patterns:
        full = os.path.expanduser(pattern)  # noqa: PTH111 (see checkout.py)
        try:
            files = {name: path for base in roots for name, path in _files(full, base)}
            # DVC has removed a stage's outs before it starts, so the glob itself is looked at too.
            folders = {path.parent for path in files.values()} | {base / full for base in roots}
            inside = [out for place, out in theirs.items()
                      if any(_within(folder, place) for folder in folders)]
        except ValueError:  # a zero byte, or what is no text: no name of any file
            files, inside = {}, []
        if inside:
            raise ConfigError(f"params.yaml: {key}: {pattern!r} must not name files of "
                              f"{inside[0]}, which the pipeline itself writes; name files of "
                              "your own")
        if not files:
            raise ConfigError(f"params.yaml: {key}: {pattern!r} matches no file below "
                              f"{roots[0].resolve()}; correct the glob")
        found |= files
    return dict(sorted(found.items()))


def _files(pattern: str, root: Path) -> Iterator[tuple[str, Path]]:
    for name in glob.glob(pattern, root_dir=root, recursive=True):  # noqa: PTH207 (absolute, too)
        path = root / name
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                yield str(Path(name) / file.relative_to(path)), file


def _within(path: Path, folder: str) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(folder)
