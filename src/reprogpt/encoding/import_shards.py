"""Shards that others made, checked and taken over without tokenizing again.

llm.c's and modded-nanogpt's `.bin` (shard_format.py) and build-nanogpt's `.npy` (a plain
uint16 array). A file with `val` in its name is held out; all others are trained on.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reprogpt.data.raw_text import Meta
from reprogpt.errors import ConfigError
from reprogpt.storage.files import replacing, sha256_of
from reprogpt.storage.paths import local_path
from reprogpt.tokens.manifest import Shard, Totals
from reprogpt.tokens.shard_format import open_tokens
from reprogpt.tokens.shards import checksums_of, write_shard
from reprogpt.tokens.tokenizers import GPT2_EOT, Tokenizer

_CHUNK = 1 << 22  # tokens looked at a time


def adopt(meta: Meta, out_dir: Path, tokenizer: Tokenizer,
          track: str) -> tuple[list[Shard], dict[str, Totals]]:
    """Puts the surveyed shards under our names into ``out_dir``; with ``track`` manifest, those
    that are in our format stay where they are.

    Raises ConfigError when a file has changed since, or holds ids that are not GPT-2's.
    """
    shards: list[Shard] = []
    totals = {}
    sizes = tokenizer.token_bytes()
    for split in ("train", "val"):
        mine = [s for s in meta.extra["shards"] if s["split"] == split]
        documents = size = 0
        for number, entry in enumerate(mine):
            path = local_path(entry["path"])
            if not path.is_file() or sha256_of(path) != entry["sha256"]:
                raise ConfigError(f"{path}: is gone or has changed; run the stage download again")
            found, text = _count(path, sizes)
            documents, size = documents + found, size + text
            name = f"{split}_{number:06d}.bin"
            shards.append(_take(path, out_dir / name, split, found, entry, track))
        totals[split] = Totals(documents, sum(s["tokens"] for s in mine), size, {"empty": 0})
    return shards, totals


def _take(path: Path, target: Path, split: str, documents: int, entry: dict[str, Any],
          track: str) -> Shard:
    tokens = open_tokens(path)
    if path.suffix == ".npy":
        return write_shard(target, split, _chunks(tokens), len(tokens), documents)
    sums = checksums_of(path)
    shard = Shard(target.name, split, len(tokens), documents, sums.sha256, sums.crc32)
    if track == "manifest":
        return replace(shard, path=entry["path"])
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)
    return shard


def _count(path: Path, sizes: np.ndarray) -> tuple[int, int]:
    """Documents and bytes of text in a shard. Raises ConfigError for an id that is not GPT-2's."""
    documents = size = 0
    for chunk in _chunks(open_tokens(path)):
        top = int(chunk.max(initial=0))
        if top >= len(sizes):
            raise ConfigError(f"{path}: holds the token id {top}; GPT-2 has {len(sizes)}: shards "
                              "of another tokenizer cannot be adopted")
        documents += int((chunk == GPT2_EOT).sum())
        size += int(sizes[chunk].sum())
    return documents, size


def _chunks(tokens: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(tokens), _CHUNK):
        yield np.asarray(tokens[start:start + _CHUNK])
