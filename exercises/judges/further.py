"""Judges of exercises 12 and 14 to 16."""

from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from exercises.judges.compare import Wrong, normal, same, values


def judge_sampling(m: Any) -> None:
    """Oracle: transformers' logits warpers."""
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits, no_ids = normal(3, 9) * 2, torch.empty(0, dtype=torch.int64)
    ranked = logits.sort(descending=True)
    rank = ranked.indices.argsort(-1)  # 0 for the most probable token
    for f, name, value in ((m.top_k, "k", 1), (m.top_k, "k", 3), (m.top_k, "k", 9),
                           (m.top_p, "p", 0.1), (m.top_p, "p", 0.8), (m.top_p, "p", 0.99)):
        warper = TopKLogitsWarper(value) if name == "k" else TopPLogitsWarper(value)
        wanted: Tensor = warper(no_ids, logits)
        n = wanted.isfinite().sum(-1, keepdim=True)
        last = "the k-th largest" if name == "k" else "the token that reaches p"
        same(f"{f.__name__}(logits, {name}={value})", f(logits.clone(), value), wanted, "BV", {
            "the removed logits are 0, which is a probability too; they must be -inf":
                wanted.masked_fill(rank >= n, 0.0),
            "they come back sorted; each token must stay at its own place":
                ranked.values.masked_fill(torch.arange(9) >= n, -inf),
            f"one too many is kept; {last} is the last": logits.masked_fill(rank > n, -inf),
            f"one too few is kept; {last} stays": logits.masked_fill(rank >= n - 1, -inf)})


def judge_adamw(m: Any) -> None:
    """Oracle: torch.optim.AdamW, over three steps."""
    lr, b1, b2, eps, decay = 0.1, 0.9, 0.95, 1e-3, 0.2
    parameter = torch.nn.Parameter(normal(3, 4))
    optimizer = torch.optim.AdamW([parameter], lr, (b1, b2), eps, decay)
    now: tuple[Any, ...] = (parameter.detach().clone(), torch.zeros(3, 4), torch.zeros(3, 4))
    for step in (1, 2, 3):
        grad = parameter.grad = normal(3, 4, seed=step)
        optimizer.step()
        p, first, second = now
        given = (t.clone() for t in (p, grad, first, second))  # which may be changed in place
        now = values("adamw_step", m.adamw_step(*given, step, lr, b1, b2, eps, decay), 3)

        def variant(shrink: Tensor, l2: float = 0.0, c1: float = 1 - b1**step,
                    c2: float = 1 - b2**step, within: float = 0.0, p: Tensor = p,
                    first: Tensor = first, second: Tensor = second, g: Tensor = grad) -> Tensor:
            g = g + l2 * p
            first, second = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * g * g
            scale = (second / c2 + within).sqrt() + (0 if within else eps)
            return p - shrink - lr * first / c1 / scale

        same(f"p after step {step}", now[0], parameter, mistakes={
            "the decay is added to the gradient (Adam with L2); AdamW takes it off the parameter":
                variant(0 * p, l2=decay),
            "the decay is not multiplied by lr": variant(decay * p),
            "the moments are not corrected for their start at 0: divide by 1 - beta^step":
                variant(lr * decay * p, c1=1, c2=1),
            "eps is inside the square root; add it after": variant(lr * decay * p, within=eps)})
        for name, t, key in (("m", now[1], "exp_avg"), ("v", now[2], "exp_avg_sq")):
            same(f"{name} after step {step}", t, optimizer.state[parameter][key])


def judge_bpe(m: Any) -> None:
    """Oracles: tiktoken's encoder, and its educational trainer."""
    import tiktoken
    from tiktoken._educational import bpe_train

    for ids, pair, wanted in (([1, 2, 3, 1, 2], (1, 2), [9, 3, 9]), ([1, 1, 1], (1, 1), [9, 1]),
                              ([2, 1], (1, 2), [2, 1]), ([], (1, 2), [])):
        if (found := m.merge(list(ids), pair, 9)) != wanted:
            raise Wrong(f"merge({ids}, {pair}, 9) is {found}; it must be {wanted}")
    text, whole = "she sells sea shells by the sea shore; the shells are sea shells", r"(?s).+"
    ranks = bpe_train(text, 256 + 20, whole, visualise=None)
    spelled = {i: token for token, i in ranks.items()}
    merges = m.train(text.encode(), 20)
    if not isinstance(merges, dict) or list(merges.values()) != list(range(256, 276)):
        raise Wrong(f"train(text, n=20) must return a dict, pair -> 256, 257, .. 275; it returns "
                    f"{merges!r:.80}")
    own = {i: bytes([i]) for i in range(256)}
    for (a, b), new in merges.items():
        own[new] = own[a] + own[b]
        if own[new] != spelled[new]:
            raise Wrong(f"train: merge {new} makes {own[new]!r}; it must make {spelled[new]!r}: "
                        "the most frequent pair after the merges before (of several, the first)")
    encoding = tiktoken.Encoding("own", pat_str=whole, mergeable_ranks=ranks, special_tokens={})
    for sample in (text, "shells", "the shore sells", "xyz", "é"):
        wanted, found = encoding.encode_ordinary(sample), m.encode(sample.encode(), dict(merges))
        if found != wanted:
            parts = [[spelled.get(i, b"?") for i in ids] for ids in (found or [], wanted)]
            raise Wrong(f"encode({sample!r}) is {parts[0]}; it must be {parts[1]}: the pair that "
                        "was learned first is merged first, as often as any is left")


def judge_kv_cache(m: Any) -> None:
    """Oracle: torch's attention over all positions at once; they come in parts of 3, 1 and 2."""
    q, k, v = (normal(2, 2, 6, 4, seed=i) for i in range(3))
    attention = F.scaled_dot_product_attention
    whole, past = attention(q, k, v, is_causal=True), None
    for start, end in ((0, 3), (3, 4), (4, 6)):
        new = [t[:, :, start:end] for t in (q, k, v)]
        seen = k[:, :, :end], v[:, :, :end]
        what = f"{end - start} new positions after {start}: the"
        y, past = values("attend", m.attend(*new, past), 2)
        for name, found, wanted in zip("kv", values("past", past, 2), seen, strict=True):
            same(f"{what} past's {name}", found, wanted, "BHSD", {
                "new and past are in the wrong order": wanted.roll(end - start, 2)})
        mask = torch.ones(end - start, end, dtype=torch.bool).tril(start)
        same(f"{what} attention", y, whole[:, :, start:end], "BHTD", {
            "new positions attend to the future: to later new positions": attention(new[0], *seen),
            "the mask does not know of the past: new position t sees S + t + 1 positions (torch's "
            "is_causal counts from 0; tril has a `diagonal`)":
                attention(new[0], *seen, attn_mask=mask.tril()),
            "the past is not attended to": attention(new[0], new[1], new[2], is_causal=True),
            "the scores are not scaled: divide by sqrt(D)":
                attention(new[0], *seen, attn_mask=mask, scale=1.0)})
