"""The ladder: its params, its page, and a rung trained from text to figures."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from ladder import page, rungs
from pipeline.checks.seal import Seal
from reprogpt.config import read_yaml
from reprogpt.errors import ConfigError
from reprogpt.model.lecture1.models import RUNGS
from tests.conftest import ROOT, run

DVC = read_yaml(ROOT / "ladder/dvc.yaml")["stages"]
NAMES = rungs.names()


def test_every_rung_has_its_stage_and_every_class_its_rung() -> None:
    assert DVC["climb"]["matrix"]["rung"] == NAMES
    assert {rungs.params(name).model.architecture for name in NAMES} == set(RUNGS)
    assert page.PUBLISHED.keys() <= set(NAMES)
    assert page.IDEAS.keys() == set(NAMES)


def test_rungs_differ_in_nothing_but_what_they_add() -> None:
    first = rungs.params("head")
    for name in NAMES:
        cfg = rungs.params(name)
        assert (cfg.seed, cfg.tokenize, cfg.evaluate) == (first.seed, first.tokenize,
                                                          first.evaluate)
        if name not in ("bigram", "scaled"):
            assert cfg.train == first.train
    with pytest.raises(ConfigError, match="rungs has no 'heads'; choose one of bigram"):
        rungs.params("heads")


def test_a_rung_starts_from_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = rungs.PARAMS_FILE.read_text()
    (tmp_path / "params.yaml").write_text(re.sub(r"init_from: \S+", "init_from: gpt2", text))
    monkeypatch.setattr(rungs, "PARAMS_FILE", tmp_path / "params.yaml")
    with pytest.raises(ConfigError, match="init_from='gpt2' must be null: a rung starts"):
        rungs.params(NAMES[0])


def test_a_rungs_seal_covers_its_own_params() -> None:
    seal = Seal.take("climb@multihead", ROOT / "ladder/dvc.yaml")
    keys = {key for _, key in seal.values}
    assert "rungs.multihead.model.n_head" in keys
    assert "train.lr" in keys
    assert not any(key.startswith("rungs.bigram") for key in keys)
    assert seal.changed() is None


def test_the_page_has_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {name: {"parameters": 1000 + i, "flops_per_token": 7, "val_loss": 2.5 - i / 10,
                      "val_bits_per_byte": 3.0, "seconds": 1.0, "corpus": "tinyshakespeare"}
               for i, name in enumerate(NAMES)}
    for name in NAMES:
        (tmp_path / f"{name}.txt").write_text(f"\n{name} speaks\n")
    monkeypatch.setattr(page, "SAMPLES", tmp_path)
    text = page.page(figures)
    for name in NAMES:
        assert f"{figures[name]['val_loss']:.3f}" in text
        assert f"{name} speaks" in text
    texts = [e.text for e in ET.fromstring(page.drawing(figures)).iter()]
    assert {f"{name}: {figures[name]['val_loss']:.3f}" for name in NAMES} <= set(texts)


def test_rungs_of_other_text_are_named_and_not_compared(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rung was climbed where Tiny Shakespeare could not be fetched."""
    figures = {name: {"parameters": 1000, "flops_per_token": 7, "val_loss": 2.5,
                      "val_bits_per_byte": 3.0, "seconds": 1.0,
                      "corpus": "shakespeare" if name == "head" else "tinyshakespeare"}
               for name in NAMES}
    for name in NAMES:
        (tmp_path / f"{name}.txt").write_text("...")
    monkeypatch.setattr(page, "SAMPLES", tmp_path)
    text = page.page(figures)
    assert "`head` learned from other text" in text
    row = next(line for line in text.splitlines() if line.startswith("| head:"))
    assert "(the plays)" in row
    assert f"{page.PUBLISHED['head']:.3f}" not in row
    assert f"{page.PUBLISHED['multihead']:.3f}" in text
    assert "head: 2.500" not in [e.text for e in ET.fromstring(page.drawing(figures)).iter()]
    assert [line.split(",")[0] for line in page._figures(figures).splitlines()[1:]] == [
        name for name in NAMES if name != "head"]


@pytest.mark.slow
def test_a_rung_is_trained_evaluated_and_sampled(checkout: Path) -> None:
    (checkout / "text.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 200)
    params = checkout / "ladder/params.yaml"
    text = params.read_text().replace("corpus: tinyshakespeare", "corpus: files")
    text = text.replace("files: null", "files: [text.txt]")
    params.write_text(text.replace("max_steps: 5000", "max_steps: 20"))
    for command in (["git", "init", "-q"], ["dvc", "init", "-q", "-f"]):
        assert run(*command, cwd=checkout).returncode == 0
    done = run("dvc", "repro", "ladder/dvc.yaml:climb@residual", cwd=checkout)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads((checkout / "ladder/metrics/residual.json").read_text())
    assert figures["steps"] == 20
    assert figures["corpus"] == "files"
    assert 0 < figures["val_loss"] < 4
    assert len((checkout / "ladder/samples/residual.txt").read_text()) == 300
    again = run("dvc", "repro", "ladder/dvc.yaml:climb@residual", cwd=checkout)
    assert "didn't change, skipping" in again.stdout
