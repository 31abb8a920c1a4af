"""Reference bands: what is inside, what is warned of, and that every preset's band is a band."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.preset import reference, values_of
from reprogpt.config import Config, merge
from reprogpt.evaluation.reference_band import Band
from reprogpt.training.metrics_log import COLUMNS
from tests.conftest import ROOT

FOLDER = ROOT / "presets"
FILES = sorted(FOLDER.glob("reference/*.yaml"))
BAND = Band("x", "two seeds", {0: (10.8, 10.9), 100: (5.0, 6.0)},
            {"val_loss": (5.0, 5.5), "acc_norm": (0.30, 0.31)})


@pytest.mark.parametrize(("step", "loss", "said"), [
    (0, 10.85, False), (0, 10.95, True), (100, 4.9, True), (100, 6.0, False), (50, 99.0, False),
    (100, float("nan"), False)])
def test_a_loss_outside_is_named_with_step_and_band(step: int, loss: float, said: bool) -> None:
    warning = BAND.warning(step, loss)
    assert (warning is not None) == said
    if warning:
        low, high = BAND.at(step)
        assert all(f"{what:g}" in warning for what in (step, loss, low, high))
        assert "preset x" in warning
        assert "\n" not in warning


def scores(val_loss: float, acc_norm: float, examples: int) -> dict[str, object]:
    return {"val_loss": val_loss, "hellaswag": {"acc_norm": acc_norm, "examples": examples}}


def test_scores_pass_or_fail_by_name() -> None:
    assert BAND.verdicts(scores(5.2, 0.305, 10042)) == {"val_loss": "pass", "acc_norm": "pass"}
    assert BAND.verdicts(scores(5.6, 0.25, 10042)) == {"val_loss": "above", "acc_norm": "below"}
    assert BAND.verdicts(scores(4.9, 0.36, 10042)) == {"val_loss": "below", "acc_norm": "above"}
    assert BAND.verdicts(scores(5.2, 0.25, 100))["acc_norm"] == "pass"  # two errors are 0.087
    other = replace(BAND, val_tokens=640)  # a loss over other tokens is another number
    assert "val_loss" not in other.verdicts(scores(9.9, 0.3, 10) | {"val_tokens": 320})
    assert other.verdicts(scores(9.9, 0.3, 10) | {"val_tokens": 640})["val_loss"] == "above"
    assert "acc_norm" not in BAND.verdicts({"val_loss": 5.0, "hellaswag": {"examples": 0}})


def test_without_a_file_there_is_no_band() -> None:
    assert Band.read("").warning(0, 99.0) is None
    assert Band.read("").verdicts({"val_loss": 1.0}) == {}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_preset_s_band_has_steps_that_it_validates_at(file: Path) -> None:
    train = Config.parse(values_of(file.stem, FOLDER)).train
    band = Band.read(file)
    assert band.source
    assert {0, train.max_steps} <= band.val_loss.keys()
    for step, (low, high) in band.val_loss.items():
        assert low < high
        assert step % train.eval_interval == 0 or step == train.max_steps
    for low, high in band.scores.values():
        assert low < high


@pytest.mark.parametrize("file", sorted(FOLDER.glob("reference/*.csv")), ids=lambda file: file.stem)
def test_a_reference_curve_lies_in_its_band(file: Path) -> None:
    header, *lines = file.read_text().splitlines()
    assert tuple(header.split(",")) == COLUMNS
    curve = [dict(zip(COLUMNS, map(float, line.split(",")))) for line in lines]
    band = Band.read(file.with_suffix(".yaml"))
    assert curve[-1]["step"] == Config.parse(values_of(file.stem, FOLDER)).train.max_steps
    assert not [row for row in curve if band.warning(int(row["step"]), row["val_loss"])]


@pytest.mark.parametrize(("change", "applies"), [
    ({}, True), ({"seed": 5}, True), ({"runtime": {"compile": False}}, True),
    ({"train": {"eval_interval": 50}}, True), ({"evaluate": {"hellaswag_examples": 0}}, True),
    ({"train": {"lr": 1e-3}}, False), ({"model": {"n_layer": 5}}, False),
    ({"download": {"max_bytes": 10**6}}, False), ({"preset": "tiny"}, False)])
def test_a_band_is_for_runs_of_the_preset_alone(change: dict[str, object], applies: bool) -> None:
    cfg = Config.parse(merge(values_of("gpt2-124m", FOLDER), change))
    assert (reference(cfg, FOLDER) is not None) == applies
