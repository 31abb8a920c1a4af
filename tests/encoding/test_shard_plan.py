"""Shards from chunks: kept in the cache between runs, made again where they are lost or damaged."""

import shutil
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprogpt.data.raw_text import Part
from reprogpt.encoding.chunks import Chunk
from reprogpt.encoding.shard_plan import plan_shards
from reprogpt.encoding.tokenize_corpus import tokenize
from reprogpt.tokens.shards import TokenStream
from tests.encoding.small_corpora import config, documents_of, raw, stream


def test_a_grown_corpus_keeps_its_validation_set_and_its_full_shards(tmp_path):
    texts = [f"{n} bottles of beer on the wall, " * (n % 7 + 1) for n in range(300)]
    small = raw(tmp_path / "small", texts[:150])
    large = raw(tmp_path / "large", texts)
    a = tokenize(config(val_fraction=0.05), small, tmp_path / "a", chunk_bytes=1000)
    held = documents_of(stream(tmp_path / "a", "val"))
    b = tokenize(config(val_fraction=0.05), large, tmp_path / "b", chunk_bytes=1000)
    held_now = documents_of(stream(tmp_path / "b", "val"))
    assert [d.tolist() for d in held] == [d.tolist() for d in held_now[:len(held)]]
    full = [s for s in a.of("train") if s.tokens == 1024]
    assert len(full) > 3
    assert list(b.of("train")[:len(full)]) == full
    one = tmp_path / "a/train_000000.bin"
    assert one.stat().st_ino == (tmp_path / "b/train_000000.bin").stat().st_ino


def test_dropped_tokens_are_encoded_again_when_a_shard_is_lost(tmp_path):
    folder = raw(tmp_path / "raw", [f"text number {n}, " * 200 for n in range(20)])
    first = tokenize(config(), folder, tmp_path / "out", chunk_bytes=2000)
    assert not list((tmp_path / "cache/chunks").rglob("*.tokens.npz"))
    shutil.rmtree(tmp_path / "cache/shards")
    assert tokenize(config(), folder, tmp_path / "out", chunk_bytes=2000) == first


def test_a_damaged_cache_is_noticed(tmp_path):
    folder = raw(tmp_path / "raw", [f"text number {n}, " * 200 for n in range(20)])
    first = tokenize(config(), folder, tmp_path / "out")
    for path in (tmp_path / "cache/shards").rglob("*.bin"):
        data = bytearray(path.read_bytes())
        data[1026] ^= 1
        path.unlink()
        path.write_bytes(bytes(data))
    assert tokenize(config(), folder, tmp_path / "out") == first
    TokenStream(tmp_path / "out", "train", "full")


@given(sizes=st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=8),
                      min_size=1, max_size=6), shard_tokens=st.integers(1, 12))
def test_any_plan_takes_every_token_once_and_counts_every_document(sizes, shard_tokens):
    """Chunks of documents of these many tokens, each held out or not, against plain lists."""
    part = Part("part_000000", 0, 0, "")
    results, held, streams = [], [], {"train": [], "val": []}
    for n, documents in enumerate(sizes):
        tokens = np.array([size for size, _ in documents])
        table = np.stack((np.cumsum(tokens), tokens, tokens), axis=1)
        results.append(KnownChunk(Chunk(part, 0, 0, 0, 0, True), str(n), table))
        held.append(np.array([out for _, out in documents]))
        start = 0
        for size, out in documents:
            streams["val" if out else "train"] += [(n, start + k, k == 0) for k in range(size)]
            start += size
    plans, totals = plan_shards(results, held, shard_tokens, Counter())
    for split, stream_ in streams.items():
        mine = [plan for plan in plans if plan.split == split]
        assert [plan.name for plan in mine] == [f"{split}_{n:06d}.bin" for n in range(len(mine))]
        for number, plan in enumerate(mine):
            wanted = stream_[number * shard_tokens:][:shard_tokens]
            got = [(int(c.key), k) for c, a, b in plan.segments for k in range(a, b)]
            assert got == [(n, k) for n, k, _ in wanted]
            assert plan.documents == sum(first for *_, first in wanted)
        assert sum(plan.tokens for plan in mine) == totals[split].tokens == len(stream_)
        assert totals[split].documents == sum(first for *_, first in stream_)


@dataclass(frozen=True, eq=False)
class KnownChunk:
    """What a plan asks of an encoded chunk, without a cache."""

    chunk: Chunk
    key: str
    table: np.ndarray

    def documents(self) -> np.ndarray:
        return self.table


def test_tracking_only_the_manifest_leaves_shards_in_the_cache(tmp_path):
    folder = raw(tmp_path / "raw", [f"text number {n}, " * 60 for n in range(30)])
    tokenize(config(val_fraction=0.1), folder, tmp_path / "a")
    tokenize(config(val_fraction=0.1, track="manifest"), folder, tmp_path / "b")
    assert list((tmp_path / "b").glob("*.bin")) == []
    a, b = (TokenStream(tmp_path / f, "train", "full") for f in "ab")
    assert np.array_equal(a.read(0, a.n_tokens), b.read(0, b.n_tokens))
    path = b.shards[1].file(tmp_path / "b")
    path.unlink()
    with pytest.raises(ValueError, match="is in the manifest but not on the disk"):
        TokenStream(tmp_path / "b", "train")
