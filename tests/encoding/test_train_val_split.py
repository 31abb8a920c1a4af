"""Which documents are held out: by hash, the first, the tail; and what each split counts."""

import numpy as np
import pytest

from reprogpt.data.raw_text import Document
from reprogpt.encoding.tokenize_corpus import tokenize
from reprogpt.encoding.train_val_split import draw
from reprogpt.errors import ConfigError
from reprogpt.tokens.manifest import read_manifest
from reprogpt.tokens.tokenizers import gpt2_tokenizer, load_tokenizer
from tests.encoding.small_corpora import EOT, config, documents_of, raw, reference, stream


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


def test_a_documents_draw_is_splitmix64s():
    def splitmix64(x):  # its reference implementation, in Python's integers
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    hashes, seed = [0, 1, 2**63 - 1, 123456789], 5
    drawn = draw(np.array(hashes, np.uint64), seed).tolist()
    assert drawn == [splitmix64((h + seed * 0x9E3779B97F4A7C15) % 2**64) for h in hashes]


def test_a_long_document_is_drawn_whole(tmp_path):
    texts = [f"{n} bottles of beer on the wall, " * (90 if n % 4 else 5) for n in range(40)]
    folder = raw(tmp_path / "raw", texts)
    cfg = config(val_fraction=0.3)
    whole = tokenize(cfg, folder, tmp_path / "a")
    parts = tokenize(cfg, folder, tmp_path / "b", chunk_bytes=300)
    assert whole == parts
    assert sum(t.documents for t in parts.totals.values()) == 40


def test_a_split_named_by_the_corpus_comes_first(tmp_path):
    documents = [Document(f"number {n}", None, "val" if n == 7 else "train") for n in range(9)]
    tokenize(config(split="first", val_fraction=0.5), raw(tmp_path / "raw", documents),
             tmp_path / "out")
    held = documents_of(stream(tmp_path / "out", "val"))
    assert [d.tolist() for d in held] == [reference("number 7")]
