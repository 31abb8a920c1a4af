"""train.max_seconds: the clock ends the run and its schedule, and a resumed run goes on with it."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from reprogpt.config import TrainConfig
from reprogpt.launch.run_dir import RunDir
from reprogpt.runtime.distributed import Process
from reprogpt.training import metrics_log, trainer
from reprogpt.training.optimizer import lr_at, planned_steps
from tests.tiny_runs import (
    config,
    make_run,
    read_csv,
    train,
    weights,
    without_times,
)

TIMED = {"max_steps": 1000, "max_seconds": 10.0}


def train_by_steps(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains with a clock on which each step takes a second, and nothing else takes any."""
    now, step = SimpleNamespace(time=0.0), trainer.train_step

    def one_second(*arguments: object) -> torch.Tensor:
        now.time += 1.0
        return step(*arguments)

    run.write()
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "train_step", one_second)
        patched.setattr(metrics_log, "time", SimpleNamespace(perf_counter=lambda: now.time))
        trainer.Trainer(run, Process(0, 1, torch.device("cpu"))).run()


def test_ten_seconds_are_a_run_of_ten_steps_where_a_step_takes_one(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rate and losses of every step, and the weights, are those of max_steps 10."""
    timed = make_run(tmp_path / "timed", tokens, train=TIMED)
    train_by_steps(timed, monkeypatch)
    plain = make_run(tmp_path / "plain", tokens, train={"max_steps": 10})
    train_by_steps(plain, monkeypatch)
    rows = read_csv(timed)
    assert without_times(rows) == without_times(read_csv(plain))
    assert weights(timed) == weights(plain)
    assert rows[-1]["lr"] == pytest.approx(lr_at(9, plain.config.train))
    assert json.loads(Path(timed.paths.json).read_text())["steps"] == 10
    assert [row["step"] for row in rows if not math.isnan(row["val_loss"])] == [0, 10]


def test_a_resumed_run_has_what_is_left_of_its_seconds(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, tokens, train=TIMED, runtime={"keep_checkpoints": 9})
    train_by_steps(run, monkeypatch)
    curve = without_times(read_csv(run))
    for step in ("000008", "000010"):
        (run.path / f"step_{step}.pt").unlink()
    train_by_steps(run, monkeypatch)  # from step 4
    assert without_times(read_csv(run)) == curve
    train_by_steps(run, monkeypatch)  # finished: nothing is left to do
    assert without_times(read_csv(run)) == curve


@pytest.mark.slow
def test_all_processes_stop_at_the_same_step(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path, tokens, train={"max_steps": 10**6, "max_seconds": 0.5})
    train(run, processes=2)
    first, second = (torch.load(run.path / f"rank_{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert 0 < read_csv(run)[-1]["step"] < 10**6


def test_steps_are_planned_by_the_mean_speed() -> None:
    cfg: TrainConfig = config(train={"max_steps": 100, "max_seconds": 30.0}).train
    assert planned_steps(0, 0.0, cfg) == 100
    assert planned_steps(10, 6.0, cfg) == 50
    assert planned_steps(10, 0.1, cfg) == 100
    assert planned_steps(40, 30.5, cfg) < 40
    assert planned_steps(7, 99.0, config(train={"max_steps": 100}).train) == 100


def test_the_rate_ends_at_min_lr_with_the_clock() -> None:
    cfg: TrainConfig = config(train={"max_steps": 100, "max_seconds": 30.0}).train
    assert lr_at(40, cfg, 40.0) == cfg.min_lr
    assert lr_at(22, cfg, 40.0) == pytest.approx((cfg.lr + cfg.min_lr) / 2)  # warm-up is 4 steps
