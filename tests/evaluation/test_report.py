"""The stage evaluate on a small character model, files and all."""

import json
import math

import pytest
import torch

from reprogpt.evaluation.report import check_finite, evaluate
from reprogpt.formats import huggingface as hf
from reprogpt.tokens.tokenizers import CharTokenizer
from tests.small_project import (
    ALONE,
    LETTERS,
    TEXT,
    TOKENIZER,
    evaluating,
    on_ranks,
    trained_project,
)

torch.set_num_threads(1)


@pytest.fixture
def root(tmp_path):
    return trained_project(tmp_path)


def test_evaluate_writes_the_contracts_names(root):
    result = evaluate(evaluating(), ALONE, "auto", root)
    saved = json.loads((root / "metrics/eval.json").read_text())
    assert saved == result
    assert saved["val_tokens"] == (len(TEXT) - 1) // 32 * 32
    assert saved["val_perplexity"] == pytest.approx(math.exp(saved["val_loss"]), rel=1e-4)
    # one byte a character: bits per byte are the loss in another unit
    assert saved["val_bits_per_byte"] == pytest.approx(saved["val_loss"] / math.log(2), rel=1e-5)
    assert {"acc", "acc_norm", "lm_eval_acc", "lm_eval_acc_norm"} < saved["hellaswag"].keys()
    assert saved["hellaswag"]["examples"] == 4
    assert saved["hellaswag"]["truncated"] == 4  # no example fits 32 characters
    assert saved["reference"]["gpt2"]["acc_norm"] == 0.2955
    assert saved["reference"]["gpt3"]["acc_norm"] == 0.337
    lines = [json.loads(x) for x in (root / "metrics/hellaswag.jsonl").read_text().splitlines()]
    assert [x["index"] for x in lines] == [0, 1, 3, 4]
    right = sum(x["pred_acc"] == x["label"] for x in lines)
    assert saved["hellaswag"]["acc"] == right / 4


def test_the_summary_is_what_runs_are_compared_by(root):
    (root / "metrics").mkdir()
    (root / "metrics/train.json").write_text('{"tokens_per_second": 5807.5, "fingerprint": "f0"}')
    result = evaluate(evaluating(), ALONE, "auto", root)
    assert json.loads((root / "metrics/summary.json").read_text()) == {
        "val_loss": result["val_loss"], "bpb": result["val_bits_per_byte"],
        "acc_norm": result["hellaswag"]["acc_norm"], "tok_s": 5808}


def test_a_run_with_a_reference_band_is_judged_by_name(root, capsys):
    for folder in ("metrics", "presets/reference"):
        (root / folder).mkdir(parents=True)
    (root / "metrics/train.json").write_text('{"reference": "mine"}')
    (root / "presets/reference/mine.yaml").write_text(
        "source: me\nscores:\n  val_loss: [0.1, 0.2]\n  acc_norm: [0, 1]\n")
    result = evaluate(evaluating(), ALONE, "auto", root)
    assert result["band"] == {"name": "mine", "val_loss": "above", "acc_norm": "pass"}
    assert json.loads((root / "metrics/eval.json").read_text())["band"] == result["band"]
    assert "val_loss above" in capsys.readouterr().err


def test_no_hellaswag_leaves_a_blank_line(root):
    result = evaluate(evaluating(hellaswag_examples=0), ALONE, "auto", root)
    assert result["hellaswag"] == {"examples": 0}
    shown = [row["model"] for row in result["compared"]]  # a plot of DVC's wants some rows
    assert "chance" in shown
    assert "this model" not in shown
    assert (root / "metrics/hellaswag.jsonl").read_bytes() == b"\n"  # DVC warns of empty files
    assert json.loads((root / "metrics/summary.json").read_text()).keys() == {"val_loss", "bpb"}


def test_lower_precision_moves_hellaswag_a_little_and_the_loss_not(root):
    exact = evaluate(evaluating(), ALONE, "auto", root)
    lines = (root / "metrics/hellaswag.jsonl").read_text().splitlines()
    rough = evaluate(evaluating(precision="bfloat16"), ALONE, "auto", root)
    assert rough["val_loss"] == exact["val_loss"]
    for a, b in zip(lines, (root / "metrics/hellaswag.jsonl").read_text().splitlines()):
        assert json.loads(b)["nll"] == pytest.approx(json.loads(a)["nll"], rel=0.05)
        assert a != b


def test_batch_and_processes_change_no_figure(root):
    alone = evaluate(evaluating(), ALONE, "auto", root)
    assert evaluate(evaluating(), ALONE, 40, root) == alone
    assert on_ranks(3, lambda p: evaluate(evaluating(), p, 40, root)) == [alone] * 3


def test_a_model_of_other_tokens_is_refused(root):
    other = CharTokenizer(LETTERS)
    other.save(root / "models/gpt")
    with pytest.raises(ValueError, match=r"^models/gpt: its tokenizer .* is not that of data") as e:
        evaluate(evaluating(), ALONE, "auto", root)
    assert f"(char, {other.n_vocab} ids)" in str(e.value)
    assert f"(char, {TOKENIZER.n_vocab} ids)" in str(e.value)


def change_weights(root, name, change):
    model, _ = hf.load_model(root / "models/gpt")
    with torch.no_grad():
        change(model.get_parameter(name))
    hf.save_model(root / "models/gpt", model, model.cfg, root / "data/tokens/tokenizer")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(root, value):
    change_weights(root, "h.1.attn.c_attn.weight", lambda weight: weight[3, 2].fill_(value))
    with pytest.raises(ValueError, match=r"models/gpt: h\.1\.attn\.c_attn\.weight .* nan or inf"):
        evaluate(evaluating(), ALONE, "auto", root)
    assert not (root / "metrics").exists()


def test_scores_that_are_not_finite_are_never_written(root):
    change_weights(root, "ln_f.weight", lambda weight: weight.fill_(3e38))  # logits overflow
    with pytest.raises(ValueError, match=r"models/gpt: .*\(eval.json: val_loss is (nan|inf)\)"):
        evaluate(evaluating(), ALONE, "auto", root)
    assert not (root / "metrics").exists()


def test_a_score_that_is_not_finite_is_named_wherever_it_is():
    check_finite("a", {"x": 1.0, "y": [{"z": [0.5, 2]}], "w": "nan", "n": None})
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match=rf"\(a: y: z is {value}\)"):
            check_finite("a", {"x": 1.0, "y": [{"z": [0.5, value]}]})
