"""Encoded chunks to shards: a plan of which tokens go where, and the shards made from it.

A shard is cached under its plan, outside the outs, so a corpus that grew rewrites only its last.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from reprogpt.encoding.chunks import Encoded, Settings
from reprogpt.runtime.progress import progress
from reprogpt.runtime.workers import Processes
from reprogpt.storage.files import link_or_copy, make_empty, write_json
from reprogpt.tokens.manifest import Shard, Totals, cached_shard_path
from reprogpt.tokens.shards import verify_shard, write_shard

Run = tuple[Encoded, int, int, np.ndarray]
"""Tokens [start, end) of a chunk, and the tokens of it at which documents begin."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard: tokens [start, end) of each of these chunks."""

    name: str
    split: str
    segments: tuple[tuple[Encoded, int, int], ...]
    documents: int
    """Those that begin in it."""

    @property
    def tokens(self) -> int:
        return sum(end - start for _, start, end in self.segments)

    @functools.cached_property
    def key(self) -> str:
        parts = [[chunk.key, start, end] for chunk, start, end in self.segments]
        return hashlib.sha256(json.dumps(["shard 2", self.documents, parts]).encode()).hexdigest()

    @property
    def path(self) -> Path:
        return cached_shard_path(self.key)


def plan_shards(results: Sequence[Encoded], held: Sequence[np.ndarray], shard_tokens: int,
                numbers: Mapping[str, int]) -> tuple[list[ShardPlan], dict[str, Totals]]:
    """The shards of both splits and their totals; ``held`` says which documents are held out, and
    ``numbers`` what a split's first shard is called."""
    runs: dict[str, list[Run]] = {"train": [], "val": []}
    sums = {split: np.zeros(3, np.int64) for split in runs}  # documents, bytes, empty documents
    previous = None
    for encoded, out in zip(results, held, strict=True):
        documents = encoded.documents()
        filled = documents[:, 1] > 0
        starts = np.concatenate(([0], documents[:-1, 0]))
        edges = [0, *(np.flatnonzero(np.diff(out)) + 1).tolist(), len(out)]
        for first, last in pairwise(edges):  # documents of one side
            split = "val" if out[first] else "train"
            begun = filled[first:last].copy()
            counted, empty = int(begun.sum()), int((~begun).sum())
            if first == 0 and not encoded.chunk.opens and begun[0]:  # goes on with a document,
                begun[0] = False
                counted -= previous == out[0]  # which counts once in each split
            sums[split] += (counted, documents[first:last, 1].sum(), empty)
            runs[split].append((encoded, int(starts[first]), int(documents[last - 1, 0]),
                                starts[first:last][begun]))
        previous = out[-1]
    plans = {split: list(_shards(split, runs[split], shard_tokens, numbers[split]))
             for split in runs}
    totals = {split: Totals(int(documents), sum(plan.tokens for plan in plans[split]), int(size),
                            {"empty": int(empty)})
              for split, (documents, size, empty) in sums.items()}
    return plans["train"] + plans["val"], totals


def _shards(split: str, runs: Iterable[Run], shard_tokens: int, number: int
            ) -> Iterator[ShardPlan]:
    """The runs of a split as shards of ``shard_tokens`` each, the last shorter."""
    held = begun = 0
    segments: list[tuple[Encoded, int, int]] = []
    for encoded, start, end, begins in runs:
        while start < end:
            if held == shard_tokens:
                yield ShardPlan(f"{split}_{number:06d}.bin", split, tuple(segments), begun)
                number, held, begun, segments = number + 1, 0, 0, []
            stop = min(end, start + shard_tokens - held)
            segments.append((encoded, start, stop))
            begun += int(np.diff(np.searchsorted(begins, (start, stop)))[0])
            held, start = held + stop - start, stop
    if segments:
        yield ShardPlan(f"{split}_{number:06d}.bin", split, tuple(segments), begun)


def write_shards(settings: Settings, plans: Sequence[ShardPlan], processes: Processes,
                 out_dir: Path, track: str) -> list[Shard]:
    """Puts the shards and their masks into ``out_dir``, which is emptied first. With ``track``
    manifest they stay in the cache, and the manifest says so."""
    jobs = processes.map(functools.partial(_shard, settings), plans)
    shards = list(progress(jobs, "shards", len(plans), unit=" shards", delay=1))
    make_empty(out_dir)
    if track == "manifest":
        return [replace(shard, path=f"cache:{plan.key}")
                for plan, shard in zip(plans, shards, strict=True)]
    for plan in plans:
        for file in (plan.path, plan.path.with_suffix(".mask")):
            if file.is_file():
                link_or_copy(file, (out_dir / plan.name).with_suffix(file.suffix))
    return shards


def _shard(settings: Settings, plan: ShardPlan) -> Shard:
    """The shard of a plan, which is then in the cache, verified. Runs in any process."""
    record = plan.path.with_suffix(".json")
    try:
        shard = Shard(**json.loads(record.read_bytes()))
        verify_shard(plan.path, shard, "full")
    except (OSError, ValueError, TypeError):
        tokens = (_loaded(settings, chunk, "tokens")[a:b] for chunk, a, b in plan.segments)
        masks = (_loaded(settings, chunk, "mask")[a:b] for chunk, a, b in plan.segments)
        masked = plan.segments[0][0].chunk.part.masked
        shard = write_shard(plan.path, plan.split, tokens, plan.tokens, plan.documents,
                            masks if masked else None)
        write_json(record, asdict(shard))
    return replace(shard, name=plan.name, split=plan.split)


@functools.lru_cache(maxsize=1)  # neighbouring segments are mostly of one chunk
def _loaded(settings: Settings, chunk: Encoded, field: str) -> np.ndarray:
    return chunk.load(settings, field)
