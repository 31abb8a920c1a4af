"""The loader's promises: every window once an epoch, one batch whatever the topology."""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from reprogpt.model.loss import MASKED
from reprogpt.tokens.manifest import Manifest, Shard, Totals, write_manifest
from reprogpt.tokens.shard_format import header
from reprogpt.tokens.shards import BLOCK, TokenStream
from reprogpt.training.loader import Loader
from tests.tiny_runs import write_tokens


def starts_of(loader: Loader, step: int, rows: range | None = None) -> np.ndarray:
    """Where in the stream each of the step's rows starts."""
    (_, at, starts), = loader.places(step, rows)
    assert at.tolist() == list(range(len(starts)))
    return starts


@pytest.mark.parametrize("order", ["shuffled", "sequential"])
def test_every_window_of_an_epoch_exactly_once(tokens: Path, order: str) -> None:
    loader = Loader(TokenStream(tokens, "train"), 3 * 16, 16, seed=7, order=order)
    windows = loader.corpora[""].per_epoch
    steps = -(-2 * windows // 3)
    starts = np.concatenate([starts_of(loader, s) for s in range(steps)])
    for epoch in range(2):
        mine = np.sort(starts[epoch * windows:(epoch + 1) * windows])
        assert (np.diff(mine) == 16).all(), "windows overlap or leave gaps"
        assert 0 <= mine[0] < 32
        assert mine[-1] + 16 < 6000
    assert loader.counts(0)["unused_tokens"] == 6000 - 16 * windows


def test_offsets_are_drawn_anew_each_epoch(tokens: Path) -> None:
    loader = Loader(TokenStream(tokens, "train"), 16, 16, seed=7)
    windows = loader.corpora[""].per_epoch
    offsets = {int(starts_of(loader, e * windows)[0]) % 16 for e in range(8)}
    assert len(offsets) > 2


def test_sequential_is_build_nanogpts_order(tokens: Path) -> None:
    """Consecutive windows, dealt to ranks in turn, from the first token on."""
    loader = Loader(TokenStream(tokens, "train"), 4 * 16, 16, seed=7, order="sequential")
    assert starts_of(loader, 0).tolist() == [0, 16, 32, 48]
    assert starts_of(loader, 1).tolist() == [64, 80, 96, 112]


def test_targets_follow_their_inputs_across_shards(tokens: Path) -> None:
    stream = TokenStream(tokens, "train")
    assert len(stream.shards) > 3
    whole = stream.read(0, stream.n_tokens)
    loader = Loader(stream, 32 * 16, 16, seed=7)
    batch = loader.batch(0)
    for row, start in enumerate(starts_of(loader, 0).tolist()):
        assert batch.idx[row].tolist() == whole[start:start + 16].tolist()
        assert batch.targets[row].tolist() == whole[start + 1:start + 17].tolist()


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
def test_ranks_share_one_batch(tokens: Path, world: int) -> None:
    loader = Loader(TokenStream(tokens, "train"), 12 * 16, 16, seed=7)
    whole = loader.batch(3)
    parts = [loader.batch(3, rank, world) for rank in range(world)]
    assert torch.equal(torch.cat([p.idx for p in parts]), whole.idx)
    assert torch.equal(torch.cat([p.rows for p in parts]), torch.arange(12))
    sizes = [len(p.rows) for p in parts]
    assert max(sizes) - min(sizes) <= 1
    for micro in (1, 5, 12, 100):
        pieces = list(parts[0].micro_batches(micro))
        assert torch.equal(torch.cat([p.idx for p in pieces]), parts[0].idx)
        assert all(len(p.rows) <= micro for p in pieces)


def test_masked_targets_are_counted_globally(tmp_path: Path) -> None:
    stream = TokenStream(write_tokens(tmp_path, masked=True), "train")
    loader = Loader(stream, 12 * 16, 16, seed=7)
    parts = [loader.batch(2, rank, 3) for rank in range(3)]
    mine = [int((p.targets != MASKED).sum()) for p in parts]
    assert len(set(mine)) > 1, "the masks should be uneven"
    assert all(p.valid == sum(mine) for p in parts)
    mask = stream.read_mask(0, stream.n_tokens)
    assert mask is not None
    for row, start in enumerate(starts_of(loader, 2, range(4)).tolist()):
        assert ((parts[0].targets[row] != MASKED).numpy() == mask[start + 1:start + 17]).all()


def test_reading_ahead_changes_nothing(tokens: Path) -> None:
    loader = Loader(TokenStream(tokens, "train"), 4 * 16, 16, seed=7)
    ahead = list(loader.prefetch(range(3, 8), 0, 1))
    assert [b.idx.tolist() for b in ahead] == [loader.batch(s).idx.tolist() for s in range(3, 8)]


def test_a_text_shorter_than_a_window_is_refused(tokens: Path) -> None:
    with pytest.raises(ValueError, match="model.block_size=6000 needs at least 6001"):
        Loader(TokenStream(tokens, "train"), 6000, 6000, seed=7)


def test_memory_stays_flat_over_20_gigabytes(tmp_path: Path) -> None:
    """Sparse shards, read at random all over: resident memory grows by less than 50 MB."""
    per_shard = 10**9  # tokens: 2 GB
    blocks, rest = divmod(1024 + 2 * per_shard, BLOCK)
    first, zeros, tail = (f"{zlib.crc32(data):08x}" for data in (
        header(per_shard) + bytes(BLOCK - 1024), bytes(BLOCK), bytes(rest)))
    crc32 = first + zeros * (blocks - 1) + tail
    shards = []
    for n in range(10):
        name = f"train_{n:06d}.bin"
        with (tmp_path / name).open("wb") as file:
            file.write(header(per_shard))
            file.truncate(1024 + 2 * per_shard)
        shards.append(Shard(name, "train", per_shard, 1, "", crc32))
    write_manifest(tmp_path, Manifest(tuple(shards), {"train": Totals(1, 10**10, 1)},
                                      {"name": "gpt2", "n_vocab": 50257, "fingerprint": "x"},
                                      {"name": "x", "revision": "0"}))
    loader = Loader(TokenStream(tmp_path, "train"), 64 * 1024, 1024, seed=7)
    loader.batch(0)
    before = _resident()
    starts = set()
    for step in range(1, 101):
        assert loader.batch(step * 997).idx.shape == (64, 1024)
        starts |= set(starts_of(loader, step * 997).tolist())
    assert max(starts) - min(starts) > 9 * 10**9, "the reads should be all over the stream"
    assert _resident() - before < 50e6


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
