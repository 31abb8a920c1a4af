"""A run read back from its files."""

import json

import numpy as np
import pytest

from reprogpt.evaluation.run_record import different_params, read_csv, read_run, smooth

CSV = "step,train_loss,val_loss\n1,5.0,nan\n2,4.5,4.75\n"
LOCK = """stages:
  train:
    params: {params.yaml: {train: {lr: 0.5, max_steps: 2}}}
    outs: [{path: models/gpt, md5: A.dir}]
  evaluate:
    deps: [{path: models/gpt, md5: A.dir}]
  sample:
    deps: [{path: models/gpt, md5: A.dir}]
"""


@pytest.fixture
def files():
    return {"params.yaml": b"train: {lr: 0.25, max_steps: 2}", "dvc.lock": LOCK.encode(),
            "metrics/train.csv": CSV.encode(), "metrics/train.json": b'{"steps": 2}',
            "metrics/eval.json": b'{"val_loss": 4.5}', "metrics/samples.md": b"# Samples",
            "metrics/hellaswag.jsonl": json.dumps({"index": 7, "label": 1}).encode()}


def test_a_finished_run_has_all_that_its_files_say(files):
    run = read_run("a", files.get)
    assert run.curve["val_loss"][1] == 4.75
    assert np.isnan(run.curve["val_loss"][0])
    assert (run.train, run.scores, run.samples) == ({"steps": 2}, {"val_loss": 4.5}, "# Samples")
    assert run.questions == {7: {"index": 7, "label": 1}}


def test_params_are_those_that_were_run_not_edits_made_since(files):
    files["params.yaml"] = b"seed: 3\ntrain: {lr: 0.25, max_steps: 9, keep: best}"
    assert read_run("a", files.get).params == {"seed": 3, "train.lr": 0.5, "train.max_steps": 2}


@pytest.mark.parametrize("change", [{"metrics/train.json": b""},
                                    {"metrics/train.json": b'{"steps": 3}'}],
                         ids=["deleted by DVC", "of a longer last run"])
def test_while_it_trains_results_of_the_last_run_are_left_out(files, change):
    run = read_run("a", (files | change).get)
    assert len(run.curve["step"]) == 2
    assert (run.train, run.scores, run.questions, run.samples) == ({}, {}, {}, "")
    assert run.params["train.lr"] == 0.25


def test_scores_of_another_model_are_left_out(files):
    files["dvc.lock"] = LOCK.replace("evaluate:\n    deps: [{path: models/gpt, md5: A.dir}]",
                                     "evaluate:\n    deps: [{path: models/gpt, md5: B.dir}]"
                                     ).encode()
    run = read_run("a", files.get)
    assert (run.scores, run.questions, run.samples) == ({}, {}, "# Samples")


def test_a_run_that_was_not_asked_has_no_questions(files):
    run = read_run("run", {**files, "metrics/hellaswag.jsonl": b"\n"}.get)
    assert run.train
    assert run.questions == {}


def test_a_run_without_files_is_empty():
    run = read_run("a", {"params.yaml": b"seed: 1"}.get)
    assert (run.params, run.curve, run.train, run.scores) == ({"seed": 1}, {}, {}, {})


def test_a_line_that_is_being_written_is_left_out():
    assert read_csv("a,b\n1,2\n3,4")["b"].tolist() == [2.0]


def test_params_that_differ_are_listed_with_absent_ones():
    runs = [{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}]
    assert different_params(runs) == {"b": [2, 3], "c": [None, 4]}


def test_smoothing_is_a_mean_of_both_sides_and_narrow_at_the_start():
    values = np.random.default_rng(0).normal(size=60)
    mean = smooth(values, 5)
    assert mean[20:-5] == pytest.approx(np.convolve(values, np.ones(11) / 11, "valid")[15:])
    assert mean[3] == values[3]
    assert mean[9] == pytest.approx(values[7:12].mean())
    assert mean[-1] == pytest.approx(values[-6:].mean())
