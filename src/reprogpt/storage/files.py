"""Files written whole or not at all, and hashed without being held in memory.

Outs of a stage may be hard links into DVC's cache, so nothing here ever writes into an existing
file: a temporary one in the same folder is filled, synced, and moved over the name.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHUNK = 1 << 20  # bytes read at a time: large enough for full disk speed, small in memory


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends without error.

    ``sync=False`` is for what carries a checksum and can be made again: a cache of many files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if sync:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp gives 0600; the next user reads too
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, sync: bool = True) -> None:
    """Atomically makes ``path`` hold ``content``."""
    with replacing(path, sync) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Atomically makes ``path`` hold ``value`` as indented JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    write_bytes(path, text.encode("utf-8") + b"\n")


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """``target`` becomes a hard link to ``source``, or a copy where links cannot be made."""
    import shutil

    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def make_empty(folder: Path) -> None:
    """``folder`` is there and holds nothing."""
    import shutil

    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def sync_folder(folder: Path) -> None:
    """The names in ``folder`` outlive a power cut from here on."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
