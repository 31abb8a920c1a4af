"""The terminal, with files in place of a person."""

import io

import torch
from small import random_model

from reprogpt import hf
from reprogpt.chat import converse, pieces
from reprogpt.config import SampleConfig
from reprogpt.samples import write
from reprogpt.tokenizers import CharTokenizer, Gpt2Tokenizer, _byte_of

torch.set_num_threads(1)
CFG = SampleConfig(prompts=["ab"], num_samples=1, max_new_tokens=30, temperature=1.0, top_k=None,
                   top_p=None)


def test_what_streams_is_what_is_sampled():
    tokenizer = CharTokenizer("abc\n")
    model = random_model(tokenizer.n_vocab, scale=0.3)
    streamed = list(pieces(model, tokenizer, "ab", CFG, 7))
    assert "".join(streamed) == write(model, tokenizer, CFG, 7)[0][0]
    assert all(len(piece) <= 1 for piece in streamed)


def test_characters_of_several_tokens_come_whole():
    # every byte a token: é takes two, 字 three
    by_byte = {b: c for c, b in _byte_of().items()}
    encoder = {by_byte[b]: b for b in range(256)} | {"<|endoftext|>": 256}
    tokenizer = Gpt2Tokenizer("#version: 0.2\n", encoder)
    model = random_model(tokenizer.n_vocab, scale=0.5)
    streamed = list(pieces(model, tokenizer, "é字", CFG, 3))
    assert "".join(streamed) == write(model, tokenizer, CFG.model_copy(
        update={"prompts": ["é字"]}), 3)[0][0]


def test_a_conversation_ends_with_its_input_and_survives_odd_prompts(tmp_path):
    tokenizer = CharTokenizer("abc\n")
    tokenizer.save(tmp_path / "tok")
    model = random_model(tokenizer.n_vocab)
    hf.save_model(tmp_path / "m", model, model.cfg, tmp_path / "tok")
    out = io.StringIO()
    converse(tmp_path / "m", CFG, 1, "cpu", io.StringIO("ab\nz\n\na\\nb\n"), out)
    said = out.getvalue()
    assert said.count("\n> ") == 5
    assert "'z'" in said
    loaded, _ = hf.load_model(tmp_path / "m")
    assert "ab" + write(loaded, tokenizer, CFG, 1)[0][0] in said
