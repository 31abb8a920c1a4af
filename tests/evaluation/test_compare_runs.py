"""Two runs' predictions, question by question."""

import json
from itertools import product

import pytest

from reprogpt.evaluation.compare_runs import compare, differences, mcnemar_p, read_records
from reprogpt.evaluation.published import METRICS
from tests.conftest import ROOT, run


def record(index, pred, label=0):
    return {"index": index, "label": label, "nll": [1.0, 2.0, 3.0, 4.0],
            "lm_eval_nll": [5.0, 6.0, 7.0, 8.0], **{f"pred_{f}": pred for f in METRICS}}


@pytest.fixture
def files(tmp_path):
    """Question 1 only A gets right, 2 both, 3 and 4 only B, 5 neither; 0 and 9 stand in one."""
    a = {0: 0, 1: 0, 2: 0, 3: 1, 4: 2, 5: 1}
    b = {9: 0, 1: 3, 2: 0, 3: 0, 4: 0, 5: 1}
    for name, answers in (("a", a), ("b", b)):
        lines = [json.dumps(record(i, pred)) + "\n" for i, pred in answers.items()]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path / "a.jsonl", tmp_path / "b.jsonl"


def test_questions_are_matched_by_index_and_counted(files):
    lines = list(compare(*map(read_records, files)))
    assert lines[0] == "5 questions in both; 6 in A, 6 in B"
    assert lines[1].split() == ["metric", "both", "A", "only", "B", "only", "neither", "p"]
    assert lines[2].split() == ["acc", "1", "1", "2", "1", "1"]


def test_each_difference_is_shown_with_the_sums_of_its_figure(files):
    a, b = map(read_records, files)
    assert len(list(differences(a, b, "acc"))) == 3
    first = next(differences(a, b, "lm_eval_acc_norm"))
    assert first == ("question 1, label 0: A 0 of [5.0, 6.0, 7.0, 8.0], "
                     "B 3 of [5.0, 6.0, 7.0, 8.0]")


def test_p_is_a_fair_coins():
    assert mcnemar_p(0, 0) == mcnemar_p(3, 3) == 1
    assert mcnemar_p(0, 5) == mcnemar_p(5, 0) == 2 / 32
    assert mcnemar_p(1, 3) == 2 * (1 + 4) / 16
    tosses = [sum(coins) for coins in product((0, 1), repeat=9)]  # all of them, equally likely
    assert mcnemar_p(2, 7) == sum(t <= 2 or t >= 7 for t in tosses) / len(tosses)


def test_the_command_and_what_it_refuses(files, tmp_path):
    script = ("python", "-m", "pipeline.compare")
    done = run(*script, str(files[0]), str(files[1]), "--each", "acc", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("question ") == 3
    whole = record(1, 0)
    wrong = "must be a hellaswag.jsonl of the stage evaluate"
    for bad, content, reason in (
        ("absent.jsonl", None, "No such file or directory"),
        ("broken.jsonl", "{}\n", wrong),
        ("empty.jsonl", "", wrong),
        ("text.jsonl", json.dumps(whole) + "\nhello\n", wrong),
        ("list.jsonl", "[1]\n", wrong),
        ("old.jsonl", json.dumps({k: v for k, v in whole.items() if k != "pred_acc"}) + "\n",
         wrong),
    ):
        if content is not None:
            (tmp_path / bad).write_text(content)
        done = run(*script, str(tmp_path / bad), str(files[1]), cwd=ROOT)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"{tmp_path / bad}: {reason}")


def test_runs_without_a_common_question_are_not_compared():
    with pytest.raises(ValueError, match="none of A's 1 questions is among B's 2"):
        list(compare({1: record(1, 0)}, {2: record(2, 0), 3: record(3, 0)}))


@pytest.mark.parametrize("index", ["x", None, 1.5])
def test_a_question_without_a_number_is_no_record(index, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(record(1, 0)) + "\n" + json.dumps(record(index, 0)) + "\n")
    for text in (file.read_text(), "[" * 10**5):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"a.jsonl: must be a hellaswag.jsonl"):
            read_records(file)
