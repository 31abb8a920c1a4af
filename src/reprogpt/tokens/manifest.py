"""manifest.json: what the shards beside it are, where they came from, and their checksums."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reprogpt.storage.files import write_json
from reprogpt.storage.paths import cache_dir, local_path

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """One file of tokens. `documents` counts those that begin in it."""

    name: str
    split: str
    tokens: int
    documents: int
    sha256: str
    crc32: tuple[int, ...]
    """Of each BLOCK bytes of the file, header included: what a sampled check reads."""
    mask_sha256: str | None = None
    path: str | None = None
    """Where the file is when it is not beside the manifest: `cache:KEY`, or a path."""

    def file(self, folder: Path) -> Path:
        """The file, for a manifest in ``folder``."""
        if self.path is None:
            return folder / self.name
        kind, _, key = self.path.partition("cache:")
        return cached_shard_path(key) if not kind else local_path(self.path)


def cached_shard_path(key: str) -> Path:
    """Where the shard made by a plan of this key is kept between runs."""
    return cache_dir() / "shards" / key[:2] / f"{key}.bin"


@dataclass(frozen=True)
class Totals:
    """Sums over a split. `bytes` is UTF-8 text; `dropped` counts documents by reason."""

    documents: int
    tokens: int
    bytes: int
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What `data/tokens` holds, and where it came from."""

    shards: tuple[Shard, ...]
    totals: dict[str, Totals]
    tokenizer: dict[str, Any]
    """name, n_vocab, fingerprint"""
    corpus: dict[str, Any]
    """name, revision"""

    def of(self, split: str) -> list[Shard]:
        """The shards of a split, in order."""
        return [shard for shard in self.shards if shard.split == split]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes manifest.json: the last thing of a tokenization, since it vouches for the rest."""
    shards = [shard_to_json(shard) for shard in manifest.shards]
    write_json(folder / MANIFEST, {"version": 1, **asdict(manifest), "shards": shards})


def read_manifest(folder: Path) -> Manifest:
    """Reads manifest.json. Raises ValueError when it is missing or not one of ours."""
    path = Path(folder) / MANIFEST
    try:
        values = json.loads(path.read_bytes())
        if values.pop("version") != 1:
            raise ValueError("another version")
        shards = tuple(map(shard_from_json, values.pop("shards")))
        totals = {name: Totals(**total) for name, total in values.pop("totals").items()}
        return Manifest(shards=shards, totals=totals, **values)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run the stage tokenize") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no manifest of shards ({error}); "
                         "run the stage tokenize again") from None


def shard_to_json(shard: Shard) -> dict[str, Any]:
    """As it stands in manifest.json: the block sums as one string of 8 hex digits each."""
    values = asdict(shard)
    values["crc32"] = "".join(f"{crc:08x}" for crc in shard.crc32)
    return values


def shard_from_json(values: dict[str, Any]) -> Shard:
    """The reverse of :func:`shard_to_json`."""
    digits = values["crc32"]
    crcs = tuple(int(digits[n:n + 8], 16) for n in range(0, len(digits), 8))
    return Shard(**{**values, "crc32": crcs})
