"""The terminal, with files in place of a person."""

import io
import sys

import pytest
import torch

from pipeline.chat import main
from pipeline.cli import Parser, one_line, options_named
from reprogpt.config import SampleConfig, TaskConfig
from reprogpt.formats import huggingface as hf
from reprogpt.generation.chat import HELP, converse, stream_text
from reprogpt.generation.samples import write
from reprogpt.tokens.tokenizers import BpeTokenizer, CharTokenizer, _byte_of
from tests.conftest import ROOT
from tests.small_models import random_model

torch.set_num_threads(1)
CFG = SampleConfig(prompts=["ab"], num_samples=1, max_new_tokens=30, temperature=1.0, top_k=None,
                   top_p=None)


def test_what_streams_is_what_is_sampled():
    tokenizer = CharTokenizer("abc\n")
    model = random_model(tokenizer.n_vocab, scale=0.3)
    streamed = list(stream_text(model, tokenizer, "ab", CFG, 7))
    assert "".join(streamed) == write(model, tokenizer, CFG, 7)[0][0]
    assert all(len(piece) <= 1 for piece in streamed)


def test_characters_of_several_tokens_come_whole():
    # every byte a token: é takes two, 字 three
    by_byte = {b: c for c, b in _byte_of().items()}
    encoder = {by_byte[b]: b for b in range(256)} | {"<|endoftext|>": 256}
    tokenizer = BpeTokenizer("#version: 0.2\n", encoder)
    model = random_model(tokenizer.n_vocab, scale=0.5)
    streamed = list(stream_text(model, tokenizer, "é字", CFG, 3))
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


def test_help_lists_the_commands_and_samples_nothing(tmp_path):
    model = random_model(4)
    CharTokenizer("abc\n").save(tmp_path / "tok")
    hf.save_model(tmp_path / "m", model, model.cfg, tmp_path / "tok")
    out = io.StringIO()
    converse(tmp_path / "m", CFG, 1, "cpu", io.StringIO("/help\n"), out)
    assert out.getvalue().split("\n> ")[1] == f"{HELP}\n"
    assert all(command in HELP for command in ("/help", "Ctrl-C", "Ctrl-D"))
    assert "\n" not in HELP


@pytest.mark.parametrize(("written", "shown"), [
    (["46", "00", "\n12"], "012+034=4600\n12+34 = 64 (wrong: 46)\n"),
    (["6", "400", "\n"], "012+034=6400\n12+34 = 46\n"),
    (["+", "=", "1"], "012+034=+=1\n12+34 = ? (wrong: 46)\n"),
])
def test_a_sum_written_by_hand_is_posed_in_the_model_s_form(tmp_path, monkeypatch, written, shown):
    """The zeros, the answer's direction and the line break are the task's."""
    tokenizer = CharTokenizer("0123456789+=\n")
    tokenizer.save(tmp_path / "tok")
    model = random_model(tokenizer.n_vocab)
    hf.save_model(tmp_path / "m", model, model.cfg, tmp_path / "tok")
    asked = []

    def stand_in(model, tokenizer, prompt, cfg, seed):
        asked.append(prompt)
        assert 0 < cfg.max_new_tokens == model.cfg.block_size - len(prompt)
        yield from written

    monkeypatch.setattr("reprogpt.generation.chat.stream_text", stand_in)
    out = io.StringIO()
    converse(tmp_path / "m", CFG, 1, "cpu", io.StringIO("12 + 34\n1234+5\n"), out,
             ("addition", TaskConfig(digits=3, reverse=True)))
    assert asked == ["012+034="]
    assert f"> {shown}" in out.getvalue()
    assert "1234+5: numbers must be 0 to 999" in out.getvalue()
    assert "12+34" in out.getvalue().splitlines()[0]  # the help


class Interrupted(io.StringIO):
    """A terminal at whose second prompt Ctrl-C is pressed."""

    def readline(self, size=-1):
        line = super().readline(size)
        if not line:
            raise KeyboardInterrupt
        return line


def test_ctrl_c_at_the_prompt_ends_the_conversation(tmp_path):
    model = random_model(4)
    CharTokenizer("abc\n").save(tmp_path / "tok")
    hf.save_model(tmp_path / "m", model, model.cfg, tmp_path / "tok")
    out = io.StringIO()
    converse(tmp_path / "m", CFG, 1, "cpu", Interrupted("ab\n"), out)
    assert out.getvalue().endswith("\n> \n")


@pytest.mark.parametrize(("options", "said"), [
    (["--tokens", "0"], "--tokens=0 must be greater than or equal to 1; try 1"),
    (["--top-p", "2"], "--top-p=2.0 must be less than or equal to 1; try 1"),
    (["--temperature", "nan"], "--temperature=nan must be a finite number; "),
    (["--top-k", "-3"], "--top-k=-3 must be greater than or equal to 1; try 1"),
    (["--device", "foo"], "--device=foo must be auto, cpu, cuda, cuda:N or mps; "),
    (["--seed", "99999999999999999999"], "--seed=99999999999999999999 must be less than "),
    (["--tokens", "many"], "python -m pipeline.chat: argument --tokens: invalid int value"),
    (["--device", "cuda:0"], "--device=cuda:0 but torch sees no CUDA device; "),
    (["--model", "none"], "none: no config.json; give a model directory"),
])
def test_a_wrong_option_is_one_line_that_names_it(options, said, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["chat", *options])
    with pytest.raises(SystemExit) as end, one_line():
        main()
    assert end.value.code == 2
    err = capsys.readouterr().err.replace(Parser(None).prog, "python -m pipeline.chat")
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_a_value_that_no_option_gave_is_still_params_yaml_s():
    with pytest.raises(ValueError, match="^params.yaml: sample.top_p=2 must"):
        with options_named({"sample.top_k": "--top-k"}):
            raise ValueError("params.yaml: sample.top_p=2 must be less")
