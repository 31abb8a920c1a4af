"""Puts back the outs that DVC deletes before it starts a stage, when the stage refuses to run."""

import hashlib
import logging
import subprocess
from pathlib import Path


def restore(stage: str, dvc_file: Path, root: Path) -> bool:
    """Puts back the missing outs of ``stage``, as dvc.lock has them, from DVC's cache, or from git
    what is tracked there. True if none is missing afterwards.

    Takes no lock: the `dvc repro` that started the stage holds it, and waits for the stage.
    """
    try:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
    except ImportError:  # dvc has a Python of its own
        return False
    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    try:
        with Repo(str(root)) as repo:
            outs = repo.stage.load_one(path=str(dvc_file), name=stage).outs
            for out in outs:
                if not out.exists and out.hash_info:
                    if out.use_cache:
                        out.checkout(allow_missing=True)
                    else:
                        _from_git(Path(out.fs_path), str(out.hash_info.value))
            return all(out.exists for out in outs)
    except (DvcException, OSError):
        return False


def _from_git(path: Path, md5: str) -> None:
    """Writes what git's index has for ``path``, if that is what DVC has removed."""
    kept = subprocess.run(["git", "show", f":./{path.name}"], cwd=path.parent, check=False,
                          capture_output=True).stdout
    if hashlib.md5(kept, usedforsecurity=False).hexdigest() == md5:
        path.write_bytes(kept)
