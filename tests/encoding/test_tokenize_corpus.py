"""The stage tokenize: what the shards hold, by tiktoken and by llm.c's format alone."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reprogpt.config import RuntimeConfig, TokenizeConfig
from reprogpt.data.collect import Source, collect
from reprogpt.data.raw_text import Document, Meta, read_meta, write_meta
from reprogpt.encoding.chunks import cut
from reprogpt.encoding.encoder import encoder
from reprogpt.encoding.split_points import safe_cut
from reprogpt.encoding.tokenize_corpus import tokenize
from reprogpt.errors import ConfigError
from reprogpt.runtime.workers import Processes
from reprogpt.tokens.manifest import read_manifest
from reprogpt.tokens.shards import TokenStream
from reprogpt.tokens.tokenizers import gpt2_tokenizer, load_tokenizer
from tests.conftest import ROOT, read_documents

EOT = 50256
ODD = [
    "", "a", "\n", "The quick brown fox.\n" * 40, "naïve café — “quotes” …", "🙂👨‍👩‍👧 " * 9,
    "\ud83d\ude00 pair, lone \ud800 and \udfff", "<|endoftext|> is text here", "\x00\x7f\ufeff",
    "日本語、" * 50, "tabs\t\tand\r\nlines\r\n", " " * 100, "x" * 3000, "1234567890" * 30,
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of its own, with the fetched files of the machine's."""
    from reprogpt.storage.paths import cache_dir
    from reprogpt.tokens.tokenizers import ENCODER_JSON, VOCAB_BPE, fetch

    fetch(VOCAB_BPE)
    fetch(ENCODER_JSON)
    files = cache_dir() / "files"
    monkeypatch.setenv("REPROGPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "files").symlink_to(files)


def config(**values) -> TokenizeConfig:
    base = {"encoding": "gpt2", "shard_tokens": 1024, "split": "hash", "val_fraction": 0.3}
    return TokenizeConfig(**{**base, **values})


def runtime(**values) -> RuntimeConfig:
    return RuntimeConfig(**{"device": "cpu", "nproc": 1, "micro_batch": 1, "compile": False,
                            "workers": 1, "checkpoint_interval": 1, "launcher": "torchrun",
                            "resume": None, **values})


def raw(folder: Path, documents, part_bytes=1 << 20) -> Path:
    documents = [d if isinstance(d, Document) else Document(d) for d in documents]
    source = Source("test", "", lambda first: iter(documents[first:]))
    parts = collect([source], folder, part_bytes=part_bytes)
    write_meta(folder, Meta("test", "0", tuple(parts)))
    return folder


def parse_llmc(path: Path) -> np.ndarray:
    """A shard by llm.c's format alone: dev/data/data_common.py's header, then uint16."""
    data = path.read_bytes()
    head = np.frombuffer(data[:1024], np.int32)
    assert head[0] == 20240520
    assert head[1] == 1
    assert len(data) == 1024 + 2 * head[2]
    return np.frombuffer(data[1024:], np.uint16)


def stream(folder: Path, split: str) -> np.ndarray:
    files = sorted(folder.glob(f"{split}_*.bin"))
    return np.concatenate([parse_llmc(f) for f in files]) if files else np.zeros(0, np.uint16)


def documents_of(tokens: np.ndarray) -> list[np.ndarray]:
    return np.split(tokens, np.flatnonzero(tokens == EOT))[1:]


def repaired(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def reference(text: str) -> list[int]:
    encoding = gpt2_tokenizer().encoding
    assert isinstance(encoding, tiktoken.Encoding)
    return [EOT, *encoding.encode_ordinary(text)]


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
        tokenize(config(**values), folder, tmp_path / "out", piece_bytes=piece)
    except ConfigError:
        return  # everything fell on one side
    got = [d.tolist() for s in ("train", "val") for d in documents_of(stream(tmp_path / "out", s))]
    assert sorted(got) == sorted(reference(repaired(text)) for text in texts if text)


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from(
    ["a", "word's", "'", "s", " ", "  ", "\n", "\r\n", "\u3000", "\xa0", "\x1c", "9", "日本", "。",
     "é", "e\u0301", "!", "'ll", "🙂", "\t", "x" * 30, "한국", ".", "\ufeff"]), min_size=1,
    max_size=120), at=st.integers(0, 200))
def test_a_safe_cut_changes_no_id(tmp_path, words, at):
    text = "".join(words)
    data = text.encode()
    path = tmp_path / "text"
    path.write_bytes(data)
    with path.open("rb") as file:
        place = safe_cut(file.fileno(), min(at, len(data)), len(data))
    left, right = data[:place].decode(), data[place:].decode()
    encode = gpt2_tokenizer().encode
    assert [*encode(left), *encode(right)] == encode(text).tolist()


def test_a_long_document_is_cut_and_stays_one(tmp_path):
    long = "It was the best of times,\nit was the worst of times. " * 400
    folder = raw(tmp_path / "raw", ["short", long, "日本語のテキスト、" * 500, "end"])
    pieces = list(cut(folder, read_meta(folder), piece_bytes=2000))
    assert len(pieces) > 12
    tokenize(config(split="first", val_fraction=None, val_tokens=1), folder, tmp_path / "out",
             piece_bytes=2000)
    rest = [*reference(long), *reference("日本語のテキスト、" * 500), *reference("end")]
    assert stream(tmp_path / "out", "train").tolist() == rest
    manifest = read_manifest(tmp_path / "out")
    assert manifest.totals["train"].documents == 3


@pytest.mark.slow
def test_workers_and_piece_size_change_no_byte(tmp_path, monkeypatch):
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
        tokenize(config(), folder, tmp_path / "out", runtime(workers=workers), piece_bytes=piece)
        found.add(tuple(p.read_bytes() for p in sorted((tmp_path / "out").glob("*.*"))))
    assert len(found) == 1


def test_a_repeated_run_encodes_nothing(tmp_path, monkeypatch):
    texts = [f"document {n} " * 300 for n in range(20)]
    folder = raw(tmp_path / "raw", texts)
    first = tokenize(config(), folder, tmp_path / "out")

    def never(*args):
        raise AssertionError("encoded again")

    monkeypatch.setattr("reprogpt.encoding.chunks._make", never)
    assert tokenize(config(), folder, tmp_path / "out") == first
    with pytest.raises(AssertionError, match="again"):
        tokenize(config(), raw(tmp_path / "raw2", [*texts, "new"]), tmp_path / "out")


def test_a_grown_corpus_keeps_its_validation_set_and_its_full_shards(tmp_path):
    texts = [f"{n} bottles of beer on the wall, " * (n % 7 + 1) for n in range(300)]
    small = raw(tmp_path / "small", texts[:150])
    large = raw(tmp_path / "large", texts)
    a = tokenize(config(val_fraction=0.05), small, tmp_path / "a", piece_bytes=1000)
    held = documents_of(stream(tmp_path / "a", "val"))
    b = tokenize(config(val_fraction=0.05), large, tmp_path / "b", piece_bytes=1000)
    held_now = documents_of(stream(tmp_path / "b", "val"))
    assert [d.tolist() for d in held] == [d.tolist() for d in held_now[:len(held)]]
    full = [s for s in a.of("train") if s.tokens == 1024]
    assert len(full) > 3
    assert list(b.of("train")[:len(full)]) == full
    one = tmp_path / "a/train_000000.bin"
    assert one.stat().st_ino == (tmp_path / "b/train_000000.bin").stat().st_ino


KILLED = """
import sys, time
from pathlib import Path
import reprogpt.encoding.chunks as pieces
from tests.encoding.test_tokenize_corpus import config, tokenize
from tests.conftest import ROOT
made = pieces._make
def slowly(*arguments):
    time.sleep(0.05)
    return made(*arguments)
pieces._make = slowly
tokenize(config(), Path(sys.argv[1]), Path(sys.argv[2]), piece_bytes=1000)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_at_the_last_finished_piece(tmp_path, monkeypatch):
    folder = raw(tmp_path / "raw", [f"text number {n}, " * 60 for n in range(60)])
    root = ROOT
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(tmp_path / "out")],
                             env=environment, stderr=subprocess.DEVNULL)
    pieces = tmp_path / "cache/pieces"
    deadline = time.monotonic() + 60
    while len(list(pieces.rglob("*.npz"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.wait()
    done = len(list(pieces.rglob("*.npz")))
    assert 5 <= done < 60
    assert not (tmp_path / "out/manifest.json").exists()
    import reprogpt.encoding.chunks

    made, real = [], reprogpt.encoding.chunks._make
    monkeypatch.setattr("reprogpt.encoding.chunks._make", lambda *a: made.append(a) or real(*a))
    resumed = tokenize(config(), folder, tmp_path / "out", piece_bytes=1000)
    assert len(made) == 60 - done
    monkeypatch.setenv("REPROGPT_CACHE", str(tmp_path / "fresh"))
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh/files").symlink_to(tmp_path / "cache/files")
    assert tokenize(config(), folder, tmp_path / "out2", piece_bytes=1000) == resumed


def test_freed_pieces_are_encoded_again_when_a_shard_is_lost(tmp_path):
    folder = raw(tmp_path / "raw", [f"text number {n}, " * 200 for n in range(20)])
    first = tokenize(config(), folder, tmp_path / "out", piece_bytes=2000)
    pieces = list((tmp_path / "cache/pieces").rglob("*.npz"))
    assert sum(p.with_suffix(".bin").is_file() for p in pieces) < len(pieces)
    shutil.rmtree(tmp_path / "cache/shards")
    assert tokenize(config(), folder, tmp_path / "out", piece_bytes=2000) == first


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


@pytest.mark.parametrize("spoiled", [b"", bytes(300), None])
def test_a_torn_record_of_a_piece_is_made_anew(tmp_path, spoiled):
    folder = raw(tmp_path / "raw", [f"text number {n}, " * 200 for n in range(20)])
    first = tokenize(config(), folder, tmp_path / "out", piece_bytes=2000)
    for path in (tmp_path / "cache/pieces").rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:-30] if spoiled is None else spoiled)
    assert tokenize(config(), folder, tmp_path / "out", piece_bytes=2000) == first


def _killed(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_ends_the_stage_in_a_line():
    with (Processes(2) as processes,
          pytest.raises(ValueError, match="was killed, perhaps because memory ran out")):
        list(processes.map(_killed, range(6)))


def test_masked_documents_carry_their_spans_by_character(tmp_path):
    documents = [Document("12+30=42\n", ((6, 9),), "train"), Document("é+1=?\n", ((4, 6),), "val"),
                 Document("9+9=18\n", (), "train")]
    folder = raw(tmp_path / "raw", documents)
    assert list(read_documents(folder, read_meta(folder))) == documents
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


def test_tail_cuts_the_text_by_characters(tmp_path):
    text = "é" * 90 + "x" * 110
    tokenize(config(encoding="char", split="tail", val_fraction=0.1, unknown="error"),
             raw(tmp_path / "raw", [text]), tmp_path / "out")
    totals = read_manifest(tmp_path / "out").totals
    assert (totals["train"].tokens, totals["val"].tokens) == (180, 20)


def test_tail_encodes_each_side_by_itself_without_a_separator(tmp_path):
    text = "All the world's a stage, " * 40
    tokenize(config(split="tail", val_fraction=0.1), raw(tmp_path / "raw", [text]),
             tmp_path / "out")
    at = int(len(text) * 0.9)
    assert stream(tmp_path / "out", "train").tolist() == reference(text[:at])[1:]
    assert stream(tmp_path / "out", "val").tolist() == reference(text[at:])[1:]


def test_tail_by_tokens_and_over_several_documents(tmp_path):
    texts = ["one two three " * 10, "four five six " * 10]
    folder = raw(tmp_path / "raw", texts)
    tokenize(config(split="tail", val_fraction=None, val_tokens=12), folder, tmp_path / "out")
    val = stream(tmp_path / "out", "val")
    assert len(val) == 12
    train = stream(tmp_path / "out", "train")
    assert (train == EOT).sum() == 2
    tokenizer = gpt2_tokenizer()
    whole = tokenizer.decode(train).replace("<|endoftext|>", "") + tokenizer.decode(val)
    assert whole == "".join(texts)


@pytest.mark.parametrize("encoding", ["gpt2", "char"])
def test_tail_by_tokens_never_splits_a_character(tmp_path, encoding):
    text = "abc" + "x" * 50 + "日本語🙂é" * 300
    cfg = config(encoding=encoding, split="tail", val_fraction=None, val_tokens=100)
    tokenize(cfg, raw(tmp_path / "raw", [text + "abc"]), tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out/tokenizer")
    train, val = (tokenizer.decode(stream(tmp_path / "out", s)) for s in ("train", "val"))
    assert train + val == text + "abc"
    assert 100 <= len(stream(tmp_path / "out", "val")) < 110
    with pytest.raises(ConfigError, match="must be less than the last part of the text holds"):
        tokenize(cfg.model_copy(update={"val_tokens": 10**5}), tmp_path / "raw", tmp_path / "out")


def test_first_holds_out_documents_until_there_are_enough(tmp_path):
    texts = [f"number {n} of these" for n in range(10)]
    tokenize(config(split="first", val_fraction=None, val_tokens=6), raw(tmp_path / "r", texts),
             tmp_path / "out")
    held = documents_of(stream(tmp_path / "out", "val"))
    assert [d.tolist() for d in held] == [reference(texts[0]), reference(texts[1])]


def test_a_side_without_text_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="train has none; lower it"):
        tokenize(config(split="first", val_fraction=None, val_tokens=99),
                 raw(tmp_path / "raw", ["a", "b"]), tmp_path / "out")
    with pytest.raises(ConfigError, match="use split: tail"):
        tokenize(config(), raw(tmp_path / "raw1", ["only one"]), tmp_path / "out")


def test_hash_holds_out_about_the_fraction_and_follows_the_seed(tmp_path):
    folder = raw(tmp_path / "raw", [f"text {n}" for n in range(2000)])
    count = {}
    for seed in (0, 1):
        manifest = tokenize(config(val_fraction=0.1, split_seed=seed), folder, tmp_path / "out")
        count[seed] = manifest.totals["val"]
        # binomial(2000, 0.1): mean 200, standard deviation 13.4
        assert 140 < count[seed].documents < 260
    assert count[0] != count[1]


@pytest.mark.parametrize("choice", ["auto", "tiktoken", "riptoken"])
def test_every_encoder_gives_the_same_ids(choice):
    if choice == "riptoken":
        pytest.importorskip("riptoken")
    encode = encoder("gpt2", choice)
    assert encode.fingerprint == gpt2_tokenizer().fingerprint
    for text in ODD:
        assert encode.text(text).tolist() == reference(text)[1:]
    texts = [repaired(text) for text in ODD]
    data = [text.encode() for text in texts]
    ids, counts = encode.batch(b"".join(data), np.cumsum([len(d) for d in data]), True)
    assert ids.tolist() == [i for text in texts if text for i in reference(text)]
    assert counts.tolist() == [len(reference(text)) if text else 0 for text in texts]


def test_a_fast_encoder_that_differs_is_not_used(monkeypatch):
    monkeypatch.setattr("reprogpt.encoding.encoder._riptoken", lambda tokenizer: lambda text: [0])
    encoder.cache_clear()
    assert encoder("gpt2", "auto").batch(b"hello", np.array([5]), False)[0].tolist() == [31373]
    with pytest.raises(ValueError, match="gives other ids"):
        encoder("gpt2", "riptoken")
    encoder.cache_clear()
