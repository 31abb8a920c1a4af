"""HellaSwag: which of four endings does the model find most natural?

Two definitions are in use, and their figures are not comparable, so both are computed and named:

``acc``, ``acc_norm``: build-nanogpt's. Prompt: the context as it stands; an ending follows a space.
    Sum, and mean per token, of the ending's nll.
``lm_eval_acc``, ``lm_eval_acc_norm``: lm-evaluation-harness 0.4's. Prompt: "activity: context",
    WikiHow's brackets removed. Sum of the ending's nll, and that sum per character of the ending.

The four rows of a question share their context, and often the first words of their endings. They
are scored as one tree: each token is computed once, sees its own ancestors only (the attention
mask), and sits at the position that it has in its row. Questions of similar length share a batch.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from reprogpt.model import GPT
from reprogpt.runtime import Process
from reprogpt.scoring import EVAL_TOKENS, log_normalizer, target_logit
from reprogpt.tokenizers import CharTokenizer, Tokenizer

EXAMPLES = 10042
"""Questions in HellaSwag's validation file."""

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
    that a character model never saw are left out: no question could be scored otherwise.
    """
    if isinstance(tokenizer, CharTokenizer):
        tokenizer = CharTokenizer(tokenizer.characters, unknown="drop")
    everything = Path(file).read_text(encoding="utf-8").rstrip("\n").split("\n")
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
           eval_tokens: int = EVAL_TOKENS, progress: bool = False) -> Answers:
    """Scores questions, shared among the processes; every process returns all the answers.

    The model's own dtype is the precision of the matrices; sums are float32 and up. No generator
    is touched.
    """
    prompts = [p for q in questions for p in (q.plain, q.lm_eval)]
    nll, cut = score(model, prompts, process, eval_tokens, progress)
    pairs = nll.reshape(len(questions), 2, nll.shape[1])
    truncated = int(cut.reshape(-1, 2).any(1).sum())
    return Answers(questions, pairs[:, 0], pairs[:, 1], truncated)


@torch.no_grad()
def score(model: GPT, prompts: Sequence[Prompt], process: Process,
          eval_tokens: int = EVAL_TOKENS, progress: bool = False
          ) -> tuple[np.ndarray, np.ndarray]:
    """Sums of nll of each prompt's endings (prompts, endings) float64, and which prompts had a
    row longer than block_size (prompts,) bool: such a row keeps its last tokens, as many as fit.
    """
    width = max((len(p.endings) for p in prompts), default=4)
    trees = [tree for i, p in enumerate(prompts)
             for tree in grow(i * width, p, model.cfg.block_size)]
    sums = torch.zeros(len(prompts) * width, dtype=torch.float64)
    batches = list(_pack(trees, eval_tokens))
    mine = batches[process.rank::process.world_size]
    for batch in tqdm(mine, "HellaSwag", unit="batch", disable=not progress, leave=False):
        slots, nll = _score_batch(model, batch, process.device)
        sums.index_add_(0, slots, nll.double().cpu())
    cut = np.array([max(len(p.context) + len(e) for e in p.endings) - 1 > model.cfg.block_size
                    for p in prompts], dtype=bool)
    return process.sum(sums).view(-1, width).numpy(), cut


@dataclass
class Tree:
    """Rows that share their beginnings. Node n holds a token; its parent comes before it."""

    tokens: list[int]
    trunk: int
    """The first ``trunk`` nodes are one line, each the parent of the next."""
    parents: list[int] = field(default_factory=list)
    """Parents of the nodes after the trunk."""
    depths: list[int] = field(default_factory=list)
    """Positions of the nodes after the trunk."""
    scored: list[tuple[int, int, int]] = field(default_factory=list)
    """(node, the token that should follow it, the sum to which its nll belongs)"""

    def sees(self) -> np.ndarray:
        """(n, n) bool: may node i look at node j, that is, is j its ancestor or itself?"""
        n = len(self.tokens)
        mask = np.eye(n, dtype=bool)
        mask[:self.trunk, :self.trunk] = np.tri(self.trunk, dtype=bool)
        for node, parent in enumerate(self.parents, self.trunk):
            mask[node] |= mask[parent]
        return mask


def grow(first_slot: int, prompt: Prompt, block_size: int) -> list[Tree]:
    """The trees of a prompt: one, unless rows had to be cut at different places.

    A row of n + 1 tokens needs n positions, since nothing follows the last. Ending k is summed
    in slot first_slot + k.
    """
    by_start: dict[int, list[int]] = {}
    for k, ending in enumerate(prompt.endings):
        if not ending:  # a character model may know no character of it
            continue
        start = max(0, len(prompt.context) + len(ending) - 1 - block_size)
        by_start.setdefault(start, []).append(k)
    trees = []
    for start, endings in by_start.items():
        rows = [(prompt.context + prompt.endings[k])[start:] for k in endings]
        trunk = max(1, len(prompt.context) - start)  # an ending longer than the block loses more
        tree = Tree(rows[0][:trunk], trunk)
        if trunk > len(prompt.context) - start:  # the rows share no token at all
            trees += [_line(first_slot + k, row) for k, row in zip(endings, rows, strict=True)
                      if len(row) > 1]
            continue
        children: dict[tuple[int, int], int] = {}
        for k, row in zip(endings, rows, strict=True):
            node = trunk - 1
            for depth, token in enumerate(row[trunk:], trunk):
                tree.scored.append((node, token, first_slot + k))
                if depth == len(row) - 1:
                    break
                if (node, token) not in children:
                    children[node, token] = len(tree.tokens)
                    tree.tokens.append(token)
                    tree.parents.append(node)
                    tree.depths.append(depth)
                node = children[node, token]
        trees.append(tree)
    return trees


def _line(slot: int, row: list[int]) -> Tree:
    scored = [(node, token, slot) for node, token in enumerate(row[1:])]
    return Tree(row[:-1], len(row) - 1, scored=scored)


def _pack(trees: Sequence[Tree], eval_tokens: int) -> Iterator[list[Tree]]:
    """Trees of similar size together, as many as fill eval_tokens when padded to the longest.

    The longest come first: a batch that does not fit in memory fails at once.
    """
    batch: list[Tree] = []
    for tree in sorted(trees, key=lambda t: (t.depths != [], len(t.tokens)), reverse=True):
        plain = bool(batch) and (batch[0].depths != []) != (tree.depths != [])
        if batch and (plain or (len(batch) + 1) * len(batch[0].tokens) > eval_tokens):
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


def _score_batch(model: GPT, trees: Sequence[Tree], device: torch.device) -> tuple[Tensor, Tensor]:
    """(slots, nll) of every scored token of a batch."""
    rows, width = len(trees), max(len(t.tokens) for t in trees)
    idx = np.zeros((rows, width), dtype=np.int64)
    for b, tree in enumerate(trees):
        idx[b, :len(tree.tokens)] = tree.tokens
    tokens = torch.from_numpy(idx).to(device)
    if any(tree.depths for tree in trees):
        positions = np.zeros((rows, width), dtype=np.int64)
        sees = np.broadcast_to(np.eye(width, dtype=bool), (rows, 1, width, width)).copy()
        for b, tree in enumerate(trees):
            n = len(tree.tokens)
            positions[b, :n] = [*range(tree.trunk), *tree.depths]
            sees[b, 0, :n, :n] = tree.sees()
        hidden = model(tokens, positions=torch.from_numpy(positions).to(device),
                       mask=torch.from_numpy(sees).to(device))
    else:  # lines only: the padding lies in their future, which no position sees
        hidden = model(tokens)
    nodes, targets, slots = torch.tensor(
        [(b * width + node, token, slot) for b, t in enumerate(trees)
         for node, token, slot in t.scored]).unbind(1)
    # Endings meet in their parents: normalize each hidden state once, however many follow it.
    unique, back = nodes.unique(return_inverse=True)
    x = hidden.flatten(0, 1)[unique.to(device)]
    cap = getattr(model, "logit_softcap", None)
    norm = log_normalizer(x, model.head_weight, model.vocab_size, cap=cap)
    back = back.to(device)
    nll = norm[back] - target_logit(x[back], model.head_weight, targets.to(device), cap)
    return slots, nll
