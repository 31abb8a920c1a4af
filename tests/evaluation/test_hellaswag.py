"""HellaSwag: both definitions' prompts, and scores against a loop of one row at a time."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reprogpt.evaluation.hellaswag import (
    Prompt,
    Question,
    read_questions,
    render,
    score_prompts,
    score_questions,
)
from reprogpt.tokens.tokenizers import CharTokenizer
from tests.small_models import random_model
from tests.small_project import ALONE, EXAMPLE, LETTERS, on_ranks

torch.set_num_threads(1)


def one_row_at_a_time(model, prompt: Prompt) -> list[float]:
    """The definition: each row by itself, the last tokens that fit, the ending's nll summed."""
    sums = []
    for ending in prompt.endings:
        row = (prompt.context + ending)[-(model.cfg.block_size + 1):]
        logp = model.logits(model(torch.tensor([row[:-1]]))).log_softmax(-1)[0]
        nll = -logp[torch.arange(len(row) - 1), torch.tensor(row[1:])]
        sums.append(float(nll[-min(len(ending), len(row) - 1):].double().sum()))
    return sums


tokens = st.integers(0, 9)
prompts = st.builds(
    lambda context, endings: Prompt(context, endings, [1] * 4),
    st.lists(tokens, min_size=1, max_size=14),
    st.lists(st.lists(tokens, min_size=1, max_size=14), min_size=4, max_size=4))


@settings(max_examples=30, deadline=None)
@given(st.lists(prompts, min_size=1, max_size=6), st.integers(1, 200))
def test_trees_give_the_sums_of_rows(many, eval_tokens):
    model = random_model(10, scale=0.3)  # block_size 12: some rows fit and some are truncated
    with torch.no_grad():
        expected = [one_row_at_a_time(model, p) for p in many]
    questions = [Question(i, 0, p, p) for i, p in enumerate(many)]
    scores = score_questions(model, questions, ALONE, eval_tokens)
    np.testing.assert_allclose(scores.nll, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores.lm_eval_nll, expected, rtol=1e-4, atol=1e-4)
    longest = [max(len(p.context) + len(e) for e in p.endings) for p in many]
    assert scores.truncated == sum(n - 1 > 12 for n in longest)


def test_the_two_prompts_are_those_of_their_authors():
    tokenizer = CharTokenizer(LETTERS)
    q = render(7, EXAMPLE, tokenizer)
    text = tokenizer.decode
    assert (q.index, q.label) == (7, 3)
    assert text(q.plain.context) == EXAMPLE["ctx"]
    assert [text(e) for e in q.plain.endings] == [" " + e for e in EXAMPLE["endings"]]
    assert q.plain.lengths == [len(e) + 1 for e in EXAMPLE["endings"]]
    # lm-evaluation-harness, tasks/hellaswag/utils.py, applied by hand
    assert text(q.lm_eval.context) == "Home and Garden: How to dry flowers. Pick them. Go out. You"
    assert [text(e) for e in q.lm_eval.endings] == [
        " take a knife. Cut.", " sit. down.", " wait.", " go home."]
    assert q.lm_eval.lengths == [18, 10, 5, 8]


def test_trailing_spaces_of_the_query_go_to_the_ending():
    example = EXAMPLE | {"ctx_a": "Go out.", "ctx_b": "[step]"}
    q = render(0, example, CharTokenizer(LETTERS))
    text = CharTokenizer(LETTERS).decode
    assert text(q.lm_eval.context) == "Home and Garden: Go out."
    assert text(q.lm_eval.endings[3]) == "  go home."


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "hellaswag_val.jsonl"
    rows = [EXAMPLE | {"label": i % 4, "ctx": f"{EXAMPLE['ctx']} {i}", "ctx_b": f"you {i}"}
            for i in range(11)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_a_subset_is_evenly_spaced(file):
    tokenizer = CharTokenizer(LETTERS)
    assert [q.index for q in read_questions(file, tokenizer, 4)] == [0, 2, 5, 8]
    assert [q.index for q in read_questions(file, tokenizer)] == list(range(11))
    assert [q.label for q in read_questions(file, tokenizer, 4)] == [0, 2, 1, 0]


def test_lines_and_summary_agree_with_rows(file):
    tokenizer = CharTokenizer(LETTERS)
    model = random_model(tokenizer.n_vocab, scale=0.3, block_size=128)
    questions = read_questions(file, tokenizer)
    answers = score_questions(model, questions, ALONE)
    lines = list(answers.lines())
    assert list(lines[0]) == ["index", "label", "nll", "lm_eval_nll", "pred_acc", "pred_acc_norm",
                              "pred_lm_eval_acc", "pred_lm_eval_acc_norm"]
    for q, line in zip(questions, lines):
        with torch.no_grad():
            nll, lm_nll = (np.array(one_row_at_a_time(model, p)) for p in (q.plain, q.lm_eval))
        np.testing.assert_allclose(line["nll"], nll, rtol=1e-4)
        np.testing.assert_allclose(line["lm_eval_nll"], lm_nll, rtol=1e-4)
        assert line["pred_acc"] == nll.argmin()
        assert line["pred_acc_norm"] == (nll / [len(e) for e in q.plain.endings]).argmin()
        assert line["pred_lm_eval_acc"] == lm_nll.argmin()
        assert line["pred_lm_eval_acc_norm"] == (lm_nll / q.lm_eval.lengths).argmin()
    summary = answers.summary()
    assert summary["examples"] == 11
    assert summary["truncated"] == 0
    right = sum(line["pred_acc_norm"] == line["label"] for line in lines)
    assert summary["acc_norm"] == round(right / 11, 6)


def test_processes_share_the_questions_also_unevenly(file):
    tokenizer = CharTokenizer(LETTERS)
    model = random_model(tokenizer.n_vocab, scale=0.3, block_size=128)
    questions = read_questions(file, tokenizer)
    alone = score_questions(model, questions, ALONE, at_once=300)
    for result in on_ranks(3, lambda p: score_questions(model, questions, p, at_once=300)):
        np.testing.assert_array_equal(result.nll, alone.nll)
        np.testing.assert_array_equal(result.lm_eval_nll, alone.lm_eval_nll)


def test_no_questions_is_no_score():
    answers = score_questions(random_model(), [], ALONE)
    assert answers.summary() == {"examples": 0, "truncated": 0}
    assert list(answers.lines()) == []


@pytest.mark.parametrize("switches", [{"position": "rope"}, {"window": 4},
                                      {"position": "sinusoidal"}, {"ngram_rows": [31, 17, 23]},
                                      {"tied_head": False, "logit_softcap": 3.0}])
def test_trees_give_the_sums_of_rows_with_the_switches_that_could_disturb_them(switches):
    model = random_model(10, scale=0.5, **switches)
    rng = np.random.default_rng(0)
    many = [Prompt(rng.integers(0, 10, n).tolist(),
                   [rng.integers(0, 3, k).tolist() for k in (1, 2, 4, 5)], [1] * 4)
            for n in range(1, 9)]
    with torch.no_grad():
        expected = [one_row_at_a_time(model, p) for p in many]
    sums = score_prompts(model, many, ALONE, 60)
    np.testing.assert_allclose(sums, expected, rtol=1e-4, atol=1e-4)
