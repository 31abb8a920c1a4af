"""Checkpoints of nanoGPT and build-nanogpt."""

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.convert import main as command
from reprogpt.formats import huggingface as hf
from reprogpt.formats.nanogpt import convert
from reprogpt.tokens.tokenizers import CharTokenizer
from tests.small_models import random_ids, random_model

torch.set_num_threads(1)


def nanogpt_state(model, vocab_rows: int) -> dict:
    """A state dict as nanoGPT has it: Linear matrices, a prefix, the head a second time."""
    state = {f"transformer.{k}": v.detach().clone() for k, v in model.named_parameters()}
    state["transformer.wte.weight"] = state["transformer.wte.weight"][:vocab_rows].clone()
    state["lm_head.weight"] = state["transformer.wte.weight"]
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 12, 12).tril()
    return state


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_nanogpts_checkpoint(tmp_path, bias, prefix):
    model = random_model(65, bias=bias)
    args = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "bias": bias,
            "vocab_size": 65, "dropout": 0.2}
    state = {prefix + k: v for k, v in nanogpt_state(model, 65).items()}
    torch.save({"model": state, "optimizer": {"state": {}}, "model_args": args, "iter_num": 7,
                "best_val_loss": torch.tensor(1.5), "config": {"dataset": "x"}},
               tmp_path / "ckpt.pt")
    convert(tmp_path / "ckpt.pt", tmp_path / "m")
    loaded, cfg = hf.load_model(tmp_path / "m")
    assert (cfg.bias, cfg.dropout) == (bias, 0.2)
    idx = random_ids(65, 12)
    assert torch.equal(loaded.logits(loaded(idx)), model.logits(model(idx)))


@dataclass
class GPTConfig:
    """build-nanogpt's, pickled by reference to the script that was run."""

    block_size: int = 12
    vocab_size: int = 50304
    n_layer: int = 1
    n_head: int = 1
    n_embd: int = 4


GPTConfig.__module__ = "__main__"


def save_as_main(content, path, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "GPTConfig", GPTConfig, raising=False)
    torch.save(content, path)


def test_build_nanogpts_checkpoint_with_its_padding(tmp_path, monkeypatch):
    model = random_model(50257, n_layer=1, n_head=1, n_embd=4)
    save_as_main({"model": nanogpt_state(model, 50304), "config": GPTConfig(), "step": 3,
                  "val_loss": 3.0}, tmp_path / "model_00003.pt", monkeypatch)
    monkeypatch.undo()  # whoever converts has no such class
    convert(tmp_path / "model_00003.pt", tmp_path / "m")
    loaded, _ = hf.load_model(tmp_path / "m")
    assert loaded.vocab_size == 50257
    assert load_file(tmp_path / "m/model.safetensors")["transformer.wte.weight"].size(0) == 50257
    idx = random_ids(50257, 12)
    assert torch.equal(loaded.logits(loaded(idx)), model.logits(model(idx)))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_that_would_run_code_is_refused_with_the_reason(tmp_path):
    torch.save({"model": {}, "config": Bomb(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="refused, since reading it would run code") as caught:
        convert(tmp_path / "bad.pt", tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(("content", "message"), [
    (pickle.dumps([1]), "no torch checkpoint|refused"), (b"", "no torch checkpoint|refused"),
    ({"weights": 1}, "no state under the key model"),
    ({"model": {}, "model_args": {}}, "no model_args or config"),
    ({"model": {}, "model_args": {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 2}},
     "no transformer.wte.weight"),
])
def test_what_is_no_such_checkpoint_says_so(tmp_path, content, message):
    path = tmp_path / "x.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as caught:
        convert(path, tmp_path / "m")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


ARGS = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "bias": True, "vocab_size": 65,
        "dropout": 0.0}


@pytest.fixture
def checkpoint(tmp_path):
    torch.save({"model": nanogpt_state(random_model(65), 65), "model_args": ARGS},
               tmp_path / "ckpt.pt")
    return tmp_path / "ckpt.pt"


@pytest.mark.parametrize(("changes", "message"), [
    ({"n_layer": 3}, r"h.2.attn.c_attn.bias is absent, but would be \(48,\)"),
    ({"n_layer": 1}, r"h.1.attn.c_attn.bias is \(48,\), but would be absent"),
    ({"n_embd": 32}, r"is \(48,\), but would be \(96,\)"),
    ({"n_head": 3}, "n_embd=16 must be a multiple of n_head = 3"),
    ({"block_size": 8}, r"wpe.weight is \(12, 16\), but would be \(8, 16\)"),
    ({"vocab_size": 64}, "vocab_size=64 must be 65, the rows of wte.weight; correct"),
    ({"vocab_size": "65"}, "vocab_size='65' must be 65"),
    ({"n_layer": "2"}, "n_layer=2 must be a whole number; remove the quotes"),
])
def test_settings_that_the_tensors_contradict_are_refused(checkpoint, changes, message):
    state = torch.load(checkpoint)
    torch.save({**state, "model_args": {**ARGS, **changes}}, checkpoint)
    with pytest.raises(ValueError, match=message) as caught:
        convert(checkpoint, checkpoint.parent / "m")
    assert "\n" not in str(caught.value)
    assert not (checkpoint.parent / "m").exists()


def test_a_tensor_too_few_or_too_many_is_named(checkpoint):
    state = torch.load(checkpoint)
    gain = state["model"].pop("transformer.ln_f.weight")
    for model, message in ((state["model"], "ln_f.weight is absent"),
                           ({**state["model"], "transformer.ln_f.weight": gain,
                             "transformer.ln_g.weight": gain}, r"ln_g.weight is \(16,\)"),
                           ({**state["model"], "transformer.ln_f.weight": 1}, "is no tensor")):
        torch.save({**state, "model": model}, checkpoint)
        with pytest.raises(ValueError, match=message):
            convert(checkpoint, checkpoint.parent / "m")


def test_what_is_in_the_way_is_named_before_anything_is_written(checkpoint, tmp_path):
    (tmp_path / "file").write_text("hello there, this is a text\n")
    (tmp_path / "folder").mkdir()
    cases = [((tmp_path, tmp_path / "m"), "Is a directory; name a .pt file"),
             ((tmp_path / "none.pt", tmp_path / "m"), "No such file or directory; name a .pt file"),
             ((tmp_path / "file", tmp_path / "m"), "is no torch checkpoint"),
             ((checkpoint, tmp_path / "file"), "file: must be a new folder or a model directory"),
             ((checkpoint, tmp_path), "must be a new folder or a model directory"),
             ((checkpoint, tmp_path / "m", tmp_path / "none"), "none: is no folder"),
             ((checkpoint, tmp_path / "m", tmp_path / "file"), "file: is no folder"),
             ((checkpoint, tmp_path / "m", tmp_path / "folder"), "holds no tokenizer")]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            convert(*arguments)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "m").exists()


def test_a_tokenizer_out_of_a_model_directory_brings_no_weights(checkpoint, tmp_path):
    CharTokenizer("abc\n").save(tmp_path / "tokenizer")
    other = random_model(4, seed=5)
    hf.save_model(tmp_path / "other", other, other.cfg, tmp_path / "tokenizer")
    convert(checkpoint, tmp_path / "m", tmp_path / "other")
    assert (tmp_path / "m/char_vocab.json").is_file()
    loaded, _ = hf.load_model(tmp_path / "m")
    assert loaded.vocab_size == 65


def test_an_older_conversion_is_replaced(checkpoint, tmp_path):
    convert(checkpoint, tmp_path / "m")
    before = (tmp_path / "m/model.safetensors").read_bytes()
    convert(checkpoint, tmp_path / "m")
    assert (tmp_path / "m/model.safetensors").read_bytes() == before


def test_the_command_converts_and_explains(tmp_path, monkeypatch, capsys):
    torch.save({"weights": 1}, tmp_path / "x.pt")
    monkeypatch.setattr(sys, "argv", ["convert", str(tmp_path / "x.pt"), str(tmp_path / "m")])
    with pytest.raises(SystemExit) as exit_:
        command()
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
