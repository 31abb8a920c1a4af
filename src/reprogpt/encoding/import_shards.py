"""Shards that others made, checked and taken over without tokenizing again.

llm.c's and modded-nanogpt's `.bin` (shard_format.py) and build-nanogpt's `.npy` (a plain uint16
array). A file with `val` in its name is held out; all others are trained on.
"""

from pathlib import Path

import numpy as np

from reprogpt.config import TokenizeConfig
from reprogpt.data.raw_text import Meta
from reprogpt.errors import ConfigError
from reprogpt.storage.files import make_empty
from reprogpt.storage.paths import local_path
from reprogpt.tokens.manifest import Shard, Totals
from reprogpt.tokens.shard_format import open_tokens
from reprogpt.tokens.shards import checksums_of, write_shard
from reprogpt.tokens.tokenizers import GPT2_EOT, gpt2_tokenizer

_BLOCK = 1 << 22  # tokens read at a time


def adopt(cfg: TokenizeConfig, meta: Meta,
          out_dir: Path) -> tuple[list[Shard], dict[str, Totals]]:
    """Puts the shards that the stage download found into ``out_dir`` under our names; with
    ``cfg.track`` manifest, those in llm.c's format stay where they are.

    Raises ConfigError when a file has changed since, or holds ids that are not GPT-2's.
    """
    if cfg.encoding != "gpt2":
        raise ConfigError(f"params.yaml: tokenize.encoding={cfg.encoding!r} must be gpt2 for the "
                          "corpus shards, whose tokens are GPT-2's; set it to gpt2")
    make_empty(out_dir)
    shards: list[Shard] = []
    totals = {}
    for split in ("train", "val"):
        entries = [s for s in meta.extra["shards"] if s["split"] == split]
        documents = size = 0
        for number, entry in enumerate(entries):
            path, target = local_path(entry["path"]), out_dir / f"{split}_{number:06d}.bin"
            if not path.is_file() or (sums := checksums_of(path))[0] != entry["sha256"]:
                raise ConfigError(f"{path}: is gone or has changed; run the stage download again")
            tokens = open_tokens(path)
            begun, text = _count(path, tokens)
            documents, size = documents + begun, size + text
            if path.suffix == ".npy" or cfg.track != "manifest":
                shards.append(write_shard(target, split, [tokens], len(tokens), begun))
            else:
                shards.append(Shard(target.name, split, len(tokens), begun, *sums,
                                    path=entry["path"]))
        totals[split] = Totals(documents, sum(s["tokens"] for s in entries), size, {"empty": 0})
    return shards, totals


def _count(path: Path, tokens: np.ndarray) -> tuple[int, int]:
    """Documents and bytes of text in a shard. Raises ConfigError for an id that is not GPT-2's."""
    documents = size = 0
    sizes = gpt2_tokenizer().token_bytes()
    for start in range(0, len(tokens), _BLOCK):
        block = tokens[start:start + _BLOCK]
        if (top := int(block.max(initial=0))) >= len(sizes):
            raise ConfigError(f"{path}: holds the token id {top}; GPT-2 has {len(sizes)}: shards "
                              "of another tokenizer cannot be adopted")
        documents += int((block == GPT2_EOT).sum())
        size += int(sizes[block].sum())
    return documents, size
