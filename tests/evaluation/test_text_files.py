"""Loss of text files, against torch's cross-entropy, through the stage evaluate."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reprogpt.config import SuitesConfig
from reprogpt.errors import ConfigError
from reprogpt.evaluation import text_files
from reprogpt.evaluation.report import evaluate
from reprogpt.formats import huggingface as hf
from tests.small_project import ALONE, TEXT, TOKENIZER, evaluating, trained_project

torch.set_num_threads(1)


@pytest.fixture
def root(tmp_path):
    return trained_project(tmp_path)


def test_held_out_files_are_scored_to_the_last_token(root):
    (root / "mine").mkdir()
    (root / "mine/a.txt").write_text(TEXT[:75])
    (root / "mine/b.txt").write_text("No.")
    suites = SuitesConfig(held_out=["mine/*.txt"])
    result = evaluate(evaluating(suites=suites, hellaswag_examples=0), ALONE, "auto", root)
    model, _ = hf.load_model(root / "models/gpt")
    ids = torch.from_numpy(TOKENIZER.encode(TEXT[:75]).astype(np.int64))
    losses = []
    for start in range(0, 74, 32):
        idx, y = ids[:-1][start:start + 32], ids[1:][start:start + 32]
        losses.append(F.cross_entropy(model.logits(model(idx[None]))[0], y, reduction="sum"))
    found = result["held_out"]["mine/a.txt"]
    assert found["tokens"] == 74
    assert found["loss"] == pytest.approx(sum(losses).item() / 74, rel=1e-5)
    assert result["held_out"]["mine/b.txt"]["tokens"] == 2


@pytest.mark.parametrize(("content", "message"), [
    (None, "matches no file"), (b"", "is empty"), (b"\xff", "must be text"),
    (b"tilde ~", "tokenizer knows")])
def test_held_out_files_that_cannot_be_scored_are_named(root, content, message):
    if content is not None:
        (root / "mine.txt").write_bytes(content)
    suites = SuitesConfig(held_out=["mine.txt"])
    with pytest.raises(ConfigError, match=message) as caught:
        evaluate(evaluating(suites=suites), ALONE, "auto", root)
    assert "mine.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_held_out_files_may_lie_anywhere(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("texts")
    (elsewhere / "a.txt").write_text(TEXT[:75])
    suites = SuitesConfig(held_out=[f"{elsewhere}/*.txt"])
    result = evaluate(evaluating(suites=suites, hellaswag_examples=0), ALONE, "auto", root)
    assert result["held_out"][f"{elsewhere}/a.txt"]["tokens"] == 74


def test_a_held_out_file_that_vanishes_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "matching", lambda *_: {"a.txt": tmp_path / "a.txt"})
    with pytest.raises(ConfigError, match=r"held_out: a.txt: must be a readable file"):
        text_files.score_files(None, ["*"], TOKENIZER, ALONE, tmp_path, 1)
