"""A checkpoint's page, and its pictures, read back by the formats' own rules."""

import struct
import sys
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import inspect_model
from pipeline.cli import one_line
from reprogpt.config import ModelConfig
from reprogpt.evaluation.inspect_weights import inspect
from reprogpt.evaluation.plots import bars, curves, grey
from reprogpt.formats.huggingface import save_model
from reprogpt.model.registry import build_model
from reprogpt.tokens.tokenizers import CharTokenizer


def decode(png: bytes) -> np.ndarray:
    """Our PNGs back as pixels; every chunk's checksum is verified."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    place, data, width, height = 8, b"", 0, 0
    while place < len(png):
        length, kind = struct.unpack(">I4s", png[place:place + 8])
        body = png[place + 8:place + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", png[place + 8 + length:][:4])[0]
        if kind == b"IHDR":
            width, height = struct.unpack(">II", body[:8])
            assert body[8:] == bytes([8, 0, 0, 0, 0])
        data += body if kind == b"IDAT" else b""
        place += length + 12
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:]


def test_a_matrix_becomes_its_picture() -> None:
    values = np.linspace(-1, 1, 12).reshape(3, 4)
    pixels = decode(grey(values, 2))
    assert pixels.shape == (6, 8)
    assert pixels[0, 0] == 0
    assert pixels[-1, -1] == 255
    assert (np.diff(pixels[::2, ::2].ravel().astype(int)) > 0).all()
    assert (pixels[::2, ::2] == pixels[1::2, 1::2]).all()
    assert not decode(grey(np.zeros((2, 2)))).any()


def test_curves_are_a_drawing_with_a_line_for_each() -> None:
    root = ET.fromstring(curves({"a": [0.0, 1.0, 0.5], "b": [1.0, 0.0, 0.0]}))
    lines = [e for e in root if e.tag.endswith("polyline")]
    heights = [float(p.split(",")[1]) for p in lines[0].attrib["points"].split()]
    assert len(lines) == 2
    assert heights[1] < heights[2] < heights[0]


def test_bars_are_as_long_as_their_values_and_marks_stand_where_they_say() -> None:
    root = ET.fromstring(bars({"a": 2.0, "b": 1.0, "c": 0.01}, {"b": 2.0}, "seconds"))
    widths = [float(e.attrib["width"]) for e in root if e.attrib.get("height") == "20"]
    assert widths[0] == pytest.approx(2 * widths[1])
    (mark,) = [e for e in root if e.tag.endswith("path")]
    assert float(mark.attrib["d"][1:].split()[0]) == pytest.approx(150 + widths[0])


@pytest.mark.parametrize("architecture", ["gpt", "bigram", "layernorm"])
def test_a_model_is_shown_with_every_tensor(architecture: str, tmp_path: Path) -> None:
    cfg = ModelConfig(architecture=architecture, n_layer=2, n_head=2, n_embd=16, block_size=8,
                      dropout=0.0, bias=True, init_from=None)
    tokenizer = CharTokenizer("abc d")
    tokenizer.save(tmp_path / "tokenizer")
    model = build_model(cfg, tokenizer.n_vocab)
    model.init_weights(torch.Generator().manual_seed(0))
    save_model(tmp_path / "model", model, cfg, tmp_path / "tokenizer")
    page = inspect(tmp_path / "model", tmp_path / "out", "a cab")
    assert f"{model.num_parameters():,} parameters" in page
    for name, _ in model.named_parameters():
        assert f"`{name}`" in page
    pictures = {p.name for p in (tmp_path / "out").iterdir()}
    assert "tokens.png" in pictures
    assert all(name in page for name in pictures - {"README.md"})
    if architecture == "gpt":
        assert decode((tmp_path / "out/positions.png").read_bytes()).shape == (8, 16)
        assert decode((tmp_path / "out/attention.png").read_bytes()).shape == (48, 16)


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
    for name, said in ((str(tmp_path / "none"), f"{tmp_path}/none: no config.json; "),
                       ("folder", "folder: no config.json; "),
                       (".", ".: no config.json; "),
                       ("..", "..: no config.json; "),
                       ("", "DIR='' must be a model directory or a model's id on the Hub"),
                       ("file", "DIR='file' must be a model directory or a model's id on the Hub"),
                       ("../a/b", "DIR='../a/b' must be a model directory or a model's id")):
        assert refused(monkeypatch, capsys, name).startswith(said)


def test_a_name_that_the_hub_does_not_know_is_the_argument_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inspect_model, "ROOT", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refused(monkeypatch, capsys, "nobody/nothing")
    assert said.startswith("DIR='nobody/nothing' must be a model directory or a model on the Hub")
