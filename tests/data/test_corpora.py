"""Corpora by name: files, generated documents, adopted shards; what download writes."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from reprogpt.config import DownloadConfig, TokenizeConfig
from reprogpt.data import corpora
from reprogpt.data.corpora import Corpus, download
from reprogpt.data.raw_text import Document, read_meta
from reprogpt.encoding.tokenize_corpus import tokenize
from reprogpt.errors import ConfigError
from reprogpt.storage.fetch import Mirrored, fetch
from reprogpt.storage.files import write_bytes
from reprogpt.storage.paths import cache_dir
from reprogpt.tokens.manifest import read_manifest
from reprogpt.tokens.shard_format import header
from reprogpt.tokens.shards import TokenStream
from reprogpt.tokens.tokenizers import ENCODER_JSON, VOCAB_BPE, gpt2_tokenizer
from tests.conftest import ROOT, read_documents


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    fetch(VOCAB_BPE)
    fetch(ENCODER_JSON)
    files = cache_dir() / "files"
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/files").symlink_to(files)
    monkeypatch.setenv("REPROGPT_CACHE", str(tmp_path / "cache"))


def config(corpus="files", **values) -> DownloadConfig:
    return DownloadConfig(**{"corpus": corpus, "files": None, "hub": None, "max_bytes": None,
                             "max_documents": None, **values})


def texts(folder: Path) -> list[str]:
    return [document.text for document in read_documents(folder, read_meta(folder))]


def test_files_without_text_or_leave_to_read(tmp_path, monkeypatch):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "some.txt").write_text("x")
    with pytest.raises(ConfigError, match="must hold some; name others that do"):
        download(config(files=[str(tmp_path / "empty.txt")]), tmp_path / "raw")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(corpora, "sha256_of", refuse)
    with pytest.raises(ConfigError, match=r"some\.txt: must be a file that can be read \(P"):
        download(config(files=[str(tmp_path / "some.txt")]), tmp_path / "raw")


def test_files_by_globs_and_folders_in_order(tmp_path, capsys):
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/b.txt").write_text("b")
    (tmp_path / "in/a.jsonl").write_bytes(b'{"text": "a1"}\n{"text": "a2"}\n')
    (tmp_path / "in/deep/c.md").write_text("c")
    (tmp_path / "in/ignored.bin").write_bytes(b"\0")
    meta = download(config(files=[str(tmp_path / "in")]), tmp_path / "raw")
    assert texts(tmp_path / "raw") == ["a1", "a2", "b", "c"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("download.files: 1 of 4 files are left out")
    assert "in/ignored.bin" in said
    download(config(files=[str(tmp_path / "in/**/*.md"), str(tmp_path / "in/b*")]),
             tmp_path / "raw")
    assert texts(tmp_path / "raw") == ["b", "c"]
    (tmp_path / "in/b.txt").write_text("changed")
    other = download(config(files=[str(tmp_path / "in")]), tmp_path / "raw")
    assert other.revision != meta.revision
    assert texts(tmp_path / "raw")[2] == "changed"
    with pytest.raises(ConfigError, match="download.files: 'no/such' matches no file below"):
        download(config(files=["no/such"]), tmp_path / "raw")
    with pytest.raises(ConfigError, match="matches no file that can be read"):
        download(config(files=[str(tmp_path / "in/*.bin")]), tmp_path / "raw")
    with pytest.raises(ConfigError, match="which the pipeline itself writes"):
        download(config(files=["data/raw/*"]), tmp_path / "raw")


@pytest.mark.parametrize("name", ["a.zip", "notes", "a.text"])
def test_a_named_file_of_a_kind_that_is_not_read_is_an_error(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my").mkdir()
    (tmp_path / "my/good.txt").write_text("text")
    (tmp_path / "my" / name).write_text("text")
    for files in ([f"my/{name}", "my"], [f"./my/{name}"], [str(tmp_path / "my" / name)]):
        with pytest.raises(ConfigError, match=rf"{name}' must be one of .*\.txt .*convert it, or"):
            download(config(files=files), tmp_path / "raw")
    download(config(files=["my"]), tmp_path / "raw")
    assert texts(tmp_path / "raw") == ["text"]
    (tmp_path / "val.txt").write_text("")
    with pytest.raises(ConfigError, match=r"val\.txt' must be one of \.bin \.npy; convert it"):
        download(config(corpus="shards", files=["val.txt"]), tmp_path / "raw")


def test_a_name_with_brackets_is_a_name_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("notes [2023].txt", "notes 2.txt", "notes 3.txt"):
        (tmp_path / name).write_text(name)
    download(config(files=["notes [2023].txt"]), tmp_path / "raw")
    assert texts(tmp_path / "raw") == ["notes [2023].txt"]
    download(config(files=["notes [23].txt"]), tmp_path / "raw")
    assert texts(tmp_path / "raw") == ["notes 2.txt", "notes 3.txt"]


def test_a_byte_order_mark_makes_no_other_text(tmp_path):
    for name, data in (("a", b"text"), ("b", b"\xef\xbb\xbftext")):
        (tmp_path / f"{name}.txt").write_bytes(data)
        download(config(files=[str(tmp_path / f"{name}.txt")]), tmp_path / name)
    assert (tmp_path / "a/part_000000.txt").read_bytes() == b"text"
    assert (tmp_path / "b/part_000000.txt").read_bytes() == b"text"


def test_generated_corpora_with_masks_and_splits(tmp_path, monkeypatch):
    documents = [Document("1+1=2\n", ((4, 6),), "train"), Document("2+2=4\n", ((4, 6),), "val")]

    def sums(cfg):
        return Corpus("sums 1", [corpora.whole("sums", "sums 1", lambda: documents)])

    monkeypatch.setitem(corpora.CORPORA, "addition", sums)
    for folder in ("a", "b"):  # made, then from the cache
        meta = download(config(corpus="addition"), tmp_path / folder)
        assert list(read_documents(tmp_path / folder, meta)) == documents
    assert meta.masked


def test_the_default_corpus_is_38_plays(tmp_path):
    meta = download(config(corpus="shakespeare"), tmp_path / "raw")
    assert meta.documents == len(texts(tmp_path / "raw")) == 38
    assert meta.parts[0].sha256.startswith("ee4cf121")
    assert read_meta(tmp_path / "raw") == meta


TINY = ROOT.parent / "shared/data/tinyshakespeare.txt"


@pytest.mark.skipif(not TINY.is_file(), reason="Tiny Shakespeare is not on this machine")
@pytest.mark.parametrize(("encoding", "train", "val"), [("gpt2", 301_966, 36_059),
                                                        ("char", 1_003_854, 111_540)])
def test_tiny_shakespeare_gives_nanogpts_figures(tmp_path, monkeypatch, encoding, train, val):
    by_hand = corpora.TINY_SHAKESPEARE.sha256  # as the message of a failed fetch says
    monkeypatch.setattr(corpora, "TINY_SHAKESPEARE", Mirrored("x.txt", by_hand, ()))
    place = cache_dir() / "files" / by_hand / "x.txt"
    if not place.is_file():
        write_bytes(place, TINY.read_bytes())
    download(config(corpus="tinyshakespeare"), tmp_path / "raw")
    cfg = TokenizeConfig(encoding=encoding, shard_tokens=10**8, split="tail", val_fraction=0.1)
    totals = tokenize(cfg, tmp_path / "raw", tmp_path / "out").totals
    assert (totals["train"].tokens, totals["val"].tokens) == (train, val)
    if encoding == "char":
        assert read_manifest(tmp_path / "out").tokenizer["n_vocab"] == 65


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


TOKENIZE = TokenizeConfig(encoding="gpt2", shard_tokens=1024, split="hash", val_fraction=0.1)


@pytest.mark.parametrize("track", ["shards", "manifest"])
def test_shards_are_adopted_as_they_are(tmp_path, track):
    tokens = make_shards(tmp_path / "in")
    download(config(corpus="shards", files=[str(tmp_path / "in/*")]), tmp_path / "raw")
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
        download(config(corpus="shards", files=["in/*"]), Path("raw"))
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
        download(config(corpus="shards", files=[str(tmp_path / "in")]), tmp_path / "raw")
        tokenize(TOKENIZE, tmp_path / "raw", tmp_path / "out")

    with pytest.raises(ConfigError, match=message):
        take_over()


def test_shards_that_changed_since_are_refused(tmp_path):
    make_shards(tmp_path / "in")
    download(config(corpus="shards", files=[str(tmp_path / "in")]), tmp_path / "raw")
    spoil(lambda d: d.__setitem__(1500, d[1500] ^ 1))(tmp_path / "in")
    with pytest.raises(ConfigError, match="is gone or has changed"):
        tokenize(TOKENIZE, tmp_path / "raw", tmp_path / "out")
    char = TOKENIZE.model_copy(update={"encoding": "char"})
    with pytest.raises(ConfigError, match="must be gpt2 for the corpus shards"):
        tokenize(char, tmp_path / "raw", tmp_path / "out")


def test_tracking_only_the_manifest_leaves_shards_in_the_cache(tmp_path):
    (tmp_path / "in.jsonl").write_text("".join(
        json.dumps({"text": f"text number {n}, " * 60}) + "\n" for n in range(30)))
    download(config(files=[str(tmp_path / "in.jsonl")]), tmp_path / "raw")
    tokenize(TOKENIZE, tmp_path / "raw", tmp_path / "a")
    tokenize(TOKENIZE.model_copy(update={"track": "manifest"}), tmp_path / "raw", tmp_path / "b")
    assert list((tmp_path / "b").glob("*.bin")) == []
    a, b = (TokenStream(tmp_path / f, "train", "full") for f in "ab")
    assert np.array_equal(a.read(0, a.n_tokens), b.read(0, b.n_tokens))
    path = b.shards[1].file(tmp_path / "b")
    path.unlink()
    with pytest.raises(ValueError, match="is in the manifest but not on the disk"):
        TokenStream(tmp_path / "b", "train")
