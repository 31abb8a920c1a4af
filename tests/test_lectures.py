"""docs/lectures.md covers both lectures, and its names exist; test_docs.py checks the rest."""

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks import speed_ladder, switches
from ladder.rungs import names as rungs
from pipeline.preset import values_of
from reprogpt.config import Config
from reprogpt.data.corpora import download
from reprogpt.encoding.tokenize_corpus import tokenize
from reprogpt.launch.run_dir import Paths, RunDir
from tests.conftest import ROOT
from tests.tiny_runs import train

LECTURES = (ROOT / "docs/lectures.md").read_text()
SPANS = set(re.findall(r"`([^`\n]+)`", LECTURES))


def test_every_preset_and_rung_is_there() -> None:
    rows = re.findall(r"(?m)(?:presets?|rungs?) ((?:`[\w-]+`(?:, | and | to )?)+)", LECTURES)
    named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    assert named >= {"scaled-up", "gpt2-124m", "gpt2-124m-40b", "overfit-one-batch", "untied"}
    assert named >= set(rungs())


def test_every_class_and_function_is_there() -> None:
    sources = "\n".join(p.read_text() for p in (ROOT / "src/reprogpt").rglob("*.py"))
    named = {s for s in SPANS if re.fullmatch(r"[A-Z]\w+(\.\w+)?|\w+_\w+", s)
             and s != "scaled_dot_product_attention"}
    assert len(named) > 20
    for name in named:
        for part in name.split("."):
            defined = rf"(?m)^\s*(class|def) {part}\b|^{part} = "
            assert re.search(defined, sources), name


def test_both_lectures_are_there_whole() -> None:
    first, second = LECTURES.split("## Lecture 2")
    for part, chapters in ((first, 29), (second, 30)):
        rows = [line for line in part.splitlines() if line.startswith("| ")]
        assert len(rows) > chapters


def test_the_speed_ladder_has_the_lectures_rungs_in_its_order() -> None:
    climbed = [rung.name for rung in speed_ladder.rungs(torch.device("cuda"), 4, True)]
    assert climbed == [*speed_ladder.LECTURE, "loss in chunks", "4 micro-steps"]
    last = list(speed_ladder.rungs(torch.device("cpu"), 4, False))[-1]
    assert (last.flash, last.multiple, last.fused, last.compile) == (True, 64, True, False)


def test_a_switch_is_compared_seed_by_seed() -> None:
    rows = switches.table({"as it is": [2.0, 3.0, 4.0], "rope": [1.9, 2.9, 3.9]}).splitlines()
    assert rows[-1] == "| rope | 2.9000 | 1.0000 | -0.1000 | 0.0000 |"
    assert switches.changed("position=rope,qk_norm=true") == {
        "model": {"position": "rope", "qk_norm": True}}


@pytest.mark.slow
def test_one_batch_is_overfitted(tmp_path: Path) -> None:
    cfg = Config.parse(values_of("overfit-one-batch", ROOT / "presets"))
    runtime = cfg.runtime.model_copy(update={"device": "cpu", "compile": False})
    cfg = cfg.model_copy(update={"runtime": runtime})
    download(cfg.download, tmp_path / "raw")
    tokenize(cfg.tokenize, tmp_path / "raw", tmp_path / "tokens")
    paths = Paths(*(str(tmp_path / name) for name in ("tokens", "init", "gpt", "c.csv", "t.json")))
    train(RunDir.create(tmp_path / "runs", cfg.fingerprint([]), cfg, paths))
    assert json.loads((tmp_path / "t.json").read_text())["epochs"] == cfg.train.max_steps
    last = (tmp_path / "c.csv").read_text().splitlines()[-1]
    assert float(last.split(",")[1]) < 0.01
