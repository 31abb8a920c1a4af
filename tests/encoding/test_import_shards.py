"""Shards of others: adopted as they are, and the errors for what cannot be."""

import random
from pathlib import Path

import numpy as np
import pytest

from reprogpt.config import DownloadConfig
from reprogpt.data.corpora import download
from reprogpt.encoding.tokenize_corpus import tokenize
from reprogpt.errors import ConfigError
from reprogpt.tokens.shard_format import header
from reprogpt.tokens.shards import TokenStream
from reprogpt.tokens.tokenizers import gpt2_tokenizer
from tests.encoding.small_corpora import config

TOKENIZE = config(val_fraction=0.1)


def shards(*files: str) -> DownloadConfig:
    return DownloadConfig(corpus="shards", files=list(files), hub=None, max_bytes=None,
                          max_documents=None)


def make_shards(folder: Path) -> dict[str, list[int]]:
    rng = random.Random(0)
    folder.mkdir()
    tokens = {}
    for name in ("fineweb_val_000000.bin", "fineweb_train_000001.bin", "edufineweb_train_2.npy"):
        ids = [rng.randrange(50256) for _ in range(500)]
        ids[0] = ids[250] = 50256
        tokens[name] = ids
        array = np.array(ids, "<u2")
        if name.endswith(".npy"):
            np.save(folder / name, array)
        else:
            (folder / name).write_bytes(header(500) + array.tobytes())
    return tokens


@pytest.mark.parametrize("track", ["shards", "manifest"])
def test_shards_are_adopted_as_they_are(tmp_path, track):
    tokens = make_shards(tmp_path / "in")
    download(shards(str(tmp_path / "in/*")), tmp_path / "raw")
    cfg = TOKENIZE.model_copy(update={"track": track})
    manifest = tokenize(cfg, tmp_path / "raw", tmp_path / "out")
    train = TokenStream(tmp_path / "out", "train", "full")
    expected = tokens["edufineweb_train_2.npy"] + tokens["fineweb_train_000001.bin"]
    assert train.read(0, train.n_tokens).tolist() == expected
    val = TokenStream(tmp_path / "out", "val", "full")
    assert val.read(0, 500).tolist() == tokens["fineweb_val_000000.bin"]
    assert manifest.totals["train"].documents == 4
    text = gpt2_tokenizer().encoding.decode_bytes([t for t in expected if t != 50256])
    assert manifest.totals["train"].bytes == len(text)
    assert (tmp_path / "out/val_000000.bin").exists() == (track == "shards")
    if track == "manifest":
        place = tmp_path / "in/fineweb_val_000000.bin"
        place.write_bytes(place.read_bytes()[:-2])
        with pytest.raises(ValueError, match=r"fineweb_val_000000\.bin: has 2022 bytes"):
            TokenStream(tmp_path / "out", "val")


def test_shards_are_adopted_in_a_copy_of_dvcs(tmp_path, monkeypatch):
    make_shards(tmp_path / "in")
    cfg, metas = TOKENIZE.model_copy(update={"track": "manifest"}), []
    for place in (tmp_path, tmp_path / ".dvc/tmp/exps/tmp1"):
        place.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(place)
        download(shards("in/*"), Path("raw"))
        metas.append(Path("raw/meta.json").read_bytes())
        tokenize(cfg, Path("raw"), Path("out"))
        assert TokenStream(Path("out"), "val", "full").n_tokens == 500
    assert metas[0] == metas[1]


def spoil(change):
    def apply(folder: Path) -> None:
        path = folder / "fineweb_train_000001.bin"
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(bytes(data))
    return apply


@pytest.mark.parametrize(("change", "message"), [
    (spoil(lambda d: d.__setitem__(0, 0)), "does not begin with llm.c's header"),
    (spoil(lambda d: d.pop()), "has 2023 bytes, .* 500 tokens .* 2024"),
    (spoil(lambda d: d.__setitem__(slice(1030, 1032), b"\xff\xff")), "holds the token id 65535"),
    (lambda f: (f / "fineweb_val_000000.bin").unlink(), "must name shards with tokens for val"),
    (lambda f: (f / "fineweb_val_000000.bin").write_bytes(header(0)),
     "must name shards with tokens for val"),
    (lambda f: np.save(f / "x.npy", np.zeros(3, np.int32)), "array of uint16, not int32"),
    (lambda f: (f / "x.npy").write_bytes(b"\x93NUMPY"), "is not a complete .npy file"),
])
def test_what_cannot_be_adopted_is_named(tmp_path, change, message):
    make_shards(tmp_path / "in")
    change(tmp_path / "in")
    def take_over():
        download(shards(str(tmp_path / "in")), tmp_path / "raw")
        tokenize(TOKENIZE, tmp_path / "raw", tmp_path / "out")

    with pytest.raises(ConfigError, match=message):
        take_over()


def test_shards_that_changed_since_are_refused(tmp_path):
    make_shards(tmp_path / "in")
    download(shards(str(tmp_path / "in")), tmp_path / "raw")
    spoil(lambda d: d.__setitem__(1500, d[1500] ^ 1))(tmp_path / "in")
    with pytest.raises(ConfigError, match="is gone or has changed"):
        tokenize(TOKENIZE, tmp_path / "raw", tmp_path / "out")
    char = TOKENIZE.model_copy(update={"encoding": "char"})
    with pytest.raises(ConfigError, match="must be gpt2 for the corpus shards"):
        tokenize(char, tmp_path / "raw", tmp_path / "out")
