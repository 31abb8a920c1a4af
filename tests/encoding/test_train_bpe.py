"""A trained byte pair encoding, against the textbook algorithm in a few slow lines, Hugging Face's
`tokenizers` and transformers."""

import collections
import itertools
import json

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from reprogpt.data.raw_text import read_meta
from reprogpt.encoding import chunks
from reprogpt.encoding.chunks import chunks_of, encode_chunk
from reprogpt.encoding.encoder import ODD_TEXTS, gigatoken_ids
from reprogpt.encoding.tokenize_corpus import tokenize
from reprogpt.encoding.train_bpe import train_bpe, training_text
from reprogpt.errors import ConfigError
from reprogpt.formats.huggingface import check_tokenizer, save_model
from reprogpt.model.gpt import GPT
from reprogpt.tokens.tokenizers import EOT, WORDS, _byte_of, gpt2_tokenizer, load_tokenizer
from tests.encoding.small_corpora import config, raw, runtime, stream
from tests.small_models import model_config

pytest.importorskip("gigatoken")
ORDER = {byte: n for n, byte in enumerate(_byte_of().values())}
PROSE = ("It was the best of times, it was the worst of times; naïve café 日本語 I'll say 3.14\n\n"
         "the theatre, then thine: therein\n") * 3


def textbook(documents: list[str], merges: int) -> list[bytes]:
    """The tokens that each merge makes, the most frequent pair first, of equal ones that with the
    smaller ids."""
    words = collections.Counter(tuple(bytes([b]) for b in word.encode())
                                for text in documents for word in regex.findall(WORDS, text))
    ids = {bytes([byte]): n for byte, n in ORDER.items()}
    made: list[bytes] = []
    while len(made) < merges:
        pairs: collections.Counter = collections.Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], ids[pair[0]], ids[pair[1]]))
        made.append(b"".join(best))
        ids[made[-1]] = 255 + len(made)
        shorter: collections.Counter = collections.Counter()
        for word, count in words.items():
            left, new = list(word), []
            while left:
                pair = tuple(left[:2])
                new.append(b"".join(pair) if pair == best else left[0])
                left = left[2 if pair == best else 1:]
            shorter[tuple(new)] += count
        words = shorter
    return made


def joined(documents: list[str]) -> bytes:
    return b"".join(b"\xff" + text.encode() for text in documents)


def tokens_of(tokenizer) -> list[bytes]:
    return sorted(tokenizer.ranks, key=tokenizer.ranks.__getitem__)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from("aab b é1\n"), min_size=1, max_size=80), min_size=1,
                max_size=4), st.integers(1, 60))
def test_merges_are_the_textbook_s(documents, merges):
    wanted = textbook(documents, merges)
    if len(wanted) == merges:
        tokenizer = train_bpe(joined(documents), 256 + merges)
        assert tokens_of(tokenizer)[256:] == wanted
        assert (tokenizer.n_vocab, tokenizer.eot) == (257 + merges, 256 + merges)
    else:  # the message names the largest vocabulary, and that one can be had
        with pytest.raises(ConfigError, match=f"vocab_size={256 + merges} .*set it to "
                                              f"{256 + len(wanted)} or less"):
            train_bpe(joined(documents), 256 + merges)
        assert tokens_of(train_bpe(joined(documents), 256 + len(wanted)))[256:] == wanted


def test_prose_has_the_textbook_s_merges_and_those_of_tokenizers():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    documents = [PROSE, "times\nof the theatre", "  x"]
    found = tokens_of(train_bpe(joined(documents), 300))
    assert found == [bytes([b]) for b in _byte_of().values()] + textbook(documents, 44)
    assert found[:256] == tokens_of(gpt2_tokenizer())[:256]  # GPT-2's order of the bytes
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.train_from_iterator(documents, trainers.BpeTrainer(
        vocab_size=300, min_frequency=0, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    merges = json.loads(theirs.to_str())["model"]["merges"]
    byte_of = _byte_of()
    assert [bytes(byte_of[c] for c in a + b) for a, b in merges] == found[256:]


def test_training_prints_nothing(capfd):
    train_bpe(joined([PROSE]), 300)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def corpus(tmp_path):
    """Eight documents; those that `hash` holds out have words of their own."""
    texts = [PROSE * 4 + f"document {n} zzqx{n}zzqx{n} " * 30 for n in range(8)]
    return raw(tmp_path / "raw", texts, part_bytes=4000), texts


BPE = {"encoding": "bpe", "vocab_size": 300}


def test_it_is_trained_on_the_training_documents_alone(corpus, tmp_path):
    folder, texts = corpus
    manifest = tokenize(config(**BPE), folder, tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out/tokenizer")
    assert manifest.tokenizer == {"name": "bpe", "n_vocab": 301,
                                  "fingerprint": tokenizer.fingerprint}
    found = {split: [tokenizer.decode(d[1:]) for d in np.split(
        ids, np.flatnonzero(ids == tokenizer.eot))[1:]] for split in ("train", "val")
        for ids in [stream(tmp_path / "out", split)]}
    assert found["train"] + found["val"] != texts
    assert sorted(found["train"] + found["val"]) == sorted(texts)
    assert tokens_of(tokenizer)[256:] == textbook(found["train"], 44)
    assert tokens_of(tokenizer)[256:] != textbook(texts, 44)
    totals = manifest.totals["val"]
    assert tokenizer.token_bytes()[stream(tmp_path / "out", "val")].sum() == totals.bytes


def test_workers_and_chunks_change_no_byte_and_a_repeat_encodes_nothing(corpus, tmp_path,
                                                                        monkeypatch):
    folder, _ = corpus
    results = set()
    for settings_, size in ((None, 1 << 20), (runtime(encoder="tiktoken"), 3000),
                            (runtime(workers=2), 700)):
        tokenize(config(**BPE), folder, tmp_path / "out", settings_, chunk_bytes=size)
        results.add(tuple(p.read_bytes() for p in sorted((tmp_path / "out").rglob("*.*"))))
    assert len(results) == 1

    def never(*args):
        raise AssertionError("encoded again")

    monkeypatch.setattr(chunks, "_encode", never)
    tokenize(config(**BPE), folder, tmp_path / "out", chunk_bytes=700)


@pytest.mark.parametrize("chunk_bytes", [100, 1 << 20])
def test_a_large_corpus_gives_the_beginning_of_every_part(corpus, chunk_bytes):
    folder, texts = corpus
    meta = read_meta(folder)
    settings_ = chunks.Settings(folder, "none", "documents")
    results = [encode_chunk(settings_, c) for c in chunks_of(folder, meta, None, chunk_bytes)]
    held = [np.zeros(len(encoded.documents()), bool) for encoded in results]
    whole = training_text(folder, results, held)
    assert whole == joined(texts)
    limit = meta.bytes // 3
    sample = training_text(folder, results, held, limit)
    assert limit - 4 * len(meta.parts) <= len(sample.replace(b"\xff", b"")) <= limit
    for part in meta.parts:
        start = (folder / part.text).read_bytes()[:part.bytes // 3 - 4]
        assert start in sample.replace(b"\xff", b"")
    sample.replace(b"\xff", b"").decode()  # no character is divided


@pytest.mark.slow
def test_a_model_with_it_opens_in_transformers_with_the_same_ids(tmp_path):
    from transformers import AutoTokenizer, GPT2LMHeadModel

    tokenizer = train_bpe(joined([PROSE, *(t for t in ODD_TEXTS if len(t) < 300)]), 420)
    tokenizer.save(tmp_path / "tokenizer")
    cfg = model_config()
    save_model(tmp_path / "m", GPT(cfg, tokenizer.n_vocab), cfg, tmp_path / "tokenizer")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert len(theirs) == 421
    assert GPT2LMHeadModel.from_pretrained(tmp_path / "m").config.eos_token_id == theirs(
        EOT)["input_ids"][0] == tokenizer.eot == 420
    for text in (PROSE, *ODD_TEXTS):
        ids = tokenizer.encode(text).tolist()
        assert gigatoken_ids(tokenizer, text.encode()).tolist() == ids
        assert tokenizer.decode(ids) == text
        if EOT not in text:  # which transformers takes for the token
            assert theirs(text)["input_ids"] == ids
    loaded = load_tokenizer(tmp_path / "m")
    assert (loaded.name, loaded.fingerprint) == ("bpe", tokenizer.fingerprint)
    assert gpt2_tokenizer().name == "gpt2"


@pytest.mark.parametrize("split", ["first", "tail"])
def test_other_splits_train_on_their_own_side(corpus, tmp_path, split):
    folder, texts = corpus
    tokenize(config(**BPE, split=split), folder, tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out/tokenizer")
    trained = "".join(tokenizer.decode(stream(tmp_path / "out", "train"))).split(EOT)[1:]
    assert "".join(trained) in "".join(texts)
    assert tokens_of(tokenizer)[256:] == textbook(trained, 44)


def test_a_model_cannot_go_on_with_another_trained_tokenizer(tmp_path):
    cfg = model_config()
    for name, text in (("one", PROSE), ("two", PROSE.upper())):
        train_bpe(joined([text]), 300).save(tmp_path / name)
    save_model(tmp_path / "m", GPT(cfg, 301), cfg, tmp_path / "one")
    same, other = (load_tokenizer(tmp_path / name) for name in ("one", "two"))
    as_manifest = [{"name": t.name, "n_vocab": t.n_vocab, "fingerprint": t.fingerprint}
                   for t in (same, other)]
    check_tokenizer(tmp_path / "m", as_manifest[0])
    with pytest.raises(ValueError, match=r"its tokenizer \(bpe, 301 ids\) is not.*init_from: null"):
        check_tokenizer(tmp_path / "m", as_manifest[1])


def test_without_gigatoken_it_cannot_be_trained(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gigatoken.gigatoken_rs", None)
    with pytest.raises(ConfigError, match="encoding='bpe' is trained by gigatoken.*install"):
        train_bpe(joined([PROSE]), 300)
