"""metrics/train.csv and train.json: what is written, and which seconds count."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from reprogpt.evaluation.reference_band import Band
from reprogpt.training import metrics_log
from reprogpt.training.metrics_log import (
    COLUMNS,
    SMOOTHED,
    BandWatch,
    Clock,
    LossPlot,
    MetricsLog,
    Row,
    write_metrics,
)


def row(step: int, **values: float) -> Row:
    return dict.fromkeys(COLUMNS, math.nan) | {"step": step} | values


def test_a_count_of_tokens_is_written_whole(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, 0.25) | {"step": 19073, "tokens": 9_999_745_024}
    MetricsLog(tmp_path / "train.csv", [row])
    assert (tmp_path / "train.csv").read_text().splitlines()[1].split(",")[:6] == [
        "19073", "0.25", "0.25", "0.25", "0.25", "9999745024"]


def test_the_file_is_rebuilt_and_never_written_through_a_link(tmp_path: Path) -> None:
    cached, path = tmp_path / "cache", tmp_path / "train.csv"
    cached.write_text("in DVC's cache")
    os.link(cached, path)
    log = MetricsLog(path, [row(1, train_loss=2.5)])
    log.write(row(2, val_loss=1.25))
    assert cached.read_text() == "in DVC's cache"
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1:] == ["1,2.5,nan,nan,nan,nan,nan,nan", "2,nan,1.25,nan,nan,nan,nan,nan"]
    assert (log.last("train_loss"), log.last("val_loss")) == (2.5, 1.25)
    assert math.isnan(log.last("lr"))


def test_other_ranks_write_no_file(tmp_path: Path) -> None:
    log = MetricsLog(None, [])
    log.write(row(1, train_loss=2.5))
    assert log.last("train_loss") == 2.5


def test_json_has_null_for_what_is_not_finite(tmp_path: Path) -> None:
    write_metrics(tmp_path / "a.json", {"a": 1.5, "b": math.nan, "c": math.inf, "d": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1.5, "b": None, "c": None,
                                                             "d": None}


def test_a_stopped_clock_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 12.0, 15.0, 20.0])
    monkeypatch.setattr(metrics_log.time, "perf_counter", lambda: next(times))
    clock = Clock(torch.device("cpu"), seconds=100.0)  # at 0
    with clock.stopped() as seconds:  # 12 to 15
        assert seconds == 112.0
    assert clock.seconds() == 117.0  # at 20


BAND = Band("x", "a source", {0: (10.0, 11.0), 40: (4.0, 5.0)}, {})


def test_the_plot_s_training_loss_is_a_mean_and_the_band_stands_beside(tmp_path: Path) -> None:
    """The mean of the last quarter of the values at first, later of the last SMOOTHED."""
    before = [row(0, val_loss=10.5)]
    plot = LossPlot(tmp_path / "loss.csv", before, BAND.at)
    losses = [9.0 - 0.01 * k + (-1) ** k for k in range(120)]
    for k, loss in enumerate(losses):
        plot(row(k + 1, train_loss=loss))
    header, *lines = (tmp_path / "loss.csv").read_text().splitlines()
    assert header == "step,train_loss,val_loss,reference_low,reference_high"
    assert lines[0] == "0,nan,10.5,10,11"
    assert lines[40].endswith(",nan,4,5")
    drawn = [float(line.split(",")[1]) for line in lines[1:]]
    assert drawn[0] == losses[0]
    assert drawn[9] == pytest.approx(sum(losses[7:10]) / 3)
    assert drawn[119] == pytest.approx(sum(losses[-SMOOTHED:]) / SMOOTHED)


def test_a_curve_that_leaves_its_band_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = MetricsLog(None, [], [BandWatch(BAND)])
    for step, loss in ((0, 10.5), (20, 99.0), (40, 5.5), (40, 6.5)):
        log.write(row(step, val_loss=loss))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("step 40: ")
    assert "5.500" in line
