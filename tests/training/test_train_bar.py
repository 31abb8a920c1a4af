"""What a training shows of itself."""

import math
import sys

import pytest

from reprogpt.runtime import contention
from reprogpt.training import train_bar
from reprogpt.training.metrics_log import COLUMNS, MetricsLog
from reprogpt.training.train_bar import TrainBar


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other program takes the processor."""
    monkeypatch.setattr(contention, "_waited", dict)


def rows_of(bar: TrainBar, log: MetricsLog, steps: int, eval_interval: int) -> None:
    for step in range(1, steps + 1):
        row = dict.fromkeys(COLUMNS, math.nan) | {"step": step, "train_loss": 10.0 - step}
        row["tokens_per_second"] = 4100.4
        log.write(row | ({"val_loss": 10.5 - step} if step % eval_interval == 0 else {}))
        bar.update(step, steps)
    bar.close()


def test_a_log_gets_a_line_for_each_validation(capsys: pytest.CaptureFixture[str]) -> None:
    log = MetricsLog(None, [])
    rows_of(TrainBar(log, lambda speed: 0.43, shown=True), log, 6, eval_interval=3)
    text = capsys.readouterr().err
    assert "\r" not in text
    assert text.splitlines() == [
        "train: step 3/6, loss 7.000, val 7.500, tok/s 4,100, MFU 43.0%, 00:00 left",
        "train: step 6/6, loss 4.000, val 4.500, tok/s 4,100, MFU 43.0%, 00:00 left"]


def test_after_a_minute_without_a_validation_there_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def tick() -> float:
        now[0] += 5.0  # tqdm reads the clock once a step
        return now[0]

    monkeypatch.setattr("tqdm.std.time", tick)
    monkeypatch.setattr(train_bar.time, "perf_counter", lambda: now[0])
    log = MetricsLog(None, [])
    rows_of(TrainBar(log, lambda speed: 0.43, shown=True), log, 36, eval_interval=1000)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 4
    assert "val" not in lines[0]


def test_other_ranks_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    log = MetricsLog(None, [])
    rows_of(TrainBar(log, lambda speed: 0.43, shown=False), log, 2, eval_interval=1)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_one_line_of_at_most_100_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    log = MetricsLog(None, [])
    rows_of(TrainBar(log, lambda speed: 0.43, shown=True), log, 3, eval_interval=1)
    last = capsys.readouterr().err.rstrip().split("\r")[-1]
    assert "train 100%|" in last
    assert "val 7.500" in last
    assert len(last) <= 100


def test_the_time_left_is_judged_by_the_steps_after_the_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one compiles for a minute."""
    now = [60.0]
    monkeypatch.setattr(train_bar.time, "perf_counter", lambda: now[0])
    log = MetricsLog(None, [])
    bar = TrainBar(log, lambda speed: None, shown=True)
    for step in (1, 2, 3):
        log.write(dict.fromkeys(COLUMNS, math.nan) | {"step": step, "val_loss": 1.0})
        bar.update(step, 13)
        now[0] += 2.0
    assert capsys.readouterr().err.splitlines() == [
        "train: step 1/13, val 1.000", "train: step 2/13, val 1.000, 00:22 left",
        "train: step 3/13, val 1.000, 00:20 left"]
