"""Files and facts of the working tree, of commits and of DVC experiments, read without a lock."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from pipeline import ROOT
from reprogpt.errors import ConfigError

HERE = "this run"
"""Name of the working tree among revisions."""


def read(revision: str, name: str) -> bytes | None:
    """A file that git or DVC tracks; None for one that the revision or DVC's cache lacks."""
    if revision == HERE:
        return (ROOT / name).read_bytes() if (ROOT / name).is_file() else None
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(str(ROOT), rev=revision)
    try:
        return files.read_bytes(name) if files.exists(name) else None
    except FileNotFoundError:
        print(f"{revision}: left out {name}, which is not in DVC's cache; `dvc fetch` may bring it",
              file=sys.stderr)
        return None


def about(revision: str) -> dict[str, str]:
    """Label -> text: the commit of a revision; of the working tree also edits and the machine.

    Raises ConfigError for an unknown revision.
    """
    here = revision == HERE
    named = ["HEAD"] if here else [revision] if _git("rev-parse", "-q", "--verify", revision) else [
        f"--glob=refs/exps/*/*/{revision}"]
    found = {"commit": _git("log", "-1", "--format=%h of %cs: %s", *named)}
    if not here and not found["commit"]:
        raise ConfigError(f"--rev={revision} must be a commit, branch, tag or experiment; `git log`"
                          " and `dvc exp show` list them")
    if here:
        import torch

        edited = _git("status", "--porcelain", "params.yaml", "src", "pipeline").splitlines()
        info = Path("/proc/cpuinfo")
        names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.is_file() else []
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found |= {
            "edited since": ", ".join(line.split()[-1] for line in edited[:5]) + (
                f" and {len(edited) - 5} more" if len(edited) > 5 else ""),
            "this machine": ", ".join([f"{os.cpu_count()} cores", *names[:1], *gpus]),
            "software": f"Python {platform.python_version()}, torch {torch.__version__}"}
    return {label: text for label, text in found.items() if text}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True,
                          check=False).stdout.rstrip()
