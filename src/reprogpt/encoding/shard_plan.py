"""Encoded pieces to shards: a plan of which tokens go where, and the shards made from it.

A shard is cached under its plan (pieces by content, and the ranges taken), outside the outs, so a
corpus that grew rewrites only its last shard.
"""

import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from reprogpt.encoding.chunks import Encoded
from reprogpt.storage.files import link_or_copy, write_json
from reprogpt.tokens.manifest import Shard, Totals, cached_shard_path
from reprogpt.tokens.shards import checksums_of, write_shard
from reprogpt.tokens.tokenizers import CharTokenizer


@dataclass(frozen=True)
class ShardPlan:
    """One shard: tokens [start, end) of each of these pieces."""

    name: str
    split: str
    segments: tuple[tuple[Encoded, int, int], ...]
    documents: int
    characters: str
    """The vocabulary of encoding char; empty for gpt2."""

    @property
    def tokens(self) -> int:
        return sum(end - start for _, start, end in self.segments)

    @property
    def key(self) -> str:
        parts = [[piece.key, start, end] for piece, start, end in self.segments]
        text = json.dumps(["shard 1", self.characters, self.documents, parts])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def path(self) -> Path:
        return cached_shard_path(self.key)


@dataclass
class _Side:
    """One split while it is being planned."""

    split: str
    shard_tokens: int
    characters: str
    plans: list[ShardPlan] = field(default_factory=list)
    segments: list[tuple[Encoded, int, int]] = field(default_factory=list)
    held: int = 0
    begun: int = 0
    documents: int = 0
    bytes: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: {"empty": 0})

    def add(self, piece: Encoded, start: int, end: int, begins: np.ndarray) -> None:
        """Tokens [start, end) of a piece, in which documents begin at ``begins``."""
        while start < end:
            if self.held == self.shard_tokens:
                self.flush()
            stop = min(end, start + self.shard_tokens - self.held)
            self.segments.append((piece, start, stop))
            self.begun += int(np.searchsorted(begins, stop) - np.searchsorted(begins, start))
            self.held += stop - start
            start = stop

    def flush(self) -> None:
        if self.segments:
            name = f"{self.split}_{len(self.plans):06d}.bin"
            self.plans.append(ShardPlan(name, self.split, tuple(self.segments), self.begun,
                                        self.characters))
        self.segments, self.held, self.begun = [], 0, 0

    @property
    def totals(self) -> Totals:
        return Totals(self.documents, sum(plan.tokens for plan in self.plans), self.bytes,
                      self.dropped)


class Planner:
    """Collects runs of documents, piece by piece, into the shards of both splits."""

    def __init__(self, shard_tokens: int, characters: str = ""):
        self.sides = {split: _Side(split, shard_tokens, characters) for split in ("train", "val")}

    def add(self, piece: Encoded, documents: np.ndarray, held: np.ndarray, opens: bool,
            counted: bool) -> None:
        """One piece: its documents (n, 3), which of them are held out (n,) bool.

        ``opens``: its first document begins in it; ``counted``: it counts as a document of its
        split even if not (the first stretch on the other side of a cut).
        """
        ends = documents[:, 0]
        starts = np.concatenate(([0], ends[:-1]))
        filled = documents[:, 1] > 0
        edges = np.flatnonzero(np.diff(held)) + 1
        for first, last in zip([0, *edges], [*edges, len(held)], strict=True):
            side = self.sides["val" if held[first] else "train"]
            mine = np.zeros(len(ends), bool)
            mine[first:last] = filled[first:last]
            fresh = mine.copy()
            fresh[0] &= opens
            side.add(piece, int(starts[first]), int(ends[last - 1]), starts[fresh])
            mine[0] &= counted
            side.documents += int(mine.sum())
            side.bytes += int(documents[first:last, 1].sum())
            side.dropped["empty"] += int((~filled[first:last]).sum())

    def finish(self) -> tuple[list[ShardPlan], dict[str, Totals]]:
        for side in self.sides.values():
            side.flush()
        plans = [plan for side in self.sides.values() for plan in side.plans]
        return plans, {split: side.totals for split, side in self.sides.items()}


def cached_shard(plan: ShardPlan) -> Shard | None:
    """The shard of a plan out of the cache, its bytes verified; None when it is not there."""
    record = plan.path.with_suffix(".json")
    if not (record.is_file() and plan.path.is_file()):
        return None
    shard = Shard(**json.loads(record.read_bytes()))
    mask = plan.path.with_suffix(".mask")
    good = checksums_of(plan.path).sha256 == shard.sha256 and (
        shard.mask_sha256 is None
        or (mask.is_file() and hashlib.sha256(mask.read_bytes()).hexdigest() == shard.mask_sha256))
    if not good:
        record.unlink()
        return None
    return replace(shard, name=plan.name, split=plan.split)


def make_shard(plan: ShardPlan) -> Shard:
    """Writes the shard of a plan into the cache. Runs in any process."""
    masked = any(piece.masked for piece, _, _ in plan.segments)
    chunks = (_ids(piece, start, end, plan.characters) for piece, start, end in plan.segments)
    masks = (_cached_mask(piece)[start:end] for piece, start, end in plan.segments)
    shard = write_shard(plan.path, plan.split, chunks, plan.tokens, plan.documents,
                        masks if masked else None)
    shard = replace(shard, name=plan.name)
    write_json(plan.path.with_suffix(".json"), asdict(shard))
    return shard


def place_shard(plan: ShardPlan, shard: Shard, out_dir: Path, track: str) -> Shard:
    """Puts a cached shard, and its mask, under its own name in the out.

    With ``track`` manifest it stays in the cache, and the manifest says so.
    """
    if track == "manifest":
        return replace(shard, path=f"cache:{plan.key}")
    link_or_copy(plan.path, out_dir / shard.name)
    if shard.mask_sha256:
        link_or_copy(plan.path.with_suffix(".mask"), (out_dir / shard.name).with_suffix(".mask"))
    return shard


def _ids(piece: Encoded, start: int, end: int, characters: str) -> np.ndarray:
    tokens = _cached_tokens(piece)[start:end]
    return _char_tokenizer(characters).encode_points(tokens) if characters else tokens


# Neighbouring segments are mostly of one piece.
@functools.lru_cache(maxsize=2)
def _cached_tokens(piece: Encoded) -> np.ndarray:
    return piece.load()


@functools.lru_cache(maxsize=2)
def _cached_mask(piece: Encoded) -> np.ndarray:
    return piece.load_mask()


@functools.lru_cache(maxsize=1)
def _char_tokenizer(characters: str) -> CharTokenizer:
    return CharTokenizer(characters)


def drop_used(plans: Iterable[ShardPlan], shard_tokens: int) -> None:
    """Frees the tokens of pieces that lie wholly in full shards: those never change again."""
    ends: dict[str, int] = {}
    pieces: dict[str, Encoded] = {}
    for plan in plans:
        for piece, start, end in plan.segments:
            pieces[piece.key] = piece
            if plan.tokens == shard_tokens:
                ends[piece.key] = ends.get(piece.key, 0) + end - start
    for key, piece in pieces.items():
        if ends.get(key) == piece.tokens:
            piece.drop()
