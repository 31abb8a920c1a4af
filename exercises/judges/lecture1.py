"""Judges of exercises 1 to 5."""

from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exercises.judges.compare import Wrong, causal, normal, same, tokens, values
from reprogpt.config.sections import TaskConfig
from reprogpt.data import arithmetic
from reprogpt.model.lecture1 import attention, averaging

CAUSAL = torch.ones(6, 6, dtype=torch.bool).tril()


def judge_averaging(m: Any) -> None:
    """Oracle: model/lecture1/averaging.py."""
    x = normal(2, 6, 3)
    sums, counts = x.cumsum(1), torch.arange(1.0, 7)[:, None]
    mistakes = {
        "it attends to the future: it is the mean over all positions":
            x.mean(1, keepdim=True).expand_as(x),
        "it is a sum; divide it by the number of positions, t + 1": sums,
        "it is divided by T everywhere; position t has t + 1 positions to average": sums / 6,
        "position t leaves itself out; t is included": (sums - x) / (counts - 1),
        "the mean is over the wrong axis: the batch (dim 0), not time (dim 1)":
            x.mean(0, keepdim=True).expand_as(x),
        "the weights are normalized over the wrong axis: each row must sum to 1, not each column":
            _weights(torch.zeros(6, 6), dim=0) @ x}
    for f in (m.average_loop, m.average_product, m.average_softmax):
        what = f"{f.__name__}(x)"
        same(what, f(x), averaging.average_loop(x), "BTC", mistakes, partial(causal, what, f, x))


def judge_bigram(m: Any) -> None:
    """Oracles: torch's cross_entropy; the softmax that is to be sampled from."""
    table, idx, targets = normal(5, 5), tokens(5, 3, 4), tokens(5, 3, 4, seed=1)
    loss = F.cross_entropy(table[idx].mT, targets)
    columns = "it reads the table's columns; row i has the logits of what follows token i"
    same("bigram_loss(table, idx, targets)", m.bigram_loss(table, idx, targets), loss, mistakes={
        "it is the sum over all positions; take the mean": loss * 12,
        "the sign is wrong: a loss is minus the log-probability": -loss,
        columns: F.cross_entropy(table.T[idx].mT, targets),
        "logits are no log-probabilities; a log_softmax over the last axis is missing":
            -table[idx, targets].mean()})
    ring = torch.eye(5).roll(2, 1) * 1e4  # token i is followed by i + 2
    found = m.bigram_sample(ring, 1, 4, torch.Generator().manual_seed(0))
    same("bigram_sample(table, start=1, n=4, generator)", found, [1, 3, 0, 2, 4], mistakes={
        columns: [1, 4, 2, 0, 3],
        "each token must be drawn from the row of the token before it, not of start":
            [1, 3, 3, 3, 3]})
    p = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.5, 0.25, 0.25]])
    draw, again = (m.bigram_sample(p.log(), 0, 6000, torch.Generator().manual_seed(1))
                   for _ in range(2))
    if draw != again:
        raise Wrong("bigram_sample gives other tokens for the same seed; draw from `generator`")
    after = torch.tensor([b for a, b in pairwise(draw) if a == 0])
    for token, wanted in enumerate(p[0].tolist()):
        share = (after == token).double().mean().item()
        if abs(share - wanted) > 0.05:
            raise Wrong(f"bigram_sample: token {token} follows token 0 in {share:.0%} of the draws "
                        f"and not in {wanted:.0%}, its softmax. Draw; do not take the largest")


def judge_head(m: Any) -> None:
    """Oracle: model/lecture1/attention.py's Head."""
    x, mine, own = normal(2, 6, 8), m.Head(8, 4), attention.Head(8, 4)
    _same_weights("Head(n_embd=8, size=4)", mine, own)
    mistakes = _attention_mistakes(own.query(x), own.key(x), own.value(x), 8)
    same("Head(8, 4)(x)", mine(x), own(x, CAUSAL), "BTC", mistakes,
         partial(causal, "Head(8, 4)(x)", mine, x))


def judge_heads(m: Any) -> None:
    """Oracle: model/lecture1/attention.py's Heads, which its own test compares to a loop."""
    cfg: Any = SimpleNamespace(n_embd=8, n_head=2)
    x, mine, own = normal(2, 6, 8), m.Heads(8, 2), attention.Heads(cfg)
    _same_weights("Heads(n_embd=8, n_head=2)", mine, own)
    parts = own.c_attn(x).split(8, -1)
    q, k, v = (y.view(2, 6, 2, 4).transpose(1, 2) for y in parts)
    mistakes = {says: y.transpose(1, 2).reshape(2, 6, 8)
                for says, y in _attention_mistakes(q, k, v, 8).items()}
    mistakes["(B, n_head, T, size) is reshaped to (B, T, C) as it is, so that positions and heads "
             "mix; transpose(1, 2) first"] = (_weights(q @ k.mT / 2) @ v).reshape(2, 6, 8)
    q, k, v = (y.reshape(2, 2, 6, 4) for y in parts)
    mistakes["view(B, n_head, T, size) mixes positions and heads; view(B, T, n_head, size), then "
             "transpose(1, 2)"] = (_weights(q @ k.mT / 2) @ v).transpose(1, 2).reshape(2, 6, 8)
    same("Heads(8, 2)(x)", mine(x), own(x, CAUSAL), "BTC", mistakes,
         partial(causal, "Heads(8, 2)(x)", mine, x))


def judge_addition(m: Any) -> None:
    """Oracle: data/arithmetic.py."""
    cfg = TaskConfig(digits=3, reverse=True)
    problems = [arithmetic.pose("addition", cfg, a, b, "+")
                for a, b in ((12, 345), (999, 1), (0, 0))]
    for p in problems:
        found, wanted = m.addition_line(p.a, p.b, 3), p.prompt + p.answer
        why = {p.prompt + p.answer[::-1]: ": the answer must be written backwards",
               f"{p.a}+{p.b}={p.answer}": ": the operands need leading zeros"}.get(found, "")
        if found != wanted:
            raise Wrong(f"addition_line({p.a}, {p.b}, 3) is {found!r}; it must be {wanted!r}{why}")
    ids = torch.tensor([["0123456789+=".index(c) for c in p.prompt + p.answer] for p in problems])
    idx, targets = values("masked_targets", m.masked_targets(ids.clone(), 11), 2)
    first = len(problems[0].prompt) - 1  # the equals sign, whose target is the answer's first digit

    def masked(first: int, source: Tensor = ids[:, 1:], value: int = -1) -> Tensor:
        return torch.cat([torch.full_like(source[:, :first], value), source[:, first:]], 1)

    same("idx", idx, ids[:, :-1], "BT")
    same("targets", targets, masked(first), "BT", {
        "nothing is masked; the question's targets must be -1": masked(0),
        "they are idx itself; the target of a position is the token after it":
            masked(first, ids[:, :-1]),
        "the answer's first digit is masked; the equals sign predicts it": masked(first + 1),
        "the equals sign is not masked; it is no part of the answer": masked(first - 1),
        "masked targets must be -1, not 0": masked(first, value=0)})


def _same_weights(what: str, mine: nn.Module, own: nn.Module) -> None:
    """Gives both modules the same random weights. Raises Wrong if ``mine`` has other parameters."""
    found, wanted = ({name: tuple(p.shape) for name, p in module.named_parameters()}
                     for module in (mine, own))
    if found != wanted:
        raise Wrong(f"{what} has the parameters {found or 'none'}; they must be {wanted}")
    for i, (name, p) in enumerate(own.named_parameters()):
        p.data = mine.get_parameter(name).data = normal(*p.shape, seed=i) / 3


def _weights(scores: Tensor, dim: int = -1) -> Tensor:
    return scores.masked_fill(~CAUSAL, float("-inf")).softmax(dim)


def _attention_mistakes(q: Tensor, k: Tensor, v: Tensor, n_embd: int) -> dict[str, Tensor]:
    """What typical wrong heads return, given q, k, v (.., T, D)."""
    raw, D = q @ k.mT, q.size(-1)
    scores, future = raw / D**0.5, ~CAUSAL
    return {
        "it attends to the future: the scores are not masked": scores.softmax(-1) @ v,
        "the weights are masked with 0 after the softmax, so they do not sum to 1; mask the scores "
        "with -inf before it": scores.softmax(-1).masked_fill(future, 0) @ v,
        f"the scores are not scaled: divide by sqrt(size) = {D**0.5:g}": _weights(raw) @ v,
        f"the scores are divided by sqrt(n_embd); use the head's size: sqrt({D})":
            _weights(raw / n_embd**0.5) @ v,
        "the softmax is over the wrong axis: queries (dim -2), not keys (dim -1)":
            _weights(scores, -2) @ v,
        "queries and keys are swapped: score[t, s] is q[t] . k[s]": _weights(scores.mT) @ v}
