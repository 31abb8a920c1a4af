"""The runs' params: complete, counted as the papers count, and none sees text twice."""

import shutil
from pathlib import Path

import pytest

from reprogpt.errors import ConfigError
from reprogpt.tokens.manifest import Manifest, Totals, write_manifest
from scaling import parameters, runs
from tests.conftest import ROOT


@pytest.mark.parametrize("file", ["params.yaml", "fineweb.yaml"])
def test_every_size_is_a_stage_and_every_run_is_valid(
        file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "scaling" / file, tmp_path / "params.yaml")
    monkeypatch.setattr(runs, "PARAMS_FILE", tmp_path / "params.yaml")
    runs.shared()
    names = runs.sizes()
    assert f"size: [{', '.join(names)}]" in (ROOT / "scaling/dvc.yaml").read_text()
    assert len(names) >= 5
    for name in [*names, "held_out"]:
        for cfg in runs.runs(name):
            assert cfg.train.min_lr == pytest.approx(cfg.train.lr / 10)
            assert cfg.train.warmup_steps <= cfg.train.max_steps // 10
            assert cfg.train.eval_interval == cfg.train.max_steps
    with pytest.raises(ConfigError, match="s9"):
        runs.runs("s9")


def test_parameters_are_counted_as_the_papers_count(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kaplan: 12 n_layer C^2 and some biases and gains; Chinchilla: with both embeddings."""
    write_manifest(tmp_path, Manifest((), {"train": Totals(1, 1, 1)}, {
        "name": "char", "n_vocab": 65, "fingerprint": "x"}, {"name": "x", "revision": "0"}))
    monkeypatch.setattr(parameters, "TOKENS", tmp_path)
    cfg = runs.first("held_out")
    L, C, T = cfg.model.n_layer, cfg.model.n_embd, cfg.model.block_size
    found = parameters.parameters(cfg)
    assert found["kaplan"] == 12 * L * C * C + 13 * L * C + 2 * C
    assert found["chinchilla"] - found["kaplan"] == 65 * C + T * C
