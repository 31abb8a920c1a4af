"""Where files are: the cache, the user's own files, and those that a param's globs match.

`dvc exp run --temp` and DVC's queue run in a copy of the project under .dvc/tmp/exps/, which holds
only what git tracks. Files that such a copy lacks are taken from the main checkout.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from reprogpt.errors import ConfigError

_COPIES = "/.dvc/tmp/exps/"


def main_checkout(checkout: Path) -> Path:
    """The main checkout, when ``checkout`` is a temporary copy made by DVC, else ``checkout``."""
    main, inside, _ = str(checkout.resolve()).partition(_COPIES)
    return Path(main) if inside else checkout


def local_path(name: str, root: Path = Path()) -> Path:
    """The path that a param names: relative to ``root``, from `~` or absolute."""
    name = os.path.expanduser(name)  # noqa: PTH111 (Path's own raises for an unknown user)
    here, there = root / name, main_checkout(root) / name
    # os.path.exists is False, not an error, for an impossible path (too long, with a zero byte).
    return there if os.path.exists(there) and not os.path.exists(here) else here  # noqa: PTH110


def text_file(key: str, name: str, root: Path = Path()) -> Path:
    """The file of text that param ``key`` names. Raises ConfigError if there is none: reading a
    pipe or a device would never end."""
    path = local_path(name, root)
    if not os.path.isfile(path):  # noqa: PTH113 (False, not an error, for an impossible path)
        raise ConfigError(f"params.yaml: {key}={name!r} must be a UTF-8 text file, and there "
                          "is none; correct the path")
    return path


def cache_dir() -> Path:
    """The folder of fetched files and finished parts, which outlives every out."""
    if given := os.environ.get("REPROGPT_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "reprogpt"
    except RuntimeError:
        raise ConfigError("HOME: is not set, and this user has no home; export "
                          "REPROGPT_CACHE=FOLDER") from None


def matching(key: str, patterns: Sequence[str], root: Path = Path(),
             outs: Iterable[str] = ()) -> dict[str, Path]:
    """The files that glob patterns match: name -> path, sorted by name.

    A pattern is relative to ``root`` (as are the names then), from `~` or absolute. One that is a
    path is taken literally; a folder means all files below it except hidden ones. Raises
    ConfigError, naming ``key``, where none match, or some lie in ``outs``, which stages write.
    """
    roots = [root] if main_checkout(root) == root else [main_checkout(root), root]  # the last wins
    out_folders = {os.path.realpath(base / out): out for base in roots for out in outs}
    found: dict[str, Path] = {}
    for pattern in patterns:
        full = os.path.expanduser(pattern)  # noqa: PTH111 (Path's own raises for an unknown user)
        try:
            files = {name: path for base in roots for name, path in _files(full, base)}
            # The pattern itself is compared, too: DVC deletes a stage's outs before it starts.
            folders = {path.parent for path in files.values()} | {base / full for base in roots}
            inside = [out for folder, out in out_folders.items()
                      if any(Path(os.path.realpath(f)).is_relative_to(folder) for f in folders)]
        except ValueError:  # a zero byte or a surrogate: not the name of any file
            files, inside = {}, []
        if inside:
            raise ConfigError(f"params.yaml: {key}: {pattern!r} must not match files of "
                              f"{inside[0]}, which the pipeline itself writes; name files of "
                              "your own")
        if not files:
            raise ConfigError(f"params.yaml: {key}: {pattern!r} matches no file below "
                              f"{roots[0].resolve()}; correct the glob")
        found |= files
    return dict(sorted(found.items()))


def _files(pattern: str, root: Path) -> Iterator[tuple[str, Path]]:
    if pattern and os.path.exists(root / pattern):  # noqa: PTH110 (False for an impossible path)
        names = [pattern]
    else:
        names = glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207 (absolute, too)
    for name in names:
        path = root / name
        for file in path.rglob("*") if path.is_dir() else [path]:
            below = file.relative_to(path)
            if file.is_file() and not any(part.startswith(".") for part in below.parts):
                yield str(Path(name) / below), file
