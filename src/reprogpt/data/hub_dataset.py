"""Data sets of the Hugging Face Hub, pinned to a commit, file by file.

The library `datasets` says which files make up a split of a configuration; they are read by the
same readers as files on this machine. The whole of a file is fetched by huggingface_hub (resumed,
verified against the Hub's own checksum); only the first part of a data set is read in ranges.
"""

import hashlib
import io
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import unquote

from reprogpt.config import HubConfig
from reprogpt.data.collect import Source
from reprogpt.data.raw_text import Document
from reprogpt.data.readers import kind_of, read_file
from reprogpt.errors import ConfigError
from reprogpt.storage.files import CHUNK, sha256_of
from reprogpt.storage.http import CONNECT_SECONDS, RETRIED, TransferError
from reprogpt.storage.paths import cache_dir
from reprogpt.storage.remote_file import RemoteFile

T = TypeVar("T")
ATTEMPTS = 5
PAUSE = 1.0
"""Seconds before the second attempt; doubled before each further one."""


@dataclass(frozen=True)
class HubFile:
    """One file of a data set at one commit."""

    repo: str
    revision: str
    path: str
    size: int
    checksum: str
    """sha256 of the content (a file in LFS), or `blob ` and git's own sha1 of it."""


def hub_sources(hub: HubConfig, partial: bool) -> tuple[str, list[Source]]:
    """The commit of a data set, and its files as sources, in the data set's order.

    ``partial``: only a first part will be taken, so read in ranges instead of fetching files.
    Raises ConfigError for what is not on the Hub, TransferError when it cannot be reached.
    """
    files = _files(hub)
    for file in files:
        if kind_of(file.path) is None:
            raise ConfigError(f"params.yaml: download.hub.id={hub.id!r} has files of a kind that "
                              f"is not read here ({file.path}); pin a commit of its branch "
                              "refs/convert/parquet, which the Hub makes of most data sets")
    return files[0].revision, [_source(file, hub.text_field, partial) for file in files]


def _source(file: HubFile, field: str, partial: bool) -> Source:
    def read(first: int) -> Iterator[Document]:
        def opener() -> BinaryIO:
            return _open_remote(file) if partial else _local(file).open("rb")

        return read_file(file.path, opener, field, first)

    def done() -> None:
        _place(file).unlink(missing_ok=True)  # its raw parts are kept; it is needed no more

    identity = f"{kind_of(file.path)} {field} {file.checksum}"
    return Source(file.path, identity, read, done)


def _files(hub: HubConfig) -> list[HubFile]:
    from huggingface_hub import HfApi

    _knock()
    names = retried(lambda: _names(hub), f"data set {hub.id}")
    start = f"hf://datasets/{hub.id}@"
    outside = [name for name in names if not name.startswith(start)]
    if outside:
        raise ConfigError(f"params.yaml: download.hub.id={hub.id!r} keeps its files elsewhere "
                          f"({outside[0]}); fetch them yourself and use corpus: files")
    split = [name.removeprefix(start).partition("/") for name in names]
    known: dict[str, Any] = {}
    for revision, folder in {(r, str(PurePosixPath(p).parent)) for r, _, p in split}:
        entries = retried(lambda r=revision, f=folder: list(HfApi().list_repo_tree(  # type: ignore[misc]
            hub.id, None if f == "." else f, revision=unquote(r), repo_type="dataset")),
            f"data set {hub.id}")
        known |= {entry.path: entry for entry in entries if hasattr(entry, "blob_id")}
    return [_hub_file(hub.id, unquote(revision), known[path]) for revision, _, path in split]


def _knock() -> None:
    """Raises TransferError when there is no way to the Hub: the libraries would try for minutes."""
    from huggingface_hub import constants

    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=CONNECT_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # it answers
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise TransferError(f"the Hub ({constants.ENDPOINT}) cannot be reached ({reason}); check "
                            "the network, or choose a download.corpus that needs no Hub") from None


def _hub_file(repo: str, revision: str, entry: Any) -> HubFile:
    checksum = entry.lfs.sha256 if entry.lfs else f"blob {entry.blob_id}"
    return HubFile(repo, revision, entry.path, entry.size, checksum)


def _names(hub: HubConfig) -> list[str]:
    """hf:// addresses of the files of a split."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetNotFoundError

    try:
        builder = load_dataset_builder(hub.id, hub.config, revision=hub.revision)
    except (DatasetNotFoundError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"params.yaml: download.hub: {reason}; correct id, config or "
                          "revision") from None
    files = builder.config.data_files or {}
    if hub.split not in files:
        raise ConfigError(f"params.yaml: download.hub.split={hub.split!r} must be one of "
                          f"{', '.join(map(str, files)) or 'none'}; choose one")
    return [str(name) for name in files[hub.split]]


def _open_remote(file: HubFile) -> BinaryIO:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(file.repo, file.path, repo_type="dataset", revision=file.revision)
    remote = RemoteFile(url, file.size, build_hf_headers(), ATTEMPTS, PAUSE)
    return cast(BinaryIO, io.BufferedReader(remote, CHUNK))


def _folder(file: HubFile) -> Path:
    return cache_dir() / "hub" / file.repo.replace("/", "--") / file.revision.replace("/", "--")


def _place(file: HubFile) -> Path:
    return _folder(file) / file.path


def _local(file: HubFile) -> Path:
    """The whole file, fetched and verified."""
    from huggingface_hub import hf_hub_download

    for attempt in range(2):
        path = Path(retried(lambda again=bool(attempt): hf_hub_download(  # type: ignore[misc]
            file.repo, file.path, repo_type="dataset", revision=file.revision,
            local_dir=_folder(file), force_download=again), file.path))
        if path.stat().st_size == file.size and checksum_of(path, file.checksum) == file.checksum:
            return path
        path.unlink()  # two versions joined, or bytes lost: from the beginning, once
    raise TransferError(f"{file.path}: the server's bytes are not those of commit "
                        f"{file.revision[:12]} (checksum differs twice); pin another "
                        "download.hub.revision, or try later")


def checksum_of(path: Path, like: str) -> str:
    """The checksum of a file in the form of ``like``: sha256, or git's of a blob."""
    if not like.startswith("blob "):
        return sha256_of(path)
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
    return f"blob {digest.hexdigest()}"


def retried(call: Callable[[], T], what: str) -> T:
    """The result of ``call``, tried again with back-off while the server or the line fails.

    Raises TransferError at the end, or at once when the Hub refuses (no such thing, no access).
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except ConfigError:
            raise
        except Exception as error:  # the libraries raise what their HTTP clients raise
            status = getattr(getattr(error, "response", None), "status_code", None)
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            lasting = status is not None and status not in RETRIED
            if lasting or not _transient(error):
                raise TransferError(f"{what}: {reason}") from None
            failure = reason
        if attempt < ATTEMPTS:
            time.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.8, 1.2))
    raise TransferError(f"{what}: gave up after {ATTEMPTS} attempts: {failure}")


def _transient(error: Exception) -> bool:
    """Failures of the line: OSError (sockets, short files), or an HTTP client's own kind."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"TransportError", "HTTPError", "LocalEntryNotFoundError"}:
        return True
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
