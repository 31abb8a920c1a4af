"""The check in the background finds what the opening of a stream has not read."""

import numpy as np
import pytest
import torch

from reprogpt.runtime.distributed import Process
from reprogpt.tokens import shards
from reprogpt.tokens.full_check import FullCheck
from reprogpt.tokens.manifest import Manifest, Totals, write_manifest
from reprogpt.tokens.shards import TokenStream
from tests.shard_writer import ShardWriter

ALONE = Process(0, 1, torch.device("cpu"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A shard of 32 blocks with a mask, of which an opening reads one block and not the mask."""
    monkeypatch.setattr(shards, "BLOCK", 256)
    monkeypatch.setattr(shards, "_sampled", lambda blocks: [1])
    writer = ShardWriter(tmp_path, "train", 3500, masked=True)
    writer.document()
    writer.write(np.arange(3500, dtype=np.uint16))
    write_manifest(tmp_path, Manifest(tuple(writer.close()), {"train": Totals(1, 3500, 9)},
                                      {"name": "gpt2", "n_vocab": 50257, "fingerprint": "f"},
                                      {"name": "test", "revision": "0"}))
    return tmp_path


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_good_data_pass(folder):
    check = FullCheck(ALONE, TokenStream(folder, "train"))
    check.require_good()
    assert check.problem is None


@pytest.mark.parametrize(("file", "at", "message"), [
    ("train_000000.bin", 8000, r"\.bin: its bytes 7936 to 8023 differ"),
    ("train_000000.bin", 2000, r"\.bin: its bytes 1792 to 2047 differ"),
    ("train_000000.mask", 3499, r"\.mask: its bytes differ"),
])
def test_a_block_that_the_opening_has_not_read_is_named(folder, file, at, message):
    streams = TokenStream(folder, "train"), TokenStream(folder, "train")
    flip(folder / file, at)
    check = FullCheck(ALONE, *streams)
    with pytest.raises(ValueError, match=message):
        check.require_good()
    assert check.problem


def test_a_file_that_cannot_be_read_does_not_pass(folder):
    stream = TokenStream(folder, "train")
    (folder / "train_000000.bin").unlink()
    with pytest.raises(ValueError, match=r"train_000000\.bin"):
        FullCheck(ALONE, stream).require_good()


def test_one_process_of_a_machine_reads_and_a_full_opening_leaves_nothing(folder, monkeypatch):
    stream, full = TokenStream(folder, "train"), TokenStream(folder, "train", "full")
    monkeypatch.setattr(shards, "verify_shard", lambda *_: pytest.fail("read again"))
    FullCheck(Process(0, 1, torch.device("cpu"), first_here=False), stream).require_good()
    FullCheck(ALONE, full).require_good()
