"""What is done about an out of a stage whose bytes have changed on the disk since it was made.

Outs are hard links to files of DVC's cache, so a bit that flips on the disk is wrong in both, and
DVC, which compares times, sees nothing: `dvc repro`, its `--force` and `dvc checkout` all give the
damaged file back. DVC makes a file anew only when its cache has none of that checksum.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from reprogpt.config import read_yaml

ROOT = Path(__file__).resolve().parents[2]


def healed(message: str, root: Path = ROOT) -> str:
    """``message``, the error of a stage or a command, and what was done if it begins with a path in
    an out of a stage.

    A file in DVC's cache without the content that its name stands for is removed, and with it the
    file in the out if that is linked to it. A bad file that the out alone has is given a new time,
    by which DVC sees that it has changed. Nothing whose content is as recorded is touched.
    """
    try:
        stages = read_yaml(root / "dvc.lock")["stages"].values()
        outs = [out for stage in stages for out in stage.get("outs", ())
                if message.startswith((f"{root / out['path']}:", f"{root / out['path']}/"))]
        pairs = [pair for out in outs for pair in _files(out, root)]
        named = [pair for pair in pairs if message.startswith(f"{pair[0]}:")]
        done = [_heal(*pair) for pair in named or pairs]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return message  # why the stage failed matters more
    if removed := [str(cached) for cached in done if isinstance(cached, Path)]:
        return (f"{message}. DVC's cache had the same damage, and would have given it back: "
                f"removed {', '.join(removed)}. Run dvc repro, which makes it anew")
    return f"{message}. Run dvc repro, which now sees the change" if any(done) else message


def _files(out: dict[str, Any], root: Path) -> list[tuple[Path, Path, str]]:
    """(path in the project, path in DVC's cache, md5) of each file of an out in dvc.lock."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        place = repo.cache.local.oid_to_path
    files = [{"relpath": "", "md5": out["md5"]}]
    if out["md5"].endswith(".dir"):
        files = json.loads(Path(place(out["md5"])).read_bytes())
    return [(root / out["path"] / file["relpath"], Path(place(file["md5"])), file["md5"])
            for file in files]


def _heal(file: Path, cached: Path, md5: str) -> Path | bool:
    """The path that was removed from the cache, or whether the file had changed."""
    changed = file.is_file() and _md5(file) != md5
    if cached.is_file() and _md5(cached) != md5:
        if changed and file.samefile(cached):
            file.unlink()
        cached.unlink()
        return cached
    if changed:
        os.utime(file)
    return changed


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()
