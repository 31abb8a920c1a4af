"""Raw parts to shards: cut, encode, hold out, write, vouch."""

import functools
from pathlib import Path

import numpy as np
from tqdm import tqdm

from reprogpt.config import RuntimeConfig, TokenizeConfig
from reprogpt.data.raw_text import Meta, read_meta
from reprogpt.encoding.chunks import (
    PIECE_BYTES,
    Encoded,
    Job,
    Piece,
    cut,
    encode_piece,
    without_unknown,
)
from reprogpt.encoding.encoder import encoder
from reprogpt.encoding.import_shards import adopt
from reprogpt.encoding.shard_plan import (
    Planner,
    ShardPlan,
    cached_shard,
    drop_used,
    make_shard,
    place_shard,
)
from reprogpt.encoding.slurm_executor import Tasks
from reprogpt.encoding.train_val_split import Decide, splitter, tail_cut
from reprogpt.errors import ConfigError
from reprogpt.runtime.workers import Processes, worker_count
from reprogpt.storage.files import make_empty
from reprogpt.tokens.manifest import Manifest, Shard, Totals, write_manifest
from reprogpt.tokens.tokenizers import CharTokenizer, Tokenizer, gpt2_tokenizer

SMALL = 8 << 20
"""Bytes of text that one process has encoded before others have started."""


def tokenize(cfg: TokenizeConfig, raw_dir: Path, out_dir: Path,
             runtime: RuntimeConfig | None = None, piece_bytes: int = PIECE_BYTES) -> Manifest:
    """Writes the raw corpus as shards, manifest.json and tokenizer/ to ``out_dir``.

    The bytes depend on ``cfg`` and the raw text alone, not on ``runtime`` or ``piece_bytes``.
    Raises ConfigError when the split leaves a side empty, or held-out text has a character that
    the vocabulary has not.
    """
    meta = read_meta(raw_dir)
    if "shards" in meta.extra:
        return _adopt(cfg, meta, out_dir)
    workers = worker_count(runtime.workers if runtime else 1)
    choice = runtime.encoder if runtime else "auto"
    fast = encoder(cfg.encoding, choice)  # one that cannot be had fails here, at once
    cut_at = tail_cut(cfg, raw_dir, meta, fast.text)
    # A lone document that is cut in two needs no separator (and nanoGPT's has none).
    eot = cfg.encoding == "gpt2" and not (cut_at and meta.documents == 1)
    job = Job(str(raw_dir), cfg.encoding, eot, choice, fast.fingerprint)
    pieces = list(cut(raw_dir, meta, cut_at, piece_bytes, cfg.encoding))
    with Processes(1 if meta.bytes < SMALL else workers) as processes:
        apart = runtime is not None and runtime.tokenize_executor != "local"
        executor = Tasks(runtime, workers) if runtime and apart else processes
        results = _encode(job, pieces, executor, meta.bytes)
        decide = splitter(cfg, raw_dir, meta, cut_at, zip(pieces, results, strict=True))
        tokenizer: Tokenizer
        if cfg.encoding == "char":
            results, decide, tokenizer, unknown = _characters(cfg, pieces, results, decide)
        else:
            tokenizer, unknown = gpt2_tokenizer(), 0
        plans, totals = _plan(cfg, pieces, results, decide, tokenizer)
        if unknown:
            totals["val"].dropped["unknown_characters"] = unknown
        _check_sides(cfg, totals)
        shards = _make(job, plans, dict(zip(results, pieces, strict=True)), processes)
    make_empty(out_dir)
    shards = [place_shard(plan, shard, out_dir, cfg.track)
              for plan, shard in zip(plans, shards, strict=True)]
    manifest = _finish(out_dir, shards, totals, tokenizer, meta)
    if cfg.encoding == "gpt2":
        drop_used(plans, cfg.shard_tokens)
    return manifest


def _adopt(cfg: TokenizeConfig, meta: Meta, out_dir: Path) -> Manifest:
    if cfg.encoding != "gpt2":
        raise ConfigError(f"params.yaml: tokenize.encoding={cfg.encoding!r} must be gpt2 for the "
                          "corpus shards, whose tokens are GPT-2's; set it to gpt2")
    make_empty(out_dir)
    tokenizer = gpt2_tokenizer()
    shards, totals = adopt(meta, out_dir, tokenizer, cfg.track)
    return _finish(out_dir, shards, totals, tokenizer, meta)


def _encode(job: Job, pieces: list[Piece], executor: Processes | Tasks, size: int) -> list[Encoded]:
    results = []
    with tqdm(desc="tokenize", total=size, unit="B", unit_scale=True) as bar:
        done = executor.map(functools.partial(encode_piece, job), pieces)
        for piece, encoded in zip(pieces, done, strict=True):
            results.append(encoded)
            bar.update(piece.end - piece.start)
    return results


def _characters(cfg: TokenizeConfig, pieces: list[Piece], results: list[Encoded],
                decide: Decide) -> tuple[list[Encoded], Decide, CharTokenizer, int]:
    """Encoding char once the split is known: its vocabulary, and how many unknown were dropped."""
    held = [decide(p, r.documents()) for p, r in zip(pieces, results, strict=True)]
    sides = dict(zip(pieces, held, strict=True))
    characters = _vocabulary(results, held)
    if not characters:
        raise ConfigError("params.yaml: tokenize.split must leave text to train on; hold out less")
    tokenizer = CharTokenizer(characters, cfg.unknown)
    results, unknown = _check_unknown(results, held, tokenizer)
    return results, lambda piece, _: sides[piece], tokenizer, unknown


def _vocabulary(results: list[Encoded], held: list[np.ndarray]) -> str:
    """The distinct characters of the training text."""
    seen = np.zeros(0x110000, bool)
    for encoded, out in zip(results, held, strict=True):
        seen[encoded.load()[~_token_sides(encoded, out)]] = True
    return "".join(map(chr, np.flatnonzero(seen)))


def _token_sides(encoded: Encoded, held: np.ndarray) -> np.ndarray:
    """(tokens,) bool: held out or not, from the same per document."""
    return np.repeat(held, np.diff(encoded.documents()[:, 0], prepend=0))


def _check_unknown(results: list[Encoded], held: list[np.ndarray],
                   tokenizer: CharTokenizer) -> tuple[list[Encoded], int]:
    """The pieces without the held-out characters that training never saw; how many there were.

    Raises ValueError when tokenize.unknown is error.
    """
    kept, dropped = [], 0
    for encoded, out in zip(results, held, strict=True):
        if out.any():
            points = encoded.load()[_token_sides(encoded, out)]
            try:
                known = len(tokenizer.encode_points(points))
            except ValueError as error:
                raise ConfigError(f"held-out text: {error}") from None
            if known < len(points):
                dropped += len(points) - known
                encoded = without_unknown(encoded, tokenizer.characters)
        kept.append(encoded)
    return kept, dropped


def _plan(cfg: TokenizeConfig, pieces: list[Piece], results: list[Encoded], decide: Decide,
          tokenizer: Tokenizer) -> tuple[list[ShardPlan], dict[str, Totals]]:
    characters = tokenizer.characters if isinstance(tokenizer, CharTokenizer) else ""
    planner = Planner(cfg.shard_tokens, characters)
    side = None
    for piece, encoded in zip(pieces, results, strict=True):
        documents = encoded.documents()
        held = decide(piece, documents)
        planner.add(encoded, documents, held, piece.opens, piece.opens or bool(held[0]) != side)
        side = bool(held[-1])
    return planner.finish()


def _check_sides(cfg: TokenizeConfig, totals: dict[str, Totals]) -> None:
    for split, total in totals.items():
        if not total.tokens:
            size = (f"val_fraction={cfg.val_fraction}" if cfg.val_fraction
                    else f"val_tokens={cfg.val_tokens}")
            fix = "raise" if split == "val" else "lower"
            other = "" if cfg.split == "tail" else ", or use split: tail"
            raise ConfigError(f"params.yaml: tokenize.{size} must leave text on both sides, and "
                              f"with split '{cfg.split}' {split} has none; {fix} it, or take more "
                              f"text{other}")


def _make(job: Job, plans: list[ShardPlan], pieces: dict[Encoded, Piece],
          processes: Processes) -> list[Shard]:
    """Every shard, from the cache where it is there."""
    found = {plan: cached_shard(plan) for plan in tqdm(plans, desc="shards in cache", delay=1)}
    missing = [plan for plan, shard in found.items() if shard is None]
    needed = {piece for plan in missing for piece, _, _ in plan.segments}
    gone = [pieces[p] for p in pieces if p in needed and not p.path.with_suffix(".bin").is_file()]
    again = processes.map(functools.partial(encode_piece, job, force=True), gone)
    for _ in tqdm(again, total=len(gone), desc="tokenize again", delay=1):
        pass
    made = processes.map(make_shard, missing)
    found.update(zip(missing, tqdm(made, total=len(missing), desc="shards", delay=1),
                     strict=True))
    return [shard for shard in found.values() if shard is not None]


def _finish(out_dir: Path, shards: list[Shard], totals: dict[str, Totals], tokenizer: Tokenizer,
            meta: Meta) -> Manifest:
    tokenizer.save(out_dir / "tokenizer")
    manifest = Manifest(
        tuple(shards), totals,
        {"name": tokenizer.name, "n_vocab": tokenizer.n_vocab,
         "fingerprint": tokenizer.fingerprint},
        {"name": meta.corpus, "revision": meta.revision},
    )
    write_manifest(out_dir, manifest)
    return manifest
