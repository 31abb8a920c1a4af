"""Where a user's own files lie: below this checkout, or below the main one when this is a copy.

`dvc exp run --temp` and a queue run in a copy under .dvc/tmp/exps/ that has what git tracks and
nothing else: no runs/, no models kept by hand, no text of one's own.
"""

import os
from pathlib import Path

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
