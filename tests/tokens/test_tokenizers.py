"""Tokenizers against tiktoken and transformers."""

import json

import numpy as np
import pytest
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from reprogpt.storage.fetch import fetch
from reprogpt.tokens.tokenizers import (
    ENCODER_JSON,
    EOT,
    VOCAB_BPE,
    WORDS,
    BpeTokenizer,
    CharTokenizer,
    gpt2_tokenizer,
    load_tokenizer,
    shard_tokenizer,
)

TEXTS = ["", "Hello, world!", "I'll  see\n\n you're\t99 bottles", "naïve 日本語 🙂",
         "<|endoftext|>", " " * 20, "a\r\nb", "x\ud83d\ude00y", "\ud800"]


@pytest.fixture(scope="module")
def reference() -> tiktoken.Encoding:
    """tiktoken's own gpt2, built by tiktoken's own code from the two files."""
    from tiktoken_ext import openai_public

    ranks = data_gym_to_mergeable_bpe_ranks(str(fetch(VOCAB_BPE)), str(fetch(ENCODER_JSON)))
    return tiktoken.Encoding("gpt2", pat_str=openai_public.r50k_pat_str, mergeable_ranks=ranks,
                             special_tokens={EOT: 50256}, explicit_n_vocab=50257)


def test_gpt2_gives_tiktokens_ids(reference):
    tokenizer = gpt2_tokenizer()
    assert (tokenizer.n_vocab, tokenizer.eot) == (50257, 50256)
    assert tokenizer.encoding._pat_str == reference._pat_str == WORDS
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids.dtype == np.uint16
        assert ids.tolist() == reference.encode_ordinary(text)
        assert tokenizer.decode(ids) == reference.decode(ids.tolist())


def test_token_bytes_count_the_text(reference):
    sizes = gpt2_tokenizer().token_bytes()
    assert sizes.shape == (50257,)
    assert sizes[50256] == 0
    for text in TEXTS[:7]:
        assert sizes[gpt2_tokenizer().encode(text)].sum() == len(text.encode())


@pytest.mark.slow
def test_the_saved_form_opens_in_transformers(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = gpt2_tokenizer()
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == 50257
    assert theirs.eos_token_id == 50256
    for text in TEXTS[:4]:
        assert theirs(text)["input_ids"] == tokenizer.encode(text).tolist()
        assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs(EOT)["input_ids"] == [50256]


@pytest.mark.parametrize("kept", [("vocab.json", "merges.txt"), ("tokenizer.json",)])
def test_every_saved_form_loads_back_the_same(tmp_path, kept):
    gpt2_tokenizer().save(tmp_path)
    for path in tmp_path.iterdir():
        if path.name not in kept:
            path.unlink()
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == gpt2_tokenizer().fingerprint
    assert loaded.encode("The same ids.").tolist() == gpt2_tokenizer().encode(
        "The same ids.").tolist()


def test_transformers_own_files_load(tmp_path):
    from transformers import GPT2TokenizerFast

    gpt2_tokenizer().save(tmp_path / "ours")
    GPT2TokenizerFast.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").fingerprint == gpt2_tokenizer().fingerprint


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


def test_merges_out_of_order_are_refused():
    merges = fetch(VOCAB_BPE).read_text(encoding="utf-8").split("\n")
    merges[1], merges[2] = merges[2], merges[1]
    with pytest.raises(ValueError, match="merge 0 of the tokenizer"):
        BpeTokenizer("\n".join(merges), json.loads(fetch(ENCODER_JSON).read_bytes()))


def test_characters_are_sorted_and_saved(tmp_path):
    tokenizer = CharTokenizer("hello wörld 🙂")
    assert tokenizer.characters == " dehlorwö🙂"
    assert tokenizer.eot is None
    ids = tokenizer.encode("low 🙂")
    assert ids.tolist() == [4, 5, 7, 0, 9]
    assert tokenizer.decode(ids) == "low 🙂"
    assert tokenizer.token_bytes().tolist() == [1] * 8 + [2, 4]
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("wörld").tolist() == tokenizer.encode("wörld").tolist()


def test_unknown_characters_are_an_error_or_dropped():
    with pytest.raises(ValueError, match=r"'z' is not among the 3 .*tokenize.unknown: drop"):
        CharTokenizer("abc").encode("abz")
    assert CharTokenizer("abc", "drop").encode("zabzc~").tolist() == [0, 1, 2]
    assert len(CharTokenizer("abc").encode("")) == 0


def test_a_vocabulary_must_fit_uint16():
    everything = "".join(map(chr, (n for n in range(70_000) if not 0xD800 <= n < 0xE000)))
    with pytest.raises(ValueError, match="does not fit uint16"):
        CharTokenizer(everything)
    with pytest.raises(ValueError, match="vocabulary of 0"):
        CharTokenizer("")


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"null", None])
def test_a_saved_file_that_was_changed_emptied_or_removed_is_named(tmp_path, file, content):
    gpt2_tokenizer().save(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file}: (has the sha256|is missing).*again"):
        load_tokenizer(tmp_path)


def test_a_list_of_checksums_that_names_nothing_vouches_for_nothing(tmp_path):
    CharTokenizer("abc").save(tmp_path)
    (tmp_path / "SHA256SUMS").write_text("")
    with pytest.raises(ValueError, match=r"char_vocab\.json: is not listed in SHA256SUMS"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("value", [None, True, 7, 1.5, "text", [], [1], ["b", "a"], {}, {"a": 1},
                                   {"a": "x"}, {"characters": ["a"], "unknown": 5},
                                   {"characters": [1], "unknown": "error"},
                                   {"characters": ["b", "a"], "unknown": "error"},
                                   {"model": None}, {"model": {"type": "BPE", "vocab": []}},
                                   {"model": {"type": "BPE", "vocab": {EOT: 0}, "merges": [3]}}])
def test_others_files_of_other_shapes_are_one_line(tmp_path, value):
    for file in ("tokenizer.json", "vocab.json", "char_vocab.json"):  # each goes before the last
        (tmp_path / file).write_text(json.dumps(value))
        (tmp_path / "merges.txt").write_text("")
        with pytest.raises(ValueError, match="tokenizer") as caught:
            load_tokenizer(tmp_path)
        assert "\n" not in str(caught.value)


def test_merges_that_do_not_make_the_vocabulary_are_refused():
    encoder = json.loads(fetch(ENCODER_JSON).read_bytes())
    merges = fetch(VOCAB_BPE).read_text(encoding="utf-8")
    for text in ("", "#version: 0.2\n", merges[:len(merges) // 2]):
        with pytest.raises(ValueError, match="merge|not 256 bytes"):
            BpeTokenizer(text, encoder)
    with pytest.raises(ValueError, match="not 256 bytes"):
        BpeTokenizer(merges, encoder | {"[PAD]": 50257})


def test_shards_know_their_tokenizer(tmp_path):
    tokenizer = CharTokenizer("abc")
    tokenizer.save(tmp_path / "tokenizer")
    identity = {"name": "char", "n_vocab": 3, "fingerprint": tokenizer.fingerprint}
    assert shard_tokenizer(tmp_path, identity).characters == "abc"
    CharTokenizer("abd").save(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="not the tokenizer that made the shards"):
        shard_tokenizer(tmp_path, identity)
