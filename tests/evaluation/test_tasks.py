"""Tasks of lm-evaluation-harness: scores against transformers, and against the harness's own."""

import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.checks.preflight import preflight
from reprogpt.config import Config, EvaluateConfig, SuitesConfig, merge, read_yaml
from reprogpt.errors import ConfigError
from reprogpt.evaluation import tasks
from reprogpt.evaluation.prefix_trees import score_pairs
from reprogpt.evaluation.report import evaluate
from reprogpt.formats import huggingface as hf
from reprogpt.tokens.tokenizers import bpe_tokenizer, load_tokenizer
from tests.conftest import ROOT
from tests.small_models import random_model
from tests.small_project import ALONE, on_ranks, trained_project

torch.set_num_threads(1)
TASKS = ["lambada_openai", "piqa", "arc_easy", "hellaswag", "wikitext"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model directory with a tokenizer of bytes, which transformers opens, too."""
    root = tmp_path_factory.mktemp("model")
    tokenizer = bpe_tokenizer([])
    tokenizer.save(root / "tokenizer")
    model = random_model(tokenizer.n_vocab, block_size=128, scale=0.3)
    hf.save_model(root / "gpt", model, model.cfg, root / "tokenizer")
    return root / "gpt"


def test_pairs_are_scored_as_transformers_does(folder):
    from transformers import GPT2LMHeadModel

    theirs = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).eval()
    model, cfg = hf.load_model(folder)
    rng = np.random.default_rng(0)
    pairs = []
    for size in (1, 5, 30, 100, 127, 140):  # from 128 on a context is truncated
        context = rng.integers(0, 257, size).tolist()
        pairs += [(context, rng.integers(0, 257, n).tolist()) for n in (1, 2, 9, 40, 60)]
        greedy = theirs.generate(torch.tensor([context[-100:]]), max_new_tokens=3, do_sample=False,
                                 pad_token_id=256)[0, -3:].tolist()
        pairs += [(context[-100:], greedy), (context[-100:], [*greedy[:2], (greedy[2] + 1) % 257])]
    expected, chosen = [], []
    for context, ending in pairs:
        row = torch.tensor((context + ending)[-cfg.block_size - 1:])
        with torch.no_grad():
            logp = theirs(row[None, :-1]).logits[0, -len(ending):].log_softmax(-1)
        expected.append(logp.gather(1, row[-len(ending):, None]).sum().item())
        chosen.append(logp.argmax(1).tolist() == ending)
    found = score_pairs(model, pairs, ALONE, at_once=300)
    np.testing.assert_allclose([total for total, _ in found], expected, rtol=1e-5)
    assert [greedy for _, greedy in found] == chosen
    assert 6 <= sum(chosen) < len(pairs) - 6
    for result in on_ranks(3, lambda p: score_pairs(model, pairs, p, at_once=300)):
        assert result == found
    assert score_pairs(model, [], ALONE) == []


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    changes = {"evaluate": {"suites": {"tasks": ["piqa"]}}}
    cfg = Config.parse(merge(read_yaml(ROOT / "presets/shakespeare.yaml"), changes))
    with pytest.raises(ConfigError, match=r"suites.tasks needs .*pip install .*'\.\[tasks\]'"):
        preflight(cfg)


@pytest.mark.parametrize(("suites", "said"), [
    ({"tasks": ["piqua"]}, "'piqua' is no task of lm-evaluation-harness; did you mean piqa?"),
    ({"tasks": ["zzzzzz"]}, "lm_eval ls tasks"),
    ({"tasks": ["piqa", "gsm8k"]}, "gsm8k has the model write text"),
    ({"tasks": ["piqa"], "task_files": "nope"}, "suites.task_files=nope must be a folder"),
])
def test_what_cannot_be_run_is_refused_in_a_line(monkeypatch, tmp_path, suites, said):
    entries = {"piqa": {"output_type": "multiple_choice"}, "winogrande": None,
               "gsm8k": {"output_type": "generate_until"}}
    manager = SimpleNamespace(all_tasks=sorted(entries), task_index={
        name: SimpleNamespace(cfg=cfg) for name, cfg in entries.items()})
    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", SimpleNamespace(TaskManager=lambda: manager))
    assert tasks.check_tasks(SuitesConfig(tasks=["piqa", "winogrande"]), tmp_path) is manager
    with pytest.raises(ConfigError) as caught:
        tasks.check_tasks(SuitesConfig(**suites), tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scores_are_in_eval_json(monkeypatch, tmp_path):
    root = trained_project(tmp_path)
    found = {"piqa": {"examples": 3, "truncated": 0, "acc": 0.5}}
    monkeypatch.setattr(tasks, "run_tasks", lambda *_: found)
    cfg = EvaluateConfig(val_tokens=None, hellaswag_examples=0)
    assert cfg.suites.canonical() == {}
    evaluate(cfg, ALONE, "auto", root)
    assert "tasks" not in json.loads((root / "metrics/eval.json").read_text())
    cfg = EvaluateConfig(val_tokens=None, hellaswag_examples=0, suites=SuitesConfig(tasks=["piqa"]))
    evaluate(cfg, ALONE, "auto", root)
    assert json.loads((root / "metrics/eval.json").read_text())["tasks"] == found


@pytest.fixture
def harness(monkeypatch, tmp_path):
    """lm_eval, without a network."""
    lm_eval = pytest.importorskip("lm_eval")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return lm_eval


def write_data_sets(root: Path) -> None:
    """Data sets of TASKS as the Hub has them, of nonsense."""
    rng = random.Random(0)

    def words(least: int, most: int) -> str:
        return " ".join("".join(rng.choices("abcdefgh", k=rng.randint(1, 5)))
                        for _ in range(rng.randint(least, most)))

    def arc(count: int) -> dict:
        labels = list("ABCDE")[:count]
        return {"question": words(3, 9), "answerKey": rng.choice(labels),
                "choices": {"text": [words(1, 3) for _ in labels], "label": labels}}

    rows = {
        "EleutherAI/lambada_openai/test": lambda n: {"text": words(5, 40)},
        "baber/piqa/validation": lambda n: {"goal": words(3, 9), "sol1": words(1, 9),
                                            "sol2": words(1, 9), "label": n % 2},
        "allenai/ai2_arc/ARC-Easy/test": lambda n: arc(3 + n % 3),
        "Rowan/hellaswag/validation": lambda n: {
            "activity_label": words(1, 2), "ctx_a": words(2, 9), "ctx_b": words(1, 4),
            "label": str(n % 4),
            "endings": [f"{words(1, 6)} [step] {words(1, 2)}" for _ in "abcd"]},
        "EleutherAI/wikitext_document_level/wikitext-2-raw-v1/test": lambda n: {
            "page": words(1, 120)},
    }
    for name, row in rows.items():
        (root / name).parent.mkdir(parents=True)
        for split in {"train", "validation", Path(name).name}:
            (root / name).with_name(f"{split}.jsonl").write_text(
                "".join(json.dumps(row(n)) + "\n" for n in range(25)))


@pytest.mark.slow
def test_results_are_those_of_lm_evals_own_model(harness, folder, tmp_path, monkeypatch):
    import datasets
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    write_data_sets(tmp_path / "files")
    of_files = datasets.load_dataset
    model, _ = hf.load_model(folder)
    found = tasks.run_tasks(SuitesConfig(tasks=TASKS, task_files="files"), model,
                            load_tokenizer(folder), ALONE, tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name=None: of_files(
        str(next(p.parent for p in (tmp_path / "files" / path).rglob("train.jsonl")))))
    theirs = HFLM(str(folder), device="cpu", dtype="float64", batch_size=4)
    expected = simple_evaluate(theirs, tasks=TASKS, bootstrap_iters=1000)["results"]
    assert list(found) == TASKS
    assert {"acc", "acc_norm", "acc_stderr"} < set(found["piqa"])
    assert found["lambada_openai"]["truncated"] > 0
    for name in TASKS:
        assert found[name]["examples"] == 25
        scores = {key.split(",")[0]: value for key, value in expected[name].items()
                  if "," in key and value != "N/A"}
        assert scores == pytest.approx({key: found[name][key] for key in scores}, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("remove", "said"), [
    ("baber/piqa/train.jsonl", "a data set has no split train"),
    ("baber/piqa", "data set baber/piqa: cannot be read"),
])
def test_data_that_is_not_there_is_named(harness, folder, tmp_path, remove, said):
    write_data_sets(tmp_path)
    (tmp_path / remove).rename(tmp_path / "away")
    model, _ = hf.load_model(folder)
    with pytest.raises(ConfigError, match=said) as caught:
        tasks.run_tasks(SuitesConfig(tasks=["piqa"], task_files="."), model,
                        load_tokenizer(folder), ALONE, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_character_model_scores_answers_but_not_first_tokens(harness, tmp_path):
    root = trained_project(tmp_path / "project")
    write_data_sets(tmp_path / "files")
    suites = SuitesConfig(tasks=["piqa"], task_files=str(tmp_path / "files"))
    cfg = EvaluateConfig(val_tokens=None, hellaswag_examples=0, suites=suites)
    assert evaluate(cfg, ALONE, "auto", root)["tasks"]["piqa"]["examples"] == 25
    cfg = EvaluateConfig(val_tokens=None, hellaswag_examples=0, suites=SuitesConfig(
        tasks=["wikitext"], task_files=str(tmp_path / "files")))
    with pytest.raises(ConfigError, match="character model has no <|endoftext|>"):
        evaluate(cfg, ALONE, "auto", root)
