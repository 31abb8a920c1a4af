"""A model's page and figures; the figures' numbers are compared with the tensors."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import inspect_model
from pipeline.cli import one_line
from reprogpt.config import ModelConfig
from reprogpt.evaluation.inspect_weights import figures, inspect
from reprogpt.formats.huggingface import read_weights, save_model
from reprogpt.model.registry import build_model
from reprogpt.tokens.tokenizers import CharTokenizer


@pytest.mark.parametrize("architecture", ["gpt", "bigram", "layernorm"])
def test_a_model_is_shown_with_every_tensor(architecture: str, tmp_path: Path) -> None:
    cfg = ModelConfig(architecture=architecture, n_layer=2, n_head=2, n_embd=16, block_size=8,
                      dropout=0.0, bias=True, init_from=None)
    tokenizer = CharTokenizer("abc d")
    tokenizer.save(tmp_path / "tokenizer")
    model = build_model(cfg, tokenizer.n_vocab)
    model.init_weights(torch.Generator().manual_seed(0))
    save_model(tmp_path / "model", model, cfg, tmp_path / "tokenizer")
    shown = inspect(tmp_path / "model", tmp_path / "out", "a cab")
    page = (tmp_path / "out/README.md").read_text()
    assert page.startswith(shown)
    assert "![" not in shown  # links to pictures are of no use in a terminal
    assert f"{model.num_parameters():,} parameters" in page
    for name, _ in model.named_parameters():
        assert f"`{name}`" in page
    pictures = {p.name for p in (tmp_path / "out").iterdir()}
    assert "tokens.png" in pictures
    assert all(name in page for name in pictures - {"README.md"})
    drawn = figures(read_weights(tmp_path / "model"), tmp_path / "model", "a cab")
    assert drawn.keys() == pictures - {"README.md"}
    tensors = dict(model.named_parameters())
    ids = tokenizer.encode("a cab")
    assert np.array_equal(drawn["tokens.png"].axes[0].images[0].get_array(),
                          tensors["wte.weight"].detach()[ids])
    if architecture == "gpt":
        wpe = tensors["wpe.weight"].detach()
        assert np.array_equal(drawn["positions.png"].axes[0].images[0].get_array(), wpe)
        lines = {line.get_label(): line.get_ydata()
                 for line in drawn["channels.svg"].axes[0].lines}
        assert {name: list(map(float, y)) for name, y in lines.items()} == {
            f"channel {c}": wpe[:, c].tolist() for c in (3, 4, 5)}
        c_attn = tensors["h.1.attn.c_attn.weight"].detach()
        assert np.array_equal(drawn["attention.png"].axes[0].images[0].get_array(), c_attn)


def test_without_a_tokenizer_there_are_no_tokens_and_a_dollar_is_no_formula(tmp_path: Path) -> None:
    cfg = ModelConfig(architecture="gpt", n_layer=1, n_head=2, n_embd=16, block_size=8,
                      dropout=0.0, bias=True, init_from=None)
    CharTokenizer("$_a").save(tmp_path / "tokenizer")
    model = build_model(cfg, 3)
    save_model(tmp_path / "model", model, cfg, tmp_path / "tokenizer")
    inspect(tmp_path / "model", tmp_path / "out", "$a_$")
    assert "'$a_$'" in (tmp_path / "out/README.md").read_text()
    save_model(tmp_path / "bare", model, cfg, None)
    inspect(tmp_path / "bare", tmp_path / "out", "$a_$")
    assert "tokens.png" not in (tmp_path / "out/README.md").read_text()


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str) -> str:
    """The one line that the command ends with."""
    monkeypatch.setattr(sys, "argv", ["inspect_model", name])
    with pytest.raises(SystemExit) as end, one_line():
        inspect_model.main()
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_the_command_says_what_is_missing_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    for name, said in (("folder", "folder: no config.json; "),
                       (".", ".: no config.json; "),
                       ("..", "..: no config.json; "),
                       ("", ".: no config.json; "),
                       *((name, f"DIR='{name}' must be a model directory or a Hub id, and there")
                         for name in (f"{tmp_path}/none", "file", "../a/b"))):
        assert refused(monkeypatch, capsys, name).startswith(said)


def test_a_name_that_the_hub_does_not_know_is_the_argument_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inspect_model, "ROOT", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refused(monkeypatch, capsys, "nobody/nothing")
    assert said.startswith("DIR='nobody/nothing' must be a model directory or a model on the Hub")


@pytest.mark.parametrize("name", ["wpe.weight", "h.0.attn.c_attn.weight", "\x1b[31m.weight"])
def test_tensors_that_no_such_model_has_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = ModelConfig(architecture="gpt", n_layer=1, n_head=2, n_embd=16, block_size=8,
                      dropout=0.0, bias=True, init_from=None)
    save_model(tmp_path / "m", build_model(cfg, 3), cfg, None)
    weights = load_file(tmp_path / "m/model.safetensors")
    save_file(weights | {f"transformer.{name}": torch.ones(3)}, tmp_path / "m/model.safetensors")
    (tmp_path / "m/SHA256SUMS").unlink()
    said = refused(monkeypatch, capsys, str(tmp_path / "m"))
    assert said.startswith(f"{tmp_path}/m: ") and "(3,)" in said and "\x1b" not in said
