"""manifest.json: written and read back, and the errors for a missing or malformed one."""

import json
from pathlib import Path

import pytest

from reprogpt.tokens.manifest import Manifest, Shard, Totals, read_manifest, write_manifest

SHARDS = (Shard("train_000000.bin", "train", 5, 2, "ab", "00000001", mask_sha256="cd"),
          Shard("train_000001.bin", "train", 3, 1, "ef", "00000002", path="cache:abcdef"),
          Shard("val_000000.bin", "val", 2, 1, "01", "00000003", path="/elsewhere/v.bin"))
MANIFEST = Manifest(SHARDS, {"train": Totals(3, 8, 30, {"empty": 1}), "val": Totals(1, 2, 7)},
                    {"name": "gpt2", "n_vocab": 50257, "fingerprint": "f"},
                    {"name": "files", "revision": "r"})


def test_a_manifest_reads_back(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    assert [shard.name for shard in MANIFEST.of("train")] == ["train_000000.bin",
                                                              "train_000001.bin"]


def test_a_shard_may_lie_beside_the_manifest_in_the_cache_or_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("reprogpt.tokens.manifest.cache_dir", lambda: Path("/cache"))
    assert [shard.file(tmp_path) for shard in SHARDS] == [
        tmp_path / "train_000000.bin", Path("/cache/shards/ab/abcdef.bin"),
        Path("/elsewhere/v.bin")]


def test_a_missing_manifest_names_the_stage_that_makes_it(tmp_path):
    with pytest.raises(ValueError, match="does not exist; run the stage tokenize"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("change", [
    lambda values: values.pop("version"),
    lambda values: values.update(version=2),
    lambda values: values.pop("totals"),
    lambda values: values.update(more=1),
    lambda values: values["shards"][0].pop("sha256"),
    lambda values: values["shards"][0].update(more=1),
])
def test_a_malformed_manifest_is_named(tmp_path, change):
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="is not a manifest of shards .*tokenize again") as caught:
        read_manifest(tmp_path)
    assert str(path) in str(caught.value)
