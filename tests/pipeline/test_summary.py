"""What `make repro` ends with, from metrics files whose figures are known."""

import json
import math
from pathlib import Path

import pytest

from pipeline.summary import figures
from tests.conftest import run

TRAIN = {"steps": 1000, "tokens": 512_000, "epochs": 0.37, "train_loss": 5.152, "mfu": None,
         "tokens_per_second": 5807.5, "seconds": 88.2, "parameters": 3_520_576}
EVAL = {"val_loss": 5.361, "val_bits_per_byte": 2.366, "val_tokens": 167_040,
        "hellaswag": {"acc_norm": 0.246, "examples": 500},
        "compared": [{"model": "chance", "acc_norm": 0.25},
                     {"model": "this model", "acc_norm": 0.246},
                     {"model": "GPT-2 124M", "acc_norm": 0.2955}]}
SAMPLES = "# Samples\n\n## `ROMEO:`\n\n```text\nROMEO: my\nlord" + " and so on" * 20 + "\n```\n"


def write(checkout: Path, evaluated: dict[str, object]) -> None:
    (checkout / "metrics/train.json").write_text(json.dumps(TRAIN))
    (checkout / "metrics/eval.json").write_text(json.dumps(evaluated))
    (checkout / "metrics/samples.md").write_text(SAMPLES)


def test_the_summary_has_the_figures_on_one_screen(checkout: Path) -> None:
    write(checkout, EVAL)
    done = run("python", "-m", "pipeline.summary", cwd=checkout)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 15
    assert max(map(len, lines)) <= 100
    error = math.sqrt(0.246 * 0.754 / 500)
    for part in ("1,000 steps", "5.361", "2.366 bits per byte", f"0.246 ± {error:.3f} of 500",
                 "GPT-2 124M 0.295", "1 min 28 s", "5,808 tokens a second", "ROMEO: my lord"):
        assert part in done.stdout, part
    assert "MFU" not in done.stdout
    assert "this model" not in done.stdout


def test_a_run_with_a_reference_band_has_its_verdict(checkout: Path) -> None:
    write(checkout, {**EVAL, "band": {"name": "shakespeare", "val_loss": "pass",
                                      "acc_norm": "below"}})
    done = run("python", "-m", "pipeline.summary", cwd=checkout)
    assert "shakespeare: val_loss pass, acc_norm below" in done.stdout
    assert len(done.stdout.splitlines()) <= 15


def test_a_run_of_arithmetic_has_its_accuracy_and_no_hellaswag(checkout: Path) -> None:
    write(checkout, {**EVAL, "hellaswag": {"examples": 0},
                     "task": {"accuracy": 0.9987, "problems": 5049}})
    done = run("python", "-m", "pipeline.summary", cwd=checkout)
    assert "99.9% of 5,049" in done.stdout
    assert "HellaSwag" not in done.stdout


def test_without_a_run_it_says_which_file_is_missing(checkout: Path) -> None:
    done = run("python", "-m", "pipeline.summary", cwd=checkout)
    assert done.returncode == 2
    assert done.stderr.startswith("metrics/train.json is missing")
    assert "make repro" in done.stderr


def test_damaged_figures_are_told_with_their_files() -> None:
    for train, scores in (("{", "{}"), ("[" * 10**5, "{}"), ("{}", "{}"), ("[]", "{}"), (
            json.dumps(TRAIN | {"steps": None}), json.dumps(EVAL))):
        with pytest.raises(ValueError, match=r"metrics/eval.json is damaged .*; remove both"):
            figures("tiny", train, scores, "")
