"""Data sets of the Hugging Face Hub, pinned to a commit, as sources of documents.

The library `datasets` says which files make up a split. Whole files are downloaded by
huggingface_hub and verified; where only a first part is wanted, they are read in ranges.
"""

import urllib.error
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from reprogpt.config import HubConfig
from reprogpt.data.collect import Source
from reprogpt.data.raw_text import Document
from reprogpt.data.readers import kind_of, read_file
from reprogpt.errors import ConfigError
from reprogpt.storage.files import hub_checksum
from reprogpt.storage.http import CONNECT_SECONDS, TransferError, open_url, retried
from reprogpt.storage.paths import cache_dir
from reprogpt.storage.remote_file import open_remote


def hub_sources(hub: HubConfig, partial: bool) -> list[Source]:
    """The files of a data set as sources, in the data set's order.

    ``partial``: files are read in ranges, not downloaded. Raises ConfigError, TransferError.
    """
    files = _files_of(hub)
    for file in files:
        if kind_of(file.path) is None:
            raise ConfigError(f"params.yaml: download.hub.id={hub.id!r} has files of a kind that "
                              f"is not read here ({file.path}); pin a commit of its branch "
                              "refs/convert/parquet, which the Hub makes of most data sets")
    return [_source(hub, file, partial) for file in files]


def _source(hub: HubConfig, file: Any, partial: bool) -> Source:
    # sha256 of the content (a file in LFS), or git's own sha1 of it
    checksum = file.lfs.sha256 if file.lfs else f"blob {file.blob_id}"

    def read(first: int) -> Iterator[Document]:
        path = None if partial else _downloaded(hub, file.path, checksum)
        yield from read_file(
            file.path, lambda: path.open("rb") if path else _open_remote(hub, file.path, file.size),
            hub.text_field, first)
        if path:
            path.unlink()  # from now on its raw parts are in the cache

    # What is read in ranges is not checked against the checksum, so it is cached under another
    # identity than what the checksum was computed over.
    identity = f"{kind_of(file.path)} {hub.text_field} {checksum}"
    return Source(file.path, f"ranges of {identity}" if partial else identity, read)


def _files_of(hub: HubConfig) -> list[Any]:
    """huggingface_hub's RepoFile (path, size, lfs, blob_id) of each file of the split."""
    from huggingface_hub import HfApi

    _check_reachable()
    addresses = retried(lambda: _addresses(hub), f"data set {hub.id}")
    start = f"hf://datasets/{hub.id}@{hub.revision}/"
    outside = [address for address in addresses if not address.startswith(start)]
    if outside:
        raise ConfigError(f"params.yaml: download.hub.id={hub.id!r} keeps its files elsewhere "
                          f"({outside[0]}); fetch them yourself and use corpus: files")
    paths = [address.removeprefix(start) for address in addresses]
    known: dict[str, Any] = {}
    for folder in {str(PurePosixPath(path).parent) for path in paths}:
        entries = retried(lambda f=folder: list(HfApi().list_repo_tree(  # type: ignore[misc]
            hub.id, None if f == "." else f, revision=hub.revision, repo_type="dataset")),
            f"data set {hub.id}")
        known |= {entry.path: entry for entry in entries}
    return [known[path] for path in paths]


def _check_reachable() -> None:
    """Raises TransferError when the Hub does not answer: the libraries would try for minutes."""
    from huggingface_hub import constants

    try:
        open_url(constants.ENDPOINT, {}, CONNECT_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answers
    except OSError as error:
        raise TransferError(f"the Hub ({constants.ENDPOINT}) cannot be reached ({error}); check "
                            "the network, or choose a download.corpus that needs no Hub") from None


def _addresses(hub: HubConfig) -> list[str]:
    """The hf:// addresses of the files of a split."""
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
    return [str(address) for address in files[hub.split]]


def _open_remote(hub: HubConfig, name: str, size: int) -> BinaryIO:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(hub.id, name, repo_type="dataset", revision=hub.revision)
    return open_remote(url, size, build_hf_headers())


def _downloaded(hub: HubConfig, name: str, checksum: str) -> Path:
    """The whole file, downloaded and verified."""
    from huggingface_hub import hf_hub_download

    folder = cache_dir() / "hub" / hub.id.replace("/", "--") / hub.revision
    for _ in range(2):
        path = Path(retried(lambda: hf_hub_download(
            hub.id, name, repo_type="dataset", revision=hub.revision, local_dir=folder), name))
        expected = checksum.removeprefix("blob ")
        if hub_checksum(path, expected) == expected:
            return path
        path.unlink()  # two versions joined, or bytes lost: from the beginning, once
    raise TransferError(f"{name}: the server's bytes are not those of commit "
                        f"{hub.revision[:12]} (checksum differs twice); pin another "
                        "download.hub.revision, or try later")
