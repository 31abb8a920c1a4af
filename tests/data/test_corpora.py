"""Corpora: every format of file, the limits, what is kept between runs, adopted shards."""

import codecs
import csv
import gzip
import hashlib
import io
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from reprogpt.config import DownloadConfig, TokenizeConfig
from reprogpt.data import corpora
from reprogpt.data.collect import Budget, Source, collect
from reprogpt.data.corpora import Corpus, download
from reprogpt.data.hellaswag_file import HELLASWAG
from reprogpt.data.raw_text import Document, read_documents, read_meta
from reprogpt.data.readers import read_file
from reprogpt.data.shakespeare import render_play
from reprogpt.encoding.tokenize_corpus import tokenize
from reprogpt.errors import ConfigError
from reprogpt.formats.hub_model import SOURCE, fetch_model
from reprogpt.storage.fetch import Local, Mirrored
from reprogpt.storage.paths import cache_dir
from reprogpt.tokens.shards import TokenStream, header, read_manifest
from reprogpt.tokens.tokenizers import ENCODER_JSON, VOCAB_BPE, fetch, gpt2_tokenizer
from tests.conftest import ROOT

TEXTS = ["first, with \"quotes\"\r\nand lines\n", "zweiter — ünï 🙂", "", "x" * 200_000, "last"]


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


def as_jsonl() -> bytes:
    return b"\n".join(json.dumps({"n": 1, "body": t}).encode() for t in TEXTS) + b"\n\n"


def as_json() -> bytes:
    return json.dumps([{"body": t} for t in TEXTS]).encode()


def as_csv() -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerows([["n", "body"], *([1, t] for t in TEXTS)])
    return out.getvalue().encode()


def as_parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"n": [1] * len(TEXTS), "body": TEXTS}), out, row_group_size=2)
    return out.getvalue()


def parquet_of(values: list) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"body": values}), out)
    return out.getvalue()


def spoilt_parquet() -> bytes:
    data = bytearray(parquet_of(["some text " * 1000] * 50))
    data[20:60] = b"\xff" * 40
    return bytes(data)


FORMATS = {"a.jsonl": as_jsonl, "a.json": as_json, "a.csv": as_csv, "a.parquet": as_parquet}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("first", [0, 1, 3, 5])
def test_rows_of_every_format(name, packed, first):
    if name == "a.parquet" and packed:
        pytest.skip("parquet packs its own columns")
    data = FORMATS[name]()
    data = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[packed](data)
    got = read_file(name + packed, lambda: io.BytesIO(data), "body", first)
    assert [d.text for d in got] == TEXTS[first:]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.gz", "A.TXT.zst"])
def test_a_text_file_is_one_document_unchanged(name, monkeypatch):
    monkeypatch.setattr("reprogpt.data.readers._TEXT_CHUNK", 5)  # characters get cut in two
    text = "tabs\tCRLF\r\nüñí 🙂 no end of line"
    data = text.encode("utf-8-sig")
    if name.lower().endswith(".gz"):
        data = gzip.compress(data)
    if name.lower().endswith(".zst"):
        data = zstandard.compress(data)
    got = ["".join(d.texts()) for d in read_file(name, lambda: io.BytesIO(data), "")]
    assert got == [text]


@pytest.mark.parametrize("start", [codecs.BOM_UTF8, b" " * 100 + b"\n"])
def test_an_array_may_have_something_before_it(start):
    got = read_file("a.json", lambda: io.BytesIO(start + b'[{"body": "x"}]'), "body")
    assert [d.text for d in got] == ["x"]


@pytest.mark.parametrize(("name", "data", "message"), [
    ("a.jsonl", b'{"body": "x"}\n{"body": ', r"a\.jsonl, line 2: is not JSON"),
    ("a.jsonl", b'{"text": "x"}', r"line 1: has no field 'body' \(there are: text\)"),
    ("a.jsonl", b'{"body": 7}', r"the field 'body' must be text, not int"),
    ("a.jsonl", b"[" * 100_000, r"line 1: is not JSON \(maximum recursion"),
    ("a.json", b"[" * 100_000, r"a\.json: is not JSON \(maximum recursion"),
    ("a.csv", b"n,text\n", r"a\.csv: has no field 'body' \(there are: n, text\)"),
    ("a.parquet", parquet_of([1, 2]), r"'body' must be text, not int64; name another"),
    ("a.parquet", parquet_of([b"\xff"]), r"'body' must be text, not binary; name another"),
    ("a.parquet", parquet_of([["a", "b"]]), r"'body' must be text, not list<"),
    ("a.parquet", spoilt_parquet(), r"a\.parquet: is not a whole parquet file \(Couldn't des"),
    ("a.csv", b"n,text\n1,x\n", r"has no field 'body' \(there are: n, text\)"),
    ("a.parquet", b"PAR1 no more", r"is not a whole parquet file"),
    ("a.txt", b"caf\xe9", r"a\.txt: is not UTF-8 \(unexpected end"),
    ("a.txt", b"caf\xe9 au lait", r"a\.txt: is not UTF-8 \(invalid continuation byte\)"),
    ("a.jsonl.zst", zstandard.compress(as_jsonl())[:-9], r"a\.jsonl\.zst: is damaged or cut"),
    ("a.txt.zst", b"no zstandard", r"a\.txt\.zst: is damaged or cut short"),
    ("a.txt.gz", gzip.compress(b"x" * 999, mtime=0)[:-12], r"is damaged or cut short"),
    ("a.pdf", b"", r"a\.pdf: is none of \.txt"),
])
def test_a_bad_file_is_named_with_the_place(name, data, message):
    def read_all():
        for document in read_file(name, lambda: io.BytesIO(data), "body"):
            list(document.texts())

    with pytest.raises(ConfigError, match=message) as caught:
        read_all()
    assert "\n" not in str(caught.value)


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


def test_files_by_globs_and_folders_in_order(tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/b.txt").write_text("b")
    (tmp_path / "in/a.jsonl").write_bytes(b'{"text": "a1"}\n{"text": "a2"}\n')
    (tmp_path / "in/deep/c.md").write_text("c")
    (tmp_path / "in/ignored.bin").write_bytes(b"\0")
    meta = download(config(files=[str(tmp_path / "in")]), tmp_path / "raw")
    assert texts(tmp_path / "raw") == ["a1", "a2", "b", "c"]
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
    with pytest.raises(ConfigError, match="must be one of addition, calculator, files, fi"):
        download(config(corpus="shakespear"), tmp_path / "raw")


class Counted:
    """A source that counts the documents asked of it."""

    def __init__(self, documents, name="source"):
        self.documents, self.asked, self.closed = documents, [], 0
        self.source = Source(name, name, self.read, self.done)

    def read(self, first):
        for number, text in list(enumerate(self.documents))[first:]:
            self.asked.append(number)
            yield Document(text)

    def done(self):
        self.closed += 1


def take(folder, *counted, part_bytes=100, **limits):
    parts = collect([c.source for c in counted], folder, Budget(**limits), part_bytes)
    return [t.text for p in parts for t in corpora_read(folder, p)]


def corpora_read(folder, part):
    from reprogpt.data.raw_text import read_part

    return list(read_part(folder, part))


@pytest.mark.parametrize("limits", [
    {}, {"bytes": 95}, {"bytes": 100}, {"bytes": 101}, {"bytes": 1}, {"documents": 1},
    {"documents": 3}, {"documents": 7}, {"documents": 12}, {"bytes": 250, "documents": 9},
])
def test_limits_take_the_first_whole_documents_and_the_cache_changes_nothing(tmp_path, limits):
    documents = [f"{n:02}" * (5 * n + 3) for n in range(12)]
    expected, size = [], 0
    for text in documents[:limits.get("documents")]:
        size += len(text)
        if size > limits.get("bytes", 10**9):
            break
        expected.append(text)
    if not expected:
        expected = [documents[0][:limits["bytes"]]]
    halves = [Counted(documents[:7], "one"), Counted(documents[7:], "two")]
    assert take(tmp_path / "a", *halves, **limits) == expected
    assert take(tmp_path / "b", *halves, **limits) == expected
    take(tmp_path / "c", *halves)
    assert take(tmp_path / "d", *halves, **limits) == expected


def test_growing_reads_only_what_is_new(tmp_path):
    counted = Counted([f"document {n:03} " * 5 for n in range(100)])
    take(tmp_path / "a", counted, bytes=650)
    counted.asked.clear()
    got = take(tmp_path / "b", counted, bytes=6500)
    assert min(counted.asked) == 10  # all of 65 bytes, in five finished parts
    assert got == counted.documents[:len(got)]
    assert counted.closed == 0
    take(tmp_path / "c", counted)
    assert counted.closed == 1
    counted.asked.clear()
    assert take(tmp_path / "d", counted) == counted.documents
    assert counted.asked == []
    same = (tmp_path / "c/part_000000.txt").stat().st_ino
    assert same == (tmp_path / "d/part_000000.txt").stat().st_ino


def test_a_document_that_the_limit_cut_is_whole_without_it(tmp_path):
    long = Counted(["x" * 500, "y"])
    assert take(tmp_path / "a", long, bytes=200) == ["x" * 200]  # longer than a part
    assert take(tmp_path / "b", long) == long.documents


def test_a_broken_download_leaves_its_finished_parts(tmp_path):
    class Breaks(Counted):
        def read(self, first):
            for document in super().read(first):
                if self.asked[-1] == 9 and not self.mended:
                    raise OSError("the line broke")
                yield document

    counted = Breaks([f"document {n:03} " * 5 for n in range(20)])
    counted.mended = False
    with pytest.raises(OSError, match="the line broke"):
        take(tmp_path / "a", counted)
    assert not list((tmp_path / "a").glob("*.json"))
    counted.mended, counted.asked = True, []
    assert take(tmp_path / "b", counted) == counted.documents
    assert min(counted.asked) == 8


def test_a_long_text_stays_a_stream(tmp_path):
    def pieces():
        for n in range(1000):
            yield f"piece {n} "

    source = Source("x", "", lambda first: iter([Document(pieces())]))
    (part,) = collect([source], tmp_path)
    (document,) = corpora_read(tmp_path, part)
    assert document.text == "".join(pieces())


def test_a_damaged_cached_part_is_made_anew(tmp_path):
    counted = Counted(["some text " * 20] * 3)
    expected = take(tmp_path / "a", counted)
    victim = next((tmp_path / "cache/raw").rglob("*.txt"))
    data = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(b"X" + data[1:])
    assert take(tmp_path / "b", counted) == expected


def test_generated_corpora_with_masks_and_splits(tmp_path, monkeypatch):
    documents = [Document("1+1=2\n", ((4, 6),), "train"), Document("2+2=4\n", ((4, 6),), "val")]

    def sums(cfg):
        return Corpus("sums 1", [corpora.whole("sums", "sums 1", lambda: documents)])

    monkeypatch.setitem(corpora.CORPORA, "sums", sums)
    for folder in ("a", "b"):  # made, then from the cache
        meta = download(config(corpus="sums"), tmp_path / folder)
        assert list(read_documents(tmp_path / folder, meta)) == documents
    assert meta.masked


def test_a_play_is_rendered_plainly():
    markdown = ("# Hamlet\n\n## ACT I\n\n### SCENE I. Elsinore.\n\n_FRANCISCO at his post._\n\n"
                "**BERNARDO**  \nWho's there?  \n_\\[Aside]_  \nA day\\--a night—or two, & c.\n\n"
                "*Enter King Edward, and\nArtois.*\n\n**GREY & SCROOP**  \nwe'll __\\[ ]_  \n")
    assert render_play(markdown) == (
        "HAMLET\n\nACT I\n\nSCENE I. Elsinore.\n\n[FRANCISCO at his post.]\n\n"
        "BERNARDO:\nWho's there?\n[Aside]\nA day--a night--or two, &c.\n\n"
        "[Enter King Edward, and Artois.]\n\nGREY & SCROOP:\nwe'll\n")


def test_the_plays_are_clean_text(tmp_path):
    meta = download(config(corpus="shakespeare"), tmp_path / "raw")
    plays = texts(tmp_path / "raw")
    assert meta.documents == len(plays) == 38
    everything = "".join(plays)
    assert not set("_*\\#\t\r\u2014\u2019") & set(everything)
    assert "BERNARDO:\nWho's there?\n\nFRANCISCO:\nNay, answer me" in everything
    assert hashlib.sha256(everything.encode()).hexdigest() == meta.parts[0].sha256


def test_hellaswag_is_pinned_to_its_published_bytes():
    assert HELLASWAG.sha256.startswith("0aa3b888439")


TINY = ROOT.parent / "shared/data/tinyshakespeare.txt"


@pytest.mark.skipif(not TINY.is_file(), reason="Tiny Shakespeare is not on this machine")
@pytest.mark.parametrize(("encoding", "train", "val"), [("gpt2", 301_966, 36_059),
                                                        ("char", 1_003_854, 111_540)])
def test_tiny_shakespeare_gives_nanogpts_figures(tmp_path, monkeypatch, encoding, train, val):
    pinned = corpora.TINY_SHAKESPEARE
    monkeypatch.setattr(corpora, "TINY_SHAKESPEARE",
                        Mirrored("x.txt", pinned.sha256, (Local(TINY),)))
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
    (spoil(lambda d: d.pop()), "has 2023 bytes, and its header's 500 tokens take 2024"),
    (spoil(lambda d: d.__setitem__(slice(1030, 1032), b"\xff\xff")), "holds the token id 65535"),
    (lambda f: (f / "fineweb_val_000000.bin").unlink(), "none for val"),
    (lambda f: (f / "fineweb_val_000000.bin").write_bytes(header(0)),
     "shards with tokens for val; those for it are empty"),
    (lambda f: np.save(f / "x.npy", np.zeros(3, np.int32)), "one row of uint16, not int32"),
    (lambda f: (f / "x.npy").write_bytes(b"\x93NUMPY"), "is not a whole .npy file"),
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


def test_initial_weights_are_a_marker_or_a_model_without_pickles(tmp_path):
    fetch_model(None, tmp_path / "init")
    assert [p.name for p in (tmp_path / "init").iterdir()] == [SOURCE]
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "pytorch_model.bin", "notes.txt"):
        (model / name).write_text("{}")
    with pytest.raises(ConfigError, match=r"must hold config.json and \*.safetensors"):
        fetch_model(str(model), tmp_path / "init")
    (model / "model.safetensors").write_bytes(b"weights")
    fetch_model(str(model), tmp_path / "init")
    assert sorted(p.name for p in (tmp_path / "init").iterdir()) == [
        "config.json", SOURCE, "model.safetensors"]
    assert (tmp_path / "init" / SOURCE).read_text() == f"{model}\n"


def test_a_misspelt_model_directory_is_no_hub_id(tmp_path, monkeypatch):
    """Nothing here asks the network."""
    copy = tmp_path / ".dvc/tmp/exps/tmp1"
    (copy / "models").mkdir(parents=True)
    (tmp_path / "models/books").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "models/books" / name).write_text("{}")
    monkeypatch.chdir(copy)
    fetch_model("models/books", copy / "init")  # the main checkout's: git does not track it
    assert (copy / "init/model.safetensors").is_file()
    (copy / "weights.pt").write_text("")
    for wrong in ("models/nope", "./nope", "/no/such", "~/nope", "a/b/c", "weights.pt"):
        with pytest.raises(ConfigError, match="no such directory; correct the path") as caught:
            fetch_model(wrong, copy / "init")
        assert f"model.init_from={wrong!r}" in str(caught.value)
