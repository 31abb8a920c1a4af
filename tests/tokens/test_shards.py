"""Shards and their manifest: every kind of damage is named, every range reads back."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reprogpt.tokens import shards
from reprogpt.tokens.manifest import Manifest, Totals, read_manifest, write_manifest
from reprogpt.tokens.shard_format import open_tokens
from reprogpt.tokens.shards import TokenStream, checksums_of, write_shard
from tests.shard_writer import ShardWriter


def write(folder, tokens, shard_tokens=1000, masked=False):
    writer = ShardWriter(folder, "train", shard_tokens, masked)
    for start in range(0, len(tokens), 333):
        chunk = tokens[start:start + 333]
        writer.document()
        writer.write(chunk, (chunk % 3 == 0).astype(np.uint8) if masked else None)
    done = writer.close()
    manifest = Manifest(tuple(done), {"train": Totals(len(tokens) // 333 + 1, len(tokens), 9)},
                        {"name": "gpt2", "n_vocab": 50257, "fingerprint": "f"},
                        {"name": "test", "revision": "0"})
    write_manifest(folder, manifest)
    return manifest


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, 50257, 3500).astype(np.uint16)


@pytest.mark.parametrize("verify", ["sampled", "full"])
def test_the_stream_reads_across_seams(tmp_path, tokens, verify):
    manifest = write(tmp_path, tokens, masked=True)
    assert read_manifest(tmp_path) == manifest
    stream = TokenStream(tmp_path, "train", verify)
    assert stream.n_tokens == 3500
    for start, count in ((0, 3500), (999, 2), (1000, 1000), (500, 2600), (3500, 0), (17, 0)):
        expected = tokens[start:start + count]
        assert np.array_equal(stream.read(start, count), expected)
        assert np.array_equal(stream.read_mask(start, count), expected % 3 == 0)
    assert stream.read(3, 4).dtype == np.uint16
    assert stream.locate(0) == "train_000000.bin:0"
    assert stream.locate(2345) == "train_000002.bin:345"
    assert [s.documents for s in manifest.shards] == [4, 3, 3, 1]
    for start, count in ((-1, 2), (3400, 101), (0, -1)):
        with pytest.raises(ValueError, match="there are 3500"):
            stream.read(start, count)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 3500), count=st.integers(0, 3500))
def test_any_range_reads_back(tmp_path, tokens, start, count):
    if not (tmp_path / "manifest.json").exists():
        write(tmp_path, tokens, 611)
    count = min(count, 3500 - start)
    stream = TokenStream(tmp_path, "train")
    assert np.array_equal(stream.read(start, count), tokens[start:start + count])


def test_a_shard_is_a_header_and_its_tokens(tmp_path, tokens):
    write(tmp_path, tokens)
    assert np.array_equal(open_tokens(tmp_path / "train_000003.bin"), tokens[3000:])


def damage(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.unlink()
    path.write_bytes(bytes(data))


def flip(data):
    data[1500] ^= 0x10


def reheader(data):
    data[8] ^= 1


@pytest.mark.parametrize("verify", ["sampled", "full"])
@pytest.mark.parametrize(("change", "message"), [
    (flip, "differ from the manifest's checksum"),
    (lambda data: data.__delitem__(slice(-2, None)), "truncated"),
    (lambda data: data.extend(b"xx"), "appended to"),
    (reheader, "differ from the manifest's checksum"),
])
def test_a_bad_shard_is_named(tmp_path, tokens, verify, change, message):
    write(tmp_path, tokens)
    damage(tmp_path / "train_000001.bin", change)
    with pytest.raises(ValueError, match=message) as caught:
        TokenStream(tmp_path, "train", verify)
    assert "train_000001.bin" in str(caught.value)
    assert "run the stage tokenize again" in str(caught.value)


def test_a_missing_shard_and_a_damaged_mask_are_named(tmp_path, tokens):
    write(tmp_path, tokens, masked=True)
    damage(tmp_path / "train_000002.mask", lambda data: data.__setitem__(7, 9))
    with pytest.raises(ValueError, match=r"train_000002\.mask: its bytes differ"):
        TokenStream(tmp_path, "train")
    (tmp_path / "train_000001.bin").unlink()
    with pytest.raises(ValueError, match=r"train_000001\.bin: is in the manifest but not"):
        TokenStream(tmp_path, "train")


def test_a_full_check_finds_what_a_sample_may_miss(tmp_path, tokens, monkeypatch):
    monkeypatch.setattr(shards, "BLOCK", 256)
    write(tmp_path, tokens, 3500)
    damage(tmp_path / "train_000000.bin", flip)
    # Of 32 blocks a sample reads the first, the last and two others.
    monkeypatch.setattr(shards, "_sampled", lambda blocks: [0, 1, 2, blocks - 1])
    TokenStream(tmp_path, "train")
    with pytest.raises(ValueError, match="was altered"):
        TokenStream(tmp_path, "train", "full")
    monkeypatch.setattr(shards, "_sampled", lambda blocks: [0, 5, blocks - 1])
    with pytest.raises(ValueError, match="was altered"):
        TokenStream(tmp_path, "train")


def test_samples_take_both_ends_and_reach_everything():
    assert shards._sampled(3) == [0, 1, 2]
    seen = set()
    for _ in range(200):
        sample = shards._sampled(10)
        assert len(set(sample)) == shards.SAMPLED_BLOCKS
        assert {0, 9} <= set(sample)
        seen |= set(sample)
    assert seen == set(range(10))


def test_ids_of_another_type_are_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="Cannot cast"):
        write_shard(tmp_path / "train_000000.bin", "train", [np.array([1, 65536])], 2, 1)
    assert list(tmp_path.iterdir()) == []
    swapped = np.array([1, 65535], ">u2")
    write_shard(tmp_path / "train_000000.bin", "train", [swapped], 2, 1)
    assert (tmp_path / "train_000000.bin").read_bytes()[1024:] == b"\x01\x00\xff\xff"


def test_checksums_are_those_of_the_standard_library(tmp_path, monkeypatch):
    import hashlib
    import zlib

    monkeypatch.setattr(shards, "BLOCK", 100)
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)))
    sha256, crc32 = checksums_of(path)
    data = path.read_bytes()
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert crc32 == "".join(f"{zlib.crc32(data[i:i + 100]):08x}" for i in (0, 100, 200))


def test_an_old_shard_is_replaced_never_written_into(tmp_path, tokens):
    path = tmp_path / "train_000000.bin"
    path.write_bytes(b"linked into a cache")
    linked = tmp_path / "cache"
    linked.hardlink_to(path)
    write(tmp_path, tokens)
    assert linked.read_bytes() == b"linked into a cache"


def test_an_id_beyond_the_vocabulary_is_named_though_its_checksum_fits(tmp_path, monkeypatch):
    tokens = np.arange(3500, dtype=np.uint16)
    tokens[3000] = 50257  # the vocabulary of `write` ends at 50256
    write(tmp_path, tokens, 3500)
    with pytest.raises(ValueError, match=r"train_000000\.bin: holds the token id 50257"):
        TokenStream(tmp_path, "train")
    monkeypatch.setattr(shards, "_sampled", lambda blocks: [])
    stream = TokenStream(tmp_path, "train")  # as when its block was not among the sampled
    assert stream.read(0, 3000)[-1] == 2999
    with pytest.raises(ValueError, match=r"train_000000\.bin:3000 is the token id 50257"):
        stream.rows([0, 2999], 4)


def test_checksums_that_are_not_there_vouch_for_nothing(tmp_path, tokens):
    write(tmp_path, tokens)
    path = tmp_path / "manifest.json"
    path.write_text(re.sub(r'"crc32": "\w+"', '"crc32": ""', path.read_text()))
    with pytest.raises(ValueError, match="its bytes 0 to .* differ"):
        TokenStream(tmp_path, "train")
