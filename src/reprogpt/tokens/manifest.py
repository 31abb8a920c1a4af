"""`manifest.json`: the shards of a tokenized corpus, their checksums, and where they came from."""

from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from reprogpt.storage.files import read_record, write_json
from reprogpt.storage.paths import cache_dir, local_path

MANIFEST = "manifest.json"
STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Shard:
    """One file of tokens. `documents` counts the documents that begin in it."""

    __pydantic_config__ = STRICT

    name: str
    split: str
    tokens: int
    documents: int
    sha256: str
    crc32: str
    """crc32 of each shards.BLOCK bytes of the file, header included, 8 hex digits a block."""
    mask_sha256: str | None = None
    path: str | None = None
    """Where the file is when it is not beside the manifest: `cache:KEY`, or a path."""

    def file(self, folder: Path) -> Path:
        """Path of the file, for a manifest in ``folder``."""
        if self.path is None:
            return folder / self.name
        if self.path.startswith("cache:"):
            return cached_shard_path(self.path.removeprefix("cache:"))
        return local_path(self.path)


def cached_shard_path(key: str) -> Path:
    """Where the shard with this content key is kept between runs."""
    return cache_dir() / "shards" / key[:2] / f"{key}.bin"


@dataclass(frozen=True)
class Totals:
    """Sums over a split. `bytes` is UTF-8 text; `dropped` counts documents by reason."""

    __pydantic_config__ = STRICT

    documents: int
    tokens: int
    bytes: int
    dropped: dict[str, int] = field(default_factory=dict)


def sum_totals(totals: Iterable[Totals]) -> Totals:
    """The sums over several corpora."""
    documents, tokens, size, dropped = zip(*map(astuple, totals), strict=True)
    reasons = {reason: sum(one.get(reason, 0) for one in dropped)
               for reason in dict.fromkeys(chain(*dropped))}
    return Totals(sum(documents), sum(tokens), sum(size), reasons)


@dataclass(frozen=True)
class Manifest:
    """Contents of `manifest.json`."""

    shards: tuple[Shard, ...]
    totals: dict[str, Totals]
    tokenizer: dict[str, Any]
    """name, n_vocab, fingerprint"""
    corpus: dict[str, Any]
    """name, revision; of a mixture also mix: the names of each corpus's shards"""

    @property
    def mix(self) -> list[str]:
        """The names of the corpora of a mixture; empty for one corpus."""
        return list(self.corpus.get("mix", {}))

    def of(self, split: str, corpus: str | None = None) -> list[Shard]:
        """The shards of a split, in order; with ``corpus`` those of one corpus of a mixture."""
        return [shard for shard in self.shards if shard.split == split
                and (corpus is None or shard.name in self.corpus["mix"][corpus])]


@dataclass(frozen=True)
class _Saved(Manifest):
    """A manifest as its file has it."""

    __pydantic_config__ = STRICT

    version: Literal[1] = field(kw_only=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `manifest.json`. Call it last: readers take the shards it lists for complete."""
    write_json(folder / MANIFEST, {"version": 1, **asdict(manifest)})


def read_manifest(folder: Path) -> Manifest:
    """Reads `manifest.json`. Raises ValueError if it is missing or malformed."""
    found = read_record(Path(folder) / MANIFEST, _Saved, "a manifest of shards", "tokenize")
    return Manifest(found.shards, found.totals, found.tokenizer, found.corpus)
