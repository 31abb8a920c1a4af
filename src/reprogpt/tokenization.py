"""Raw parts to shards: encode, hold out, write, vouch."""

import hashlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from reprogpt.config import TokenizeConfig
from reprogpt.params_file import ConfigError
from reprogpt.raw import Document, Meta, read_documents, read_meta
from reprogpt.shards import Manifest, ShardWriter, Totals, write_manifest
from reprogpt.tokenizers import CharTokenizer, Tokenizer, gpt2_tokenizer


def tokenize(cfg: TokenizeConfig, raw_dir: Path, out_dir: Path,
             workers: int | str = "auto") -> Manifest:
    """Writes the raw corpus as shards, manifest.json and tokenizer/ to ``out_dir``."""
    meta = read_meta(raw_dir)
    documents = list(read_documents(raw_dir, meta))
    held_out = _held_out(cfg, documents)
    tokenizer: Tokenizer
    if cfg.encoding == "char":
        seen = set().union(*(d.text for d, v in zip(documents, held_out, strict=True) if not v))
        tokenizer = CharTokenizer("".join(seen), cfg.unknown)
    else:
        tokenizer = gpt2_tokenizer()
    out_dir.mkdir(parents=True, exist_ok=True)
    manifest = _write(cfg, out_dir, meta, documents, held_out, tokenizer)
    tokenizer.save(out_dir / "tokenizer")
    write_manifest(out_dir, manifest)
    return manifest


def _held_out(cfg: TokenizeConfig, documents: list[Document]) -> list[bool]:
    assert cfg.val_fraction is not None
    draws = [_draw(d.text, cfg.split_seed) for d in documents]
    held = [draw < cfg.val_fraction for draw in draws]
    if len(documents) < 2:
        raise ConfigError("params.yaml: tokenize.split='hash' must have two documents or more to "
                          "choose from; use split: tail")
    if not any(held):
        held[int(np.argmin(draws))] = True
    return held


def _draw(text: str, seed: int) -> float:
    """A number in [0, 1) out of a document's content: the same wherever the document stands."""
    digest = hashlib.sha256(f"{seed}:".encode() + text.encode("utf-8"))
    return int.from_bytes(digest.digest()[:8], "big") / 2**64


def _write(cfg: TokenizeConfig, out_dir: Path, meta: Meta, documents: list[Document],
           held_out: list[bool], tokenizer: Tokenizer) -> Manifest:
    shards, totals = [], {}
    with tqdm(desc="tokenize", total=meta.bytes, unit="B", unit_scale=True) as bar:
        for split, wanted in (("train", False), ("val", True)):
            writer = ShardWriter(out_dir, split, cfg.shard_tokens)
            count = size = empty = 0
            for document, held in zip(documents, held_out, strict=True):
                if held != wanted:
                    continue
                if not document.text:
                    empty += 1
                    continue
                writer.document()
                if tokenizer.eot is not None:
                    writer.write(np.array([tokenizer.eot], np.uint16))
                writer.write(tokenizer.encode(document.text))
                count += 1
                size += len(document.text.encode())
                bar.update(len(document.text.encode()))
            done = writer.close()
            shards += done
            totals[split] = Totals(count, sum(s.tokens for s in done), size, {"empty": empty})
    return Manifest(
        tuple(shards), totals,
        {"name": tokenizer.name, "n_vocab": tokenizer.n_vocab,
         "fingerprint": tokenizer.fingerprint},
        {"name": meta.corpus, "revision": meta.revision},
    )
