"""The stage tokenize: what the shards hold, by tiktoken and by llm.c's format alone."""

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reprogpt.data.raw_text import Document, read_meta, read_part
from reprogpt.encoding import chunks
from reprogpt.encoding.tokenize_corpus import tokenize
from reprogpt.errors import ConfigError
from reprogpt.tokens.manifest import read_manifest
from reprogpt.tokens.shards import TokenStream
from reprogpt.tokens.tokenizers import gpt2_tokenizer, load_tokenizer
from tests.conftest import ROOT
from tests.encoding.small_corpora import (
    ODD,
    config,
    documents_of,
    raw,
    reference,
    repaired,
    runtime,
    stream,
)


def test_every_document_comes_back_with_tiktokens_ids(tmp_path):
    manifest = tokenize(config(), raw(tmp_path / "raw", ODD), tmp_path / "out")
    shards = [stream(tmp_path / "out", split) for split in ("train", "val")]
    got = sorted(d.tolist() for tokens in shards for d in documents_of(tokens))
    assert got == sorted(reference(text) for text in ODD if text)
    tokenizer = load_tokenizer(tmp_path / "out/tokenizer")
    texts = sorted(tokenizer.decode(d[1:]) for d in got)
    assert texts == sorted(repaired(text) for text in ODD if text)
    totals = manifest.totals
    assert sum(t.documents for t in totals.values()) == len(ODD) - 1
    assert sum(t.dropped["empty"] for t in totals.values()) == 1
    assert sum(t.bytes for t in totals.values()) == sum(len(repaired(t).encode()) for t in ODD)
    assert [t.tokens for t in totals.values()] == [len(s) for s in shards]
    assert sum(s.documents for s in manifest.shards) == len(ODD) - 1


@settings(max_examples=15, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=[]), max_size=60), min_size=3,
                      max_size=12),
       split=st.sampled_from(["hash", "first"]), piece=st.integers(1, 200))
def test_any_documents_round_trip(tmp_path, texts, split, piece):
    texts = [*texts, "one more", "and another"]
    shutil.rmtree(tmp_path / "raw", ignore_errors=True)
    folder = raw(tmp_path / "raw", texts, part_bytes=100)
    size = {"val_tokens": 1} if split == "first" else {"val_fraction": 0.5}
    values = {"split": split, "val_fraction": None, **size}
    try:
        tokenize(config(**values), folder, tmp_path / "out", chunk_bytes=piece)
    except ConfigError:
        return  # everything fell on one side
    got = [d.tolist() for s in ("train", "val") for d in documents_of(stream(tmp_path / "out", s))]
    assert sorted(got) == sorted(reference(repaired(text)) for text in texts if text)


def test_a_long_document_is_cut_and_stays_one(tmp_path):
    long = "It was the best of times,\nit was the worst of times. " * 400
    folder = raw(tmp_path / "raw", ["short", long, "日本語のテキスト、" * 500, "end"])
    assert len(list(chunks.chunks_of(folder, read_meta(folder), chunk_bytes=2000))) >= 12
    tokenize(config(split="first", val_fraction=None, val_tokens=1), folder, tmp_path / "out",
             chunk_bytes=2000)
    rest = [*reference(long), *reference("日本語のテキスト、" * 500), *reference("end")]
    assert stream(tmp_path / "out", "train").tolist() == rest
    manifest = read_manifest(tmp_path / "out")
    assert manifest.totals["train"].documents == 3


@pytest.mark.slow
def test_workers_and_chunk_size_change_no_byte(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    words = ["lorem", "ipsum ", "dolor\n", " sit", "amet, ", "'s", "  ", "42"]
    texts = ["".join(rng.choice(words, rng.integers(0, 900))) for _ in range(60)]
    folder = raw(tmp_path / "raw", texts, part_bytes=30_000)
    monkeypatch.setattr("reprogpt.encoding.tokenize_corpus.SMALL", 0)
    found = set()
    for workers, piece in ((1, 1 << 20), (2, 5000)):
        monkeypatch.setenv("REPROGPT_CACHE", str(tmp_path / f"cache{workers}"))
        (tmp_path / f"cache{workers}").mkdir()
        (tmp_path / f"cache{workers}/files").symlink_to(tmp_path / "cache/files")
        tokenize(config(), folder, tmp_path / "out", runtime(workers=workers), chunk_bytes=piece)
        found.add(tuple(p.read_bytes() for p in sorted((tmp_path / "out").glob("*.*"))))
    assert len(found) == 1


def test_a_repeated_run_encodes_nothing(tmp_path, monkeypatch):
    texts = [f"document {n} " * 300 for n in range(20)]
    folder = raw(tmp_path / "raw", texts)
    first = tokenize(config(), folder, tmp_path / "out")

    def never(*args):
        raise AssertionError("encoded again")

    monkeypatch.setattr(chunks, "_encode", never)
    assert tokenize(config(), folder, tmp_path / "out") == first
    with pytest.raises(AssertionError, match="again"):
        tokenize(config(), raw(tmp_path / "raw2", [*texts, "new"]), tmp_path / "out")


KILLED = """
import sys, time
from pathlib import Path
from reprogpt.encoding import chunks
from reprogpt.encoding.tokenize_corpus import tokenize
from tests.encoding.small_corpora import config
made = chunks._encode
def slowly(*arguments):
    time.sleep(0.05)
    return made(*arguments)
chunks._encode = slowly
tokenize(config(), Path(sys.argv[1]), Path(sys.argv[2]), chunk_bytes=1000)
"""


def finished_chunks(tmp_path) -> int:
    return len([p for p in (tmp_path / "cache/chunks").rglob("*.npz") if ".tokens" not in p.name])


@pytest.mark.slow
def test_a_killed_run_goes_on_at_the_last_finished_chunk(tmp_path, monkeypatch):
    folder = raw(tmp_path / "raw", [f"text number {n}, " * 60 for n in range(60)])
    root = ROOT
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(tmp_path / "out")],
                             env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while finished_chunks(tmp_path) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.wait()
    done = finished_chunks(tmp_path)
    count = len(list(chunks.chunks_of(folder, read_meta(folder), chunk_bytes=1000)))
    assert 5 <= done < count
    assert not (tmp_path / "out/manifest.json").exists()
    made, real = [], chunks._encode
    monkeypatch.setattr(chunks, "_encode", lambda *a: made.append(a) or real(*a))
    resumed = tokenize(config(), folder, tmp_path / "out", chunk_bytes=1000)
    assert len(made) == count - done
    monkeypatch.setenv("REPROGPT_CACHE", str(tmp_path / "fresh"))
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh/files").symlink_to(tmp_path / "cache/files")
    assert tokenize(config(), folder, tmp_path / "out2", chunk_bytes=1000) == resumed


@pytest.mark.parametrize("spoiled", [b"", bytes(300), None])
def test_a_torn_record_of_a_chunk_is_made_anew(tmp_path, spoiled):
    folder = raw(tmp_path / "raw", [f"text number {n}, " * 200 for n in range(20)])
    first = tokenize(config(), folder, tmp_path / "out", chunk_bytes=2000)
    for path in (tmp_path / "cache/chunks").rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:-30] if spoiled is None else spoiled)
    assert tokenize(config(), folder, tmp_path / "out", chunk_bytes=2000) == first


def test_masked_documents_carry_their_spans_by_character(tmp_path):
    documents = [Document("12+30=42\n", ((6, 9),), "train"), Document("é+1=?\n", ((4, 6),), "val"),
                 Document("9+9=18\n", (), "train")]
    folder = raw(tmp_path / "raw", documents)
    assert list(read_part(folder, read_meta(folder).parts[0])) == documents
    tokenize(config(encoding="char", unknown="drop"), folder, tmp_path / "out")
    tokens = TokenStream(tmp_path / "out", "train", "full")
    assert tokens.read_mask(0, tokens.n_tokens).tolist() == [0] * 6 + [1] * 3 + [0] * 7
    val = TokenStream(tmp_path / "out", "val", "full")
    tokenizer = load_tokenizer(tmp_path / "out/tokenizer")
    assert tokenizer.decode(val.read(0, val.n_tokens)) == "+1=\n"
    assert val.read_mask(0, 4).tolist() == [0, 0, 0, 1]
    assert read_manifest(tmp_path / "out").totals["val"].dropped["unknown_characters"] == 2


def test_masked_documents_carry_their_spans_by_token(tmp_path):
    text = "Q: naïve question? A: an answer."
    start = text.index("an answer")
    documents = [Document(text, ((start, len(text)),), split) for split in ("train", "val")]
    tokenize(config(), raw(tmp_path / "raw", documents), tmp_path / "out")
    tokens = TokenStream(tmp_path / "out", "train", "full")
    ids, mask = tokens.read(0, tokens.n_tokens), tokens.read_mask(0, tokens.n_tokens)
    # " an" begins with the space before the span, so the first target is " answer".
    assert gpt2_tokenizer().decode(ids[mask == 1]) == " answer."


def test_an_unknown_character_is_named(tmp_path):
    documents = [Document("abc\n", None, "train"), Document("abz\n", None, "val")]
    with pytest.raises(ValueError, match="'z' is not among the 4 "):
        tokenize(config(encoding="char"), raw(tmp_path / "raw", documents), tmp_path / "out")


@pytest.mark.parametrize("suffix", ["txt", "npy"])
def test_a_flipped_bit_of_the_raw_text_is_no_other_result(tmp_path, suffix):
    documents = [Document("abc\n", None, "train"), Document("ab\n", None, "val")]
    folder = raw(tmp_path / "raw", documents)
    file = next(folder.glob(f"*.{suffix}"))
    content = bytearray(file.read_bytes())
    content[1 if suffix == "txt" else -32] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file.name}.*is damaged.*the stage download"):
        tokenize(config(), folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
