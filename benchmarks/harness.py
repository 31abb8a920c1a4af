"""Compares lm_eval_acc and lm_eval_acc_norm with lm-evaluation-harness's own scores.

    pip install lm-eval accelerate
    python benchmarks/harness.py [--model models/gpt] [--examples 200]

The harness makes its own prompts, tokens and batches of the same questions.
"""

import argparse
import importlib
import importlib.util
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import numpy as np
import torch

from reprogpt.evaluation.hellaswag import read_questions, score_questions
from reprogpt.formats.huggingface import load_model
from reprogpt.runtime.distributed import Process
from reprogpt.tokens.tokenizers import load_tokenizer

DATA = Path("data/hellaswag/hellaswag_val.jsonl")


def by_the_harness(model: Path, examples: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Summed nll of each ending, (examples, 4), and the characters that it is divided by."""
    instance_of = importlib.import_module("lm_eval.api.instance").Instance
    preprocess = importlib.import_module("lm_eval.tasks.hellaswag.utils").preprocess
    scorer_of = importlib.import_module("lm_eval.models.huggingface").HFLM
    requests, lengths = [], []
    for n, doc in enumerate(examples):
        query = preprocess(f"{doc['activity_label']}: {doc['ctx_a']} {doc['ctx_b'].capitalize()}")
        for k, ending in enumerate(doc["endings"]):
            choice = preprocess(ending)
            requests.append(instance_of("loglikelihood", doc, (query, f" {choice}"), 4 * n + k))
            lengths.append(len(choice))
    scorer = scorer_of(str(model), device="cpu", dtype="float32", batch_size=1)
    sums = [-logp for logp, _ in scorer.loglikelihood(requests)]
    return np.array(sums).reshape(-1, 4), np.array(lengths).reshape(-1, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/gpt"))
    parser.add_argument("--examples", type=int, default=200)
    options = parser.parse_args()
    if importlib.util.find_spec("lm_eval") is None:
        print("lm-eval is not installed: pip install lm-eval accelerate")
        return
    model, _ = load_model(options.model)
    chosen = read_questions(DATA, load_tokenizer(options.model), options.examples)
    questions = [q for q in chosen if max(map(len, q.lm_eval.endings)) <= model.cfg.block_size]
    if left_out := len(chosen) - len(questions):
        print(f"{left_out} questions have an ending longer than block_size={model.cfg.block_size}, "
              "which the harness refuses: left out")
    lines = DATA.read_text(encoding="utf-8").split("\n")
    theirs, lengths = by_the_harness(options.model, [json.loads(lines[q.index])
                                                     for q in questions])
    ours = list(score_questions(model, questions, Process(0, 1, torch.device("cpu"))).lines())
    sums = np.array([line["lm_eval_nll"] for line in ours])
    for name, scores in (("lm_eval_acc", theirs), ("lm_eval_acc_norm", theirs / lengths)):
        equal = sum(int(row.argmin()) == line[f"pred_{name}"]
                    for row, line in zip(scores, ours, strict=True))
        print(f"{name:18} {equal} of {len(ours)} predictions equal")
    print(f"{'sums of nll':18} differ by at most {np.abs(sums / theirs - 1).max():.1e}, relatively")


if __name__ == "__main__":
    main()
