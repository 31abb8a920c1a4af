"""Corpora by name: files and generated documents; what download writes."""

from pathlib import Path

import pytest

from reprogpt.config import DownloadConfig, TokenizeConfig
from reprogpt.data import corpora
from reprogpt.data.corpora import download
from reprogpt.data.raw_text import Document, read_meta
from reprogpt.encoding.tokenize_corpus import tokenize
from reprogpt.errors import ConfigError
from reprogpt.storage.fetch import Mirrored, fetch
from reprogpt.storage.files import sha256_of, write_bytes
from reprogpt.storage.paths import cache_dir
from reprogpt.tokens.manifest import read_manifest
from reprogpt.tokens.tokenizers import ENCODER_JSON, VOCAB_BPE
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


def test_files_without_text(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ConfigError, match="must hold some; name others that do"):
        download(config(files=[str(tmp_path / "empty.txt")]), tmp_path / "raw")


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
        return "sums 1", [corpora.whole("sums", "sums 1", lambda: documents)]

    monkeypatch.setitem(corpora.CORPORA, "addition", sums)
    for folder in ("a", "b"):  # made, then from the cache
        meta = download(config(corpus="addition"), tmp_path / folder)
        assert list(read_documents(tmp_path / folder, meta)) == documents
    assert meta.masked


def test_the_default_corpus_is_38_plays(tmp_path):
    meta = download(config(corpus="shakespeare"), tmp_path / "raw")
    assert meta.documents == len(texts(tmp_path / "raw")) == 38
    assert sha256_of(tmp_path / "raw" / meta.parts[0].text).startswith("ee4cf121")
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


@pytest.mark.parametrize("corpus", ["files", "shards"])
def test_a_file_that_cannot_be_read_is_a_mistake_of_the_params(corpus, tmp_path, monkeypatch):
    for place in (tmp_path / "gone.txt", tmp_path):
        monkeypatch.setattr(corpora, "_found", lambda cfg, place=place: {str(place): place})
        with pytest.raises(ConfigError, match=rf"download.files: {place} must be .*leave it out"):
            download(config(corpus, files=["*"]), tmp_path / "raw")
