"""HellaSwag: which of four endings does the model find most natural?

Two definitions are in use, and their figures are not comparable, so both are computed and named:

``acc``, ``acc_norm``: build-nanogpt's. Prompt: the context as it stands; an ending follows a space.
    Sum, and mean per token, of the ending's nll.
``lm_eval_acc``, ``lm_eval_acc_norm``: lm-evaluation-harness 0.4's. Prompt: "activity: context",
    WikiHow's brackets removed. Sum of the ending's nll, and that sum per character of the ending.

The four rows of a question share their context, and often the first words of their endings: they
are scored as one tree (trees.py).
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from reprogpt.evaluation.prefix_trees import batches, grow, score_batch
from reprogpt.evaluation.scoring import Head, tokens_at_once
from reprogpt.model.gpt import GPT
from reprogpt.model.kernels.packed_linear import packed
from reprogpt.runtime.distributed import Process
from reprogpt.tokens.tokenizers import CharTokenizer, Tokenizer


@dataclass(frozen=True)
class Prompt:
    """A context and its endings as token ids, and what each ending's sum is divided by."""

    context: list[int]
    endings: list[list[int]]
    lengths: list[int]


@dataclass(frozen=True)
class Question:
    """One line of the file, rendered by both definitions."""

    index: int
    label: int
    plain: Prompt
    lm_eval: Prompt


@dataclass(frozen=True)
class Answers:
    """Sums of nll per question and ending, (questions, 4) float64, by each definition."""

    questions: Sequence[Question]
    nll: np.ndarray
    lm_eval_nll: np.ndarray
    truncated: int
    """Questions with a row longer than the model's block_size, cut from the left."""

    def lines(self) -> Iterator[dict[str, Any]]:
        """One record a question: what metrics/hellaswag.jsonl holds."""
        for q, nll, lm_nll in zip(self.questions, self.nll, self.lm_eval_nll, strict=True):
            yield {
                "index": q.index, "label": q.label,
                "nll": [round(float(x), 6) for x in nll],
                "lm_eval_nll": [round(float(x), 6) for x in lm_nll],
                "pred_acc": int(nll.argmin()),
                "pred_acc_norm": _best(nll, q.plain.lengths),
                "pred_lm_eval_acc": int(lm_nll.argmin()),
                "pred_lm_eval_acc_norm": _best(lm_nll, q.lm_eval.lengths),
            }

    def summary(self) -> dict[str, Any]:
        """The share of right answers by each definition, and how many were asked."""
        lines = list(self.lines())
        names = ("acc", "acc_norm", "lm_eval_acc", "lm_eval_acc_norm") if lines else ()
        right = {name: sum(r[f"pred_{name}"] == r["label"] for r in lines) for name in names}
        return {**{name: round(n / len(lines), 6) for name, n in right.items()},
                "examples": len(lines), "truncated": self.truncated}


def read_questions(file: str | Path, tokenizer: Tokenizer, count: int | None = None
                   ) -> list[Question]:
    """``count`` evenly spaced questions of hellaswag_val.jsonl; None for all of them.

    Evenly spaced, because the first thousands are all of one kind (video captions). Characters
    that a character model never saw are left out: no question could be scored otherwise. Raises
    ValueError for a file that is missing or damaged.
    """
    if isinstance(tokenizer, CharTokenizer):
        tokenizer = CharTokenizer(tokenizer.characters, unknown="drop")
    try:
        everything = Path(file).read_text(encoding="utf-8").rstrip("\n").split("\n")
    except FileNotFoundError:
        raise ValueError(f"{file} does not exist; run the stage download") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is damaged ({error}); run the stage download again") from None
    count = len(everything) if count is None else min(count, len(everything))
    chosen = [i * len(everything) // count for i in range(count)]
    try:
        return [render(i, json.loads(everything[i]), tokenizer) for i in chosen]
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: is damaged ({error}); run the stage download again") from None


def render(index: int, example: dict[str, Any], tokenizer: Tokenizer) -> Question:
    """One line of the file as both definitions see it."""
    def ids(text: str) -> list[int]:
        return tokenizer.encode(text).tolist()

    endings = [ids(" " + ending) for ending in example["endings"]]
    plain = Prompt(ids(example["ctx"]), endings, [len(e) for e in endings])

    query = f"{example['activity_label']}: {example['ctx_a']} {example['ctx_b'].capitalize()}"
    query, choices = _clean(query), [_clean(e) for e in example["endings"]]
    # The harness moves the query's trailing spaces to the ending, where BPE wants them, and
    # takes as the ending's tokens whatever the joint encoding adds to the query's own.
    stem = query.rstrip()
    start = len(context := ids(stem))
    joint = [ids(f"{query} {choice}")[start:] for choice in choices]
    lm_eval = Prompt(context, joint, [len(choice) for choice in choices])
    return Question(index, int(example["label"]), plain, lm_eval)


def _best(nll: np.ndarray, lengths: Sequence[int]) -> int:
    """The ending with the least nll by length; one of no length is never it."""
    divisor = np.array(lengths, dtype=np.float64)
    divisor[divisor == 0] = np.nan
    return int(np.nan_to_num(nll / divisor, nan=np.inf).argmin())


def _clean(text: str) -> str:
    """The harness's clean-up of WikiHow's markup, in its order (tasks/hellaswag/utils.py)."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def answer(model: GPT, questions: Sequence[Question], process: Process,
           at_once: int | None = None, progress: bool = False) -> Answers:
    """Scores questions, shared among the processes; every process returns all the answers.
    ``at_once``: tokens through the model at a time; None for as many as suit the device.

    The model's own dtype is the precision of the matrices; sums are float32 and up. No generator
    is touched.
    """
    prompts = [p for q in questions for p in (q.plain, q.lm_eval)]
    nll, cut = score(model, prompts, process, at_once, progress)
    pairs = nll.reshape(len(questions), 2, nll.shape[1])
    truncated = int(cut.reshape(-1, 2).any(1).sum())
    return Answers(questions, pairs[:, 0], pairs[:, 1], truncated)


@torch.no_grad()
def score(model: GPT, prompts: Sequence[Prompt], process: Process,
          at_once: int | None = None, progress: bool = False
          ) -> tuple[np.ndarray, np.ndarray]:
    """Sums of nll of each prompt's endings (prompts, endings) float64, and which prompts had a
    row longer than block_size (prompts,) bool: such a row keeps its last tokens, as many as fit.
    """
    width = max((len(p.endings) for p in prompts), default=4)
    trees = [tree for i, p in enumerate(prompts)
             for tree in grow(i * width, p.context, p.endings, model.cfg.block_size)]
    sums = torch.zeros(len(prompts) * width, dtype=torch.float64)
    model, head = packed(model, many_rows=True), Head.of(model)
    at_once = at_once or tokens_at_once(process.device)
    mine = list(batches(trees, at_once))[process.rank::process.world_size]
    # The numbers leave the device at the end alone, so that trees are laid out while it computes.
    scored = [score_batch(model, head, batch, process.device) for batch in
              tqdm(mine, "HellaSwag", unit="batch", disable=not progress, leave=False)]
    for slots, nll in scored:
        sums.index_add_(0, slots, nll.cpu().double())
    cut = np.array([max(len(p.context) + len(e) for e in p.endings) - 1 > model.cfg.block_size
                    for p in prompts], dtype=bool)
    return process.sum(sums).view(-1, width).numpy(), cut
