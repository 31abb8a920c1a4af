"""Stage tokenize: chunk, encode, split train/val, write shards, then the manifest."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from reprogpt.config import RuntimeConfig, TokenizeConfig
from reprogpt.data.raw_text import Meta, check_part, read_meta
from reprogpt.encoding.chunks import (
    CHUNK_BYTES,
    Encoded,
    Settings,
    chunks_of,
    encode_chunk,
    read_chunk,
)
from reprogpt.encoding.encoder import choose_encoder
from reprogpt.encoding.import_shards import adopt
from reprogpt.encoding.shard_plan import ShardPlan, plan_shards, write_shards
from reprogpt.encoding.slurm_executor import run_tasks
from reprogpt.encoding.train_bpe import train_bpe, training_text
from reprogpt.encoding.train_val_split import held_out, tail_boundary
from reprogpt.errors import ConfigError
from reprogpt.runtime.progress import progress
from reprogpt.runtime.workers import Processes, worker_count
from reprogpt.storage.paths import cache_dir
from reprogpt.tokens.manifest import Manifest, Shard, Totals, sum_totals, write_manifest
from reprogpt.tokens.tokenizers import BpeTokenizer, CharTokenizer, Tokenizer, gpt2_tokenizer

SMALL = 128 << 20
"""Bytes of text that one process has encoded before others have started and loaded."""
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16  # of a corpus, encoded by tiktoken too


def tokenize(cfg: TokenizeConfig, raw_dir: Path, out_dir: Path,
             runtime: RuntimeConfig | None = None, chunk_bytes: int = CHUNK_BYTES) -> Manifest:
    """Writes the raw corpus as shards, manifest.json and tokenizer/ to ``out_dir``.

    The bytes depend on ``cfg`` and the raw text alone, not on ``runtime`` or ``chunk_bytes``.
    Raises ConfigError when the split leaves a side empty, or held-out text has a character that
    the vocabulary has not; ValueError when the raw text is not what its checksums say.
    """
    meta = read_meta(raw_dir)
    if "shards" in meta.extra:
        return _finish(out_dir, *adopt(cfg, meta, out_dir), gpt2_tokenizer(), meta)
    workers = worker_count(runtime.workers if runtime else 1)
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(partial(check_part, raw_dir), meta.parts))
    boundary = tail_boundary(cfg, raw_dir, meta)
    chunks = list(chunks_of(raw_dir, meta, boundary, chunk_bytes))

    def by_pairs(tokenizer: BpeTokenizer, folder: Path | None = None) -> Settings:
        """How to encode by ``tokenizer``, which lies in ``folder`` (None: GPT-2's)."""
        sample = (read_chunk(raw_dir, chunk, _SAMPLE_BYTES).decode("utf-8", "ignore").encode()
                  for chunk in chunks[::len(chunks) // _SAMPLES + 1])
        encoder = choose_encoder(runtime.encoder if runtime else "auto", tokenizer, sample)
        # A lone document that is divided in two needs no separator (and nanoGPT's has none).
        eot = not (boundary and meta.documents == 1)
        return Settings(raw_dir, encoder, tokenizer.fingerprint, eot, trained=folder)

    def encode_all(settings: Settings) -> list[Encoded]:
        encode = partial(encode_chunk, settings)
        if runtime and runtime.tokenize_executor != "local":
            run_tasks(runtime, workers, encode, chunks)  # into the cache, where the next line looks
        jobs = processes.map(encode, chunks)
        return list(progress(jobs, "tokenize", len(chunks), unit=" chunks"))

    settings = (by_pairs(gpt2_tokenizer()) if cfg.encoding == "gpt2" else
                Settings(raw_dir, "char", "code points") if cfg.encoding == "char" else
                Settings(raw_dir, "none", "documents"))
    with Processes(1 if meta.bytes < SMALL else workers) as processes:
        results = first = encode_all(settings)
        held = [side for one in meta.corpora().values()
                for side in held_out(cfg, raw_dir, one, boundary, _of(one, results))]
        if cfg.encoding == "gpt2":
            tokenizer: Tokenizer = gpt2_tokenizer()
        elif cfg.encoding == "char":
            tokenizer = characters = _char_tokenizer(cfg, settings, results, held)
            settings = replace(settings, characters=characters, fingerprint=tokenizer.fingerprint)
            results = encode_all(settings)
        else:
            tokenizer = train_bpe(training_text(raw_dir, results, held), cfg.vocab_size or 0)
            folder = cache_dir() / "tokenizers" / tokenizer.fingerprint
            tokenizer.save(folder)  # where the workers find it
            settings = by_pairs(tokenizer, folder)
            results = encode_all(settings)
        plans, totals, mix = _plan(cfg, meta, results, held)
        if cfg.encoding == "char" and (dropped := sum(a.tokens - b.tokens for a, b in
                                                      zip(first, results, strict=True))):
            totals["val"].dropped["unknown_characters"] = dropped
        shards = write_shards(settings, plans, processes, out_dir, cfg.track)
    manifest = _finish(out_dir, shards, totals, tokenizer, meta, mix)
    for chunk in {*first, *results}:  # the shards in the cache hold the tokens
        chunk.drop()
    return manifest


def _char_tokenizer(cfg: TokenizeConfig, settings: Settings, results: list[Encoded],
                    held: list[np.ndarray]) -> CharTokenizer:
    """The tokenizer of the training text's characters."""
    seen = np.zeros(0x110000, bool)
    for encoded, out in zip(results, held, strict=True):
        points = np.diff(encoded.documents()[:, 0], prepend=0)  # of each document
        seen[encoded.load(settings)[np.repeat(~out, points)]] = True
    if not seen.any():
        raise ConfigError("params.yaml: tokenize.split must leave text to train on; hold out less")
    return CharTokenizer("".join(map(chr, np.flatnonzero(seen))), cfg.unknown)


def _of(one: Meta, results: list[Encoded]) -> list[Encoded]:
    """The chunks of one corpus of a mixture."""
    names = {part.name for part in one.parts}
    return [encoded for encoded in results if encoded.chunk.part.name in names]


def _plan(cfg: TokenizeConfig, meta: Meta, results: list[Encoded], held: list[np.ndarray]
          ) -> tuple[list[ShardPlan], dict[str, Totals], dict[str, list[str]]]:
    """The shards, corpus by corpus; their totals; and of a mixture each corpus's shards by name."""
    plans: list[ShardPlan] = []
    totals: dict[str, list[Totals]] = {"train": [], "val": []}
    mix: dict[str, list[str]] = {}
    rest = iter(held)
    for name, one in meta.corpora().items():
        own = _of(one, results)
        numbers = Counter(plan.split for plan in plans)
        made, sums = plan_shards(own, list(islice(rest, len(own))), cfg.shard_tokens, numbers)
        plans += made
        mix[name] = [plan.name for plan in made]
        for split, total in sums.items():
            totals[split].append(total)
            if not total.tokens:
                key = "val_fraction" if cfg.val_fraction else "val_tokens"
                fix = "raise" if split == "val" else "lower"
                of = f" of {name}" if "mix" in meta.extra else ""
                other = "" if cfg.split == "tail" else ", or use split: tail"
                raise ConfigError(f"params.yaml: tokenize.{key}={getattr(cfg, key)} must leave "
                                  f"text on both sides, and with split '{cfg.split}' {split}{of} "
                                  f"has none; {fix} it, or take more text{other}")
    whole = {split: sum_totals(parts) for split, parts in totals.items()}
    return plans, whole, mix if "mix" in meta.extra else {}


def _finish(out_dir: Path, shards: list[Shard], totals: dict[str, Totals], tokenizer: Tokenizer,
            meta: Meta, mix: dict[str, list[str]] | None = None) -> Manifest:
    """Writes the tokenizer, then the manifest, which vouches for all before it."""
    tokenizer.save(out_dir / "tokenizer")
    manifest = Manifest(
        tuple(shards), totals,
        {"name": tokenizer.name, "n_vocab": tokenizer.n_vocab,
         "fingerprint": tokenizer.fingerprint},
        {"name": meta.corpus, "revision": meta.revision} | ({"mix": mix} if mix else {}),
    )
    write_manifest(out_dir, manifest)
    return manifest
