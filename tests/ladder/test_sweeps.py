"""The sweeps: what they hold equal, their table and picture, and one trained to the end."""

import math
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest

from ladder.sweeps import sweep
from reprogpt.config import read_yaml
from reprogpt.errors import ConfigError
from tests.conftest import ROOT, run
from tests.tiny_runs import write_tokens

NAMES = list(read_yaml(ROOT / sweep.PARAMS_FILE)["sweeps"])


def test_every_sweep_has_its_stage_and_valid_runs_that_differ() -> None:
    assert read_yaml(ROOT / sweep.DVC_FILE)["stages"]["sweep"]["matrix"]["sweep"] == NAMES
    for name in NAMES:
        runs = [cfg for _, seeds in sweep.points(name) for cfg in seeds]
        assert len(runs) > 20
        assert max(Counter(cfg.fingerprint([]) for cfg in runs).values()) == 1
        assert all(cfg.train.eval_interval == cfg.train.max_steps for cfg in runs)
    with pytest.raises(ConfigError, match="sweeps has no 'depth'; choose one of lr, "):
        list(sweep.points("depth"))


def test_batches_see_the_same_tokens_and_shapes_have_the_same_parameters() -> None:
    tokens = [runs[0].train.batch_tokens * runs[0].train.max_steps
              for _, runs in sweep.points("batch")]
    sizes = [12 * runs[0].model.n_layer * runs[0].model.n_embd**2
             for _, runs in sweep.points("shape")]
    for counts in (tokens, sizes):
        assert max(counts) / min(counts) < 1.06


def test_table_and_picture_have_every_run_and_mark_what_diverged() -> None:
    losses = {(1e-3, 0): [2.5, 2.6], (1e-2, 0): [2.4, 2.4], (1e-3, 30): [2.5, 2.5],
              (1e-2, 30): [math.nan, 2.9]}
    keys = ["train.lr", "train.warmup_steps"]
    rows = sweep.table(losses, keys, [1, 2]).splitlines()
    assert rows[0] == "train.lr,train.warmup_steps,seed 1,seed 2,mean"
    assert rows[1] == "0.001,0,2.5000,2.6000,2.5500"
    assert rows[4] == "0.01,30,nan,2.9000,nan"
    texts = [e.text for e in ET.fromstring(sweep.drawing(losses, keys)).iter()]
    assert {"0.001", "0.01", "train.lr", "train.warmup_steps 0", "train.warmup_steps 30"
            } <= set(texts)
    assert sweep.drawing(losses, keys) == sweep.drawing(dict(losses), keys)


@pytest.mark.slow
def test_a_sweep_is_trained_and_drawn(checkout: Path) -> None:
    """One that converges, one that does not; a second call trains nothing."""
    params = checkout / sweep.PARAMS_FILE
    text = params.read_text().replace("seeds: [1, 2]", "seeds: [1]")
    text = text.replace("warmup_steps: 30", "warmup_steps: 0")
    start = text.index("\nsweeps:\n")
    params.write_text(text[:start] + "\nsweeps:\n  lr:\n    x:\n      - train: {lr: 1e-2}\n"
                      "      - train: {lr: 1e30}\n    lines:\n"
                      "      - train: {grad_clip: 0.0, max_steps: 20}\n")
    write_tokens(checkout / "ladder/data/tokens")
    for _ in range(2):
        done = run("python", "-m", "ladder.sweeps.sweep", "lr", cwd=checkout)
        assert done.returncode == 0, done.stderr
        header, good, bad = (checkout / "ladder/sweeps/lr.csv").read_text().splitlines()
        assert header == "train.lr,train.grad_clip,seed 1,mean"
        assert 0 < float(good.split(",")[2]) < 10
        assert bad.endswith("nan,nan")
        assert "<svg" in (checkout / "ladder/sweeps/lr.svg").read_text()
    assert len(list((checkout / "runs").iterdir())) == 2
    done = run("python", "-m", "ladder.sweeps.sweep", "depth", cwd=checkout)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
