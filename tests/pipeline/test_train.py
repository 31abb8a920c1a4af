"""Stage train: which code is in a run's fingerprint."""

import shutil
from pathlib import Path

import pytest

import pipeline.prepare
import pipeline.train
from reprogpt.config import Config, merge, read_yaml
from reprogpt.launch import launcher
from reprogpt.launch.run_dir import Paths, RunDir
from tests.conftest import ROOT


@pytest.mark.parametrize("architecture", ["gpt", "head"])
def test_lecture_1_is_in_the_fingerprint_of_its_own_models_alone(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[RunDir] = []
    monkeypatch.setattr(launcher, "launch", lambda run, code: runs.append(run))
    monkeypatch.setattr(pipeline.prepare, "runs_root", lambda root: tmp_path / "runs")
    monkeypatch.setattr(pipeline.prepare, "ROOT", tmp_path)
    monkeypatch.setattr(pipeline.prepare, "LECTURE1", tmp_path / "lecture1")
    shutil.copytree(ROOT / "src/reprogpt/model/lecture1", tmp_path / "lecture1")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens/manifest.json").write_text("{}")
    paths = Paths(str(tmp_path / "tokens"), str(tmp_path / "init"), str(tmp_path / "gpt"), "", "")
    values = merge(read_yaml(ROOT / "presets/shakespeare.yaml"), {
        "model": {"architecture": architecture, "dropout": 0.0, "bias": True},
        "tokenize": {"encoding": "char"}})
    for _ in range(2):
        pipeline.train.train(Config.parse(values), paths, {"src/x.py": "1"})
        source = tmp_path / "lecture1/attention.py"
        source.write_text(source.read_text() + "# edited\n")
    before, after = (run.fingerprint for run in runs)
    assert (before == after) == (architecture == "gpt")
