"""Atomic writes, checksums and links.

A stage's outs may be hard links into DVC's cache, so an existing file is never written into: a
temporary file in the same folder is filled, synced to disk, and renamed over it.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from reprogpt.errors import DISK

T = TypeVar("T")
CHUNK = 1 << 20
"""Bytes read at a time: enough for full disk speed, little memory."""
TEMPORARY = ".tmp"
FRESH_SECONDS = 2.0
TEXT_ENCODING = "utf-8-sig"
"""How text of the user is read: UTF-8, where a byte order mark at the start is no text."""
SUMS = "SHA256SUMS"
"""Checksums of the files beside it, in the form of `sha256sum`."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts ``path`` into the error of a write that fails in the block: the system names no file, or
    the temporary one."""
    try:
        yield
    except OSError as error:
        name = Path(os.fsdecode(error.filename or "")).name
        if error.errno in DISK and (not name or name.startswith(f".{path.name}.")):
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """An empty temporary file beside ``path``, renamed to ``path`` if the block raises nothing.

    ``sync=False`` leaves out the fsync: for cached files that carry a checksum and can be remade.
    """
    temporary = _beside(path)
    with naming(path):
        lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _lock(lock)
            yield temporary
            if sync:
                os.fsync(lock)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(lock)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path``, deleted at the end of the block."""
    folder = _beside(path)
    folder.mkdir()
    lock = os.open(folder, os.O_RDONLY)
    try:
        _lock(lock)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _beside(path: Path) -> Path:
    """A new name, which :func:`sweep` knows, in the folder of ``path``, which is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")


def _lock(descriptor: int) -> None:
    """Marks a temporary file as in use, until its process ends (:func:`sweep`)."""
    with suppress(OSError):  # some network file systems have no locks, and sweep finds none there
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sweep(folder: Path) -> None:
    """Deletes from ``folder`` the temporary files and folders of processes that were killed: the
    system has freed their locks."""
    for path in folder.glob(f".*{TEMPORARY}"):
        with suppress(OSError):  # another process's, or gone meanwhile
            if time.time() - path.stat().st_mtime < FRESH_SECONDS:
                continue  # perhaps not locked yet
            lock = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(lock)


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically replaces ``path`` by a file with this content."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Atomically replaces ``path`` by ``value`` as indented JSON."""
    write_bytes(path, json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n")


def read_record(path: Path, kind: type[T], what: str, stage: str) -> T:
    """The JSON of a file as a dataclass, strictly. Raises ValueError where it is none, or there is
    no file: ``stage`` writes it."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run the stage {stage}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        wrong = ": ".join((*map(str, problem["loc"]), problem["msg"]))
        raise ValueError(f"{path}: is not {what} ({wrong}); run the stage {stage} again") from None


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hub_checksum(path: Path, like: str) -> str:
    """A file's checksum of the kind that the Hub has for it: sha256 for one in LFS (64 hex digits),
    git's sha1 for a small one (40)."""
    if len(like) == 64:
        return sha256_of(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def write_sums(folder: Path) -> None:
    """Writes SUMS over the files of a folder. Call it last: it vouches for all that is there."""
    lines = [f"{sha256_of(file)}  {file.name}\n" for file in sorted(folder.iterdir())
             if file.is_file() and file.name != SUMS]
    write_bytes(folder / SUMS, "".join(lines).encode())


def check_sums(folder: Path, patterns: Iterable[str], again: str) -> None:
    """Compares the files of a folder that match ``patterns``, glob patterns of names, with its
    SUMS. A folder without SUMS, which others made, passes.

    Raises ValueError naming a file that is missing, altered or not listed; ``again`` is the fix.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    present = {file.name for file in folder.iterdir() if not file.name.startswith(".")}
    for name in sorted(present | sums.keys()):
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            found = sha256_of(folder / name) if (folder / name).is_file() else None
            if found != sums.get(name):
                what = "is missing" if found is None else (
                    f"has the sha256 {found[:12]}..., not that in {SUMS}: it was altered"
                    if name in sums else f"is not listed in {SUMS}")
                raise ValueError(f"{folder / name}: {what}; {again}, or remove {SUMS} if you "
                                 "yourself changed it")


def link_or_copy(source: Path, target: Path) -> None:
    """Makes ``target`` a hard link to ``source``, or a copy where links are not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def make_empty(folder: Path) -> None:
    """Creates ``folder``, or deletes everything in it."""
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
