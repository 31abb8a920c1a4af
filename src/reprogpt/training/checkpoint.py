"""Checkpoints that are either whole or not there: atomic save, verified load.

``runs/<fingerprint>/step_000250.pt`` is the state after 250 updates, and ``step_000250.sha256``
its checksum. Both are written under a temporary name, synced and renamed, the checksum first: a
checkpoint with its name is complete. What a crashed disk or a flipped bit spoils all the same
fails its checksum on load, is set aside with a message, and the checkpoint before it serves.
"""

import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from reprogpt.storage.files import replacing, sha256_of, write_bytes


class _Hashing(io.RawIOBase):
    """Passes bytes on and hashes them on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        try:
            return self.file.write(data)
        except OSError as error:  # torch would say that a position is unexpected
            self.error = error
            raise


def save(run: Path, name: str, state: dict[str, Any]) -> Path:
    """Writes ``state`` as ``run/name.pt`` with its checksum beside it. Raises OSError."""
    path = run / f"{name}.pt"
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            # A file object, because torch.save(path) would put the path's name into the bytes.
            hashing = _Hashing(file)
            try:
                torch.save(state, hashing)  # type: ignore[arg-type]
            except RuntimeError as error:
                raise hashing.error or error from None
        write_bytes(path.with_suffix(".sha256"), hashing.sha256.hexdigest().encode())
    return path


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, as it was saved. Raises ValueError when it is not whole."""
    try:
        expected = path.with_suffix(".sha256").read_text()
        found = sha256_of(path)
        if found != expected:
            raise ValueError(f"{path}: its sha256 is {found[:12]}..., not {expected[:12]}...")
        with path.open("rb") as file:
            state: dict[str, Any] = torch.load(file, "cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    return state


def steps(run: Path) -> list[int]:
    """The steps of the checkpoints in ``run``, ascending."""
    return sorted(int(p.stem[5:]) for p in run.glob("step_*.pt") if p.stem[5:].isdigit())


def latest(run: Path, warn: Callable[[str], None] | None = None) -> dict[str, Any] | None:
    """The state of the newest whole checkpoint in ``run``, or None. Torn ones are set aside."""
    for step in reversed(steps(run)):
        path = run / f"step_{step:06d}.pt"
        try:
            return load(path)
        except ValueError as error:
            spoiled = path.with_suffix(".spoiled")
            path.replace(spoiled)
            path.with_suffix(".sha256").unlink(missing_ok=True)
            (warn or _to_stderr)(f"{error}; set aside as {spoiled.name}, "
                                 "continuing from the checkpoint before it")
    return None


def prune(run: Path, keep: int, best: int | None = None) -> None:
    """Removes all but the last ``keep`` checkpoints, and every best_* but the one of step
    ``best``; also temporary files that a kill left behind."""
    doomed = [f"step_{step:06d}" for step in steps(run)[:-keep]]
    doomed += [p.stem for p in run.glob("best_*.pt") if best is None or int(p.stem[5:]) != best]
    for name in doomed:
        (run / f"{name}.pt").unlink(missing_ok=True)  # first: a checksum alone does no harm
        (run / f"{name}.sha256").unlink(missing_ok=True)
    for temporary in (*run.glob(".step_*"), *run.glob(".best_*")):
        temporary.unlink(missing_ok=True)


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
