"""HellaSwag (Zellers et al., 2019): which of four endings has the highest likelihood?

Two definitions are in use, whose numbers are not comparable. Both are computed:

``acc``, ``acc_norm``: build-nanogpt's. Prompt: the context as it is, endings after a space. Sum,
    and mean per token, of the ending's nll.
``lm_eval_acc``, ``lm_eval_acc_norm``: lm-evaluation-harness 0.4's. Prompt: "activity: context",
    without WikiHow's brackets. Sum of the ending's nll, and that sum per character of the ending.

The four rows of a question share their context and often the first words of their endings, so they
are scored as one tree (prefix_trees.py).
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reprogpt.evaluation.prefix_trees import build_trees, score_trees
from reprogpt.evaluation.published import METRICS
from reprogpt.model.gpt import GPT
from reprogpt.runtime.distributed import Process
from reprogpt.tokens.tokenizers import CharTokenizer, Tokenizer


@dataclass(frozen=True)
class Prompt:
    """A context and its endings as token ids."""

    context: list[int]
    endings: list[list[int]]
    lengths: list[int]  # of the endings, in tokens or characters: nll / length is normalized


@dataclass(frozen=True)
class Question:
    """One line of the file, by both definitions."""

    index: int
    label: int
    plain: Prompt
    lm_eval: Prompt


@dataclass(frozen=True)
class Scores:
    """Summed nll of every ending, (questions, 4) float64, by each definition."""

    questions: Sequence[Question]
    nll: np.ndarray
    lm_eval_nll: np.ndarray
    truncated: int  # questions with a row longer than block_size, truncated on the left

    def lines(self) -> Iterator[dict[str, Any]]:
        """The records of metrics/hellaswag.jsonl, one a question."""
        for q, nll, lm_nll in zip(self.questions, self.nll, self.lm_eval_nll, strict=True):
            yield {
                "index": q.index, "label": q.label,
                "nll": [round(float(x), 6) for x in nll],
                "lm_eval_nll": [round(float(x), 6) for x in lm_nll],
                "pred_acc": int(nll.argmin()),
                "pred_acc_norm": _argmin_by_length(nll, q.plain.lengths),
                "pred_lm_eval_acc": int(lm_nll.argmin()),
                "pred_lm_eval_acc_norm": _argmin_by_length(lm_nll, q.lm_eval.lengths),
            }

    def summary(self) -> dict[str, Any]:
        """Accuracy by each definition, ``examples`` and ``truncated``."""
        lines = list(self.lines())
        correct = {name: sum(line[f"pred_{name}"] == line["label"] for line in lines)
                   for name in (METRICS if lines else ())}
        return {**{name: round(n / len(lines), 6) for name, n in correct.items()},
                "examples": len(lines), "truncated": self.truncated}


def _argmin_by_length(nll: np.ndarray, lengths: Sequence[int]) -> int:
    """The ending with the least nll / length; never one of length 0."""
    return min(range(len(nll)), key=lambda k: nll[k] / lengths[k] if lengths[k] else math.inf)


def read_questions(file: str | Path, tokenizer: Tokenizer, count: int | None = None
                   ) -> list[Question]:
    """``count`` evenly spaced questions of hellaswag_val.jsonl, or all of them (None).

    Evenly spaced, because the first thousands are all video captions. A character tokenizer drops
    characters that it does not know.
    """
    if isinstance(tokenizer, CharTokenizer):
        tokenizer = CharTokenizer(tokenizer.characters, unknown="drop")
    lines = Path(file).read_text(encoding="utf-8").rstrip("\n").split("\n")
    count = len(lines) if count is None else min(count, len(lines))
    chosen = [i * len(lines) // count for i in range(count)]
    return [render(i, json.loads(lines[i]), tokenizer) for i in chosen]


def render(index: int, example: dict[str, Any], tokenizer: Tokenizer) -> Question:
    """The prompts of one line of the file."""
    def ids(text: str) -> list[int]:
        return tokenizer.encode(text).tolist()

    endings = [ids(" " + ending) for ending in example["endings"]]
    plain = Prompt(ids(example["ctx"]), endings, [len(e) for e in endings])

    query = f"{example['activity_label']}: {example['ctx_a']} {example['ctx_b'].capitalize()}"
    query, choices = _preprocess(query), [_preprocess(e) for e in example["endings"]]
    # The harness moves trailing spaces of the query to the ending, where BPE expects them. The
    # ending's tokens are what encoding both together adds to the query's own tokens.
    context = ids(query.rstrip())
    joint = [ids(f"{query} {choice}")[len(context):] for choice in choices]
    lm_eval = Prompt(context, joint, [len(choice) for choice in choices])
    return Question(index, int(example["label"]), plain, lm_eval)


def _preprocess(text: str) -> str:
    """The harness's clean-up of WikiHow's markup (lm_eval/tasks/hellaswag/utils.py)."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def score_questions(model: GPT, questions: Sequence[Question], process: Process,
                    at_once: int | None = None, progress: bool = False) -> Scores:
    """Scores questions by both definitions. They are distributed over the processes; the result is
    the same on each. ``at_once``: tokens in a forward pass, None for the device's default.

    Matrix products are in the model's dtype, sums in float32 or higher.
    """
    prompts = [p for q in questions for p in (q.plain, q.lm_eval)]
    nll = score_prompts(model, prompts, process, at_once, progress)
    too_long = [len(p.context) + max(map(len, p.endings)) > model.cfg.block_size + 1
                for p in prompts]
    truncated = sum(map(max, too_long[::2], too_long[1::2]))
    return Scores(questions, nll[::2], nll[1::2], truncated)


def score_prompts(model: GPT, prompts: Sequence[Prompt], process: Process,
                  at_once: int | None = None, progress: bool = False) -> np.ndarray:
    """Summed nll of each prompt's endings, (prompts, endings) float64. A row longer than
    block_size + 1 keeps its last tokens."""
    width = max((len(p.endings) for p in prompts), default=4)
    trees = [tree for i, p in enumerate(prompts)
             for tree in build_trees(i * width, p.context, p.endings, model.cfg.block_size)]
    sums = score_trees(model, trees, len(prompts) * width, process, at_once,
                       "HellaSwag" if progress else "")
    return sums[0].view(-1, width).numpy()
