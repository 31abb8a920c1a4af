"""Judges of exercises 6 to 11 and 13."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from exercises.judges.compare import Wrong, normal, same, tokens, values
from reprogpt.config import ModelConfig
from reprogpt.formats.gpt2_names import from_gpt2
from reprogpt.model.gpt import GPT
from reprogpt.training.optimizer import lr_at


def small_gpt(n_embd: int = 16, n_layer: int = 2) -> GPT:
    """A GPT-2 of 64 tokens, its weights as torch makes them."""
    return GPT(ModelConfig(architecture="gpt", n_layer=n_layer, n_head=2, n_embd=n_embd,
                           block_size=12, dropout=0.0, bias=True, init_from=None), 64)


def judge_load_gpt2(m: Any) -> None:
    """Oracles: formats/gpt2_names.py for the tensors, transformers for the logits."""
    from transformers import GPT2Config, GPT2LMHeadModel

    theirs = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=12, n_inner=64,
                                        vocab_size=64, bos_token_id=None, eos_token_id=None)).eval()
    for i, p in enumerate(theirs.parameters()):
        p.data = normal(*p.shape, seed=i) / 4
    state = {**theirs.state_dict(), "transformer.h.0.attn.bias": torch.ones(1, 1, 12, 12).tril(),
             "transformer.h.1.attn.masked_bias": torch.tensor(-1e4)}
    wanted, found = from_gpt2(state, True, Path()), m.load_gpt2(dict(state))
    if not isinstance(found, dict):
        raise Wrong(f"load_gpt2(state) returns a {type(found).__name__}; it must return a dict")
    for name in sorted(wanted.keys() ^ found.keys()):
        raise Wrong(f"{name} is missing" if name in wanted else
                    f"{name} is too much: this library's GPT has no such parameter")
    for name, right in wanted.items():
        if right.dim() == 2 and torch.equal(found[name], right.t()):
            square = "; it is square, so its shape does not tell" if "attn.c_proj" in name else ""
            raise Wrong(f"{name} {tuple(found[name].shape)} is not transposed: Conv1D stores "
                        f"(in, out), nn.Linear (out, in){square}")
        same(name, found[name], right)
    ours, idx = small_gpt(), tokens(64, 2, 12)
    ours.load_state_dict(found)
    same("the logits", ours.logits(ours(idx)), theirs(idx).logits, "BTV")


def judge_init(m: Any) -> None:
    """Oracle: GPT.init_weights, by each tensor's standard deviation."""
    model, own = small_gpt(128, 4), small_gpt(128, 4)
    own.init_weights(torch.Generator().manual_seed(1))
    for p in model.parameters():
        p.data.fill_(7.0)
    m.init_weights(model, torch.Generator().manual_seed(2))
    for (name, p), right in zip(model.named_parameters(), own.parameters(), strict=True):
        if (p == 7).all():
            raise Wrong(f"{name} is not set")
        if p.dim() < 2:
            same(name, p, right)
        elif abs(p.square().mean().sqrt() / right.std() - 1) > 0.1:
            why = "; it adds to the residual stream: 0.02 / sqrt(2 * 4 layers)"
            raise Wrong(f"{name} has mean {p.mean():.2g} and standard deviation {p.std():.2g}; "
                        f"they must be 0 and {right.std():.2g}{why if 'c_proj' in name else ''}")


def judge_schedule(m: Any) -> None:
    """Oracle: training/optimizer.py."""
    cfg: Any = SimpleNamespace(lr=6e-4, min_lr=6e-5, warmup_steps=10, max_steps=110,
                               schedule="cosine", decay_fraction=None)

    def cosine(done: float, low: float = 6e-5) -> float:
        return low + 0.5 * (1 + math.cos(math.pi * done)) * (6e-4 - low)

    for step in (0, 5, 9, 10, 35, 60, 109, 110, 500):
        done = min(1.0, (step - 10) / 100)
        same(f"lr_at(step={step}, max_lr=6e-4, min_lr=6e-5, warmup_steps=10, max_steps=110)",
             m.lr_at(step, 6e-4, 6e-5, 10, 110), lr_at(step, cfg), mistakes={
                 "warm-up starts at 0, so the first step does nothing; use step + 1": 6e-5 * step,
                 "the cosine starts at step 0; it must start where the warm-up ends":
                     cosine(min(1.0, step / 110)),
                 "the rate falls to 0; it must fall to min_lr": cosine(done, 0.0),
                 "the rate falls linearly; it must follow a cosine": 6e-5 + (1 - done) * 5.4e-4,
                 "the rate rises again after max_steps; it must stay at min_lr":
                     cosine((step - 10) / 100)})


def judge_decay_groups(m: Any) -> None:
    """Oracle: the number of dimensions, of every parameter of a GPT."""
    model = small_gpt()
    groups = m.decay_groups(model, 0.1)
    for name, p in model.named_parameters():
        found = [g["weight_decay"] for g in groups for other in g["params"] if other is p]
        wanted, kind = (0.1, "a matrix") if p.dim() >= 2 else (0.0, "a vector")
        if found != [wanted]:
            raise Wrong(f"{name} {tuple(p.shape)} is in {len(found)} groups, with weight_decay "
                        f"{found}; it is {kind} and must be in one, with {wanted}")


def judge_accumulation(m: Any) -> None:
    """Oracle: torch, on the whole batch at once."""
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11))
    for i, p in enumerate(model.parameters()):
        p.data = normal(*p.shape, seed=i)
    idx, targets = tokens(11, 7, 4), tokens(11, 7, 4, seed=1)
    targets[0, :3] = targets[4:6] = targets[6, 1:] = -1
    nll = F.cross_entropy(model(idx).mT, targets, ignore_index=-1, reduction="none")
    sums = torch.stack([part.sum() for part in nll.split(3)])
    valid = torch.stack([(part != -1).sum() for part in targets.split(3)])
    losses = {
        "the micro-batches' means are averaged; they have unequally many targets, so add sums and "
        "divide by the whole batch's number": (sums / valid).mean(),
        "the micro-batches' means are added; nothing divides by how many there are":
            (sums / valid).sum(),
        "the sum is not divided by the number of targets": sums.sum(),
        "masked targets are counted in the divisor": sums.sum() / 28,
        "the last micro-batch, of one row, is left out": sums[:-1].sum() / valid.sum(),
        "only the last micro-batch is there": sums[-1] / valid.sum(),
        "": sums.sum() / valid.sum()}
    gradients = {says: torch.cat([g.flatten() for g in torch.autograd.grad(
        loss, list(model.parameters()), retain_graph=True)]) for says, loss in losses.items()}
    rows: list[int] = []
    with model.register_forward_pre_hook(lambda _, args: rows.append(len(args[0]))):
        loss = m.accumulate(model, idx, targets, 3)
    if max(rows, default=0) > 3:
        raise Wrong(f"the model sees {max(rows)} rows at once; micro_batch=3 allows 3")
    same("the loss", loss, losses.pop(""), mistakes=losses)
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    if not found:
        raise Wrong("the parameters have no gradient; call backward() for each micro-batch")
    same("the gradient", torch.cat(found), gradients.pop(""), mistakes=gradients)


def judge_ddp(m: Any) -> None:
    """Oracle: torch's unfold, of which a step takes world_size * B rows."""
    text, B, T, world = torch.arange(1, 200), 2, 5, 3
    rows = text.unfold(0, T + 1, T)
    for step, rank in ((s, r) for s in range(3) for r in range(world)):
        call = f"ddp_batch(tokens, step={step}, B=2, T=5, rank={rank}, world_size=3)"
        idx, targets = values(call, m.ddp_batch(text, step, B, T, rank, world), 2)
        first = (step * world + rank) * B
        wanted = rows[first:first + B]
        same(f"{call}: idx", idx, wanted[:, :-1], "BT", {says: wrong[:B, :-1] for says, wrong in {
            "every rank gets the same rows; rank r starts r * B rows later":
                rows[step * world * B:],
            "a step moves on by B rows; world_size ranks together take world_size * B":
                rows[(step + rank) * B:]}.items()})
        same(f"{call}: targets", targets, wanted[:, 1:], "BT", {
            "they are idx itself; the target of a position is the token after it": wanted[:, :-1]})


def judge_hellaswag(m: Any) -> None:
    """Oracle: torch's cross_entropy, ending by ending."""
    logits, ids, ends = normal(4, 9, 7), tokens(7, 4, 9), (7, 9, 6, 8)  # all begin at 4
    mask = torch.tensor([[int(4 <= t < end) for t in range(9)] for end in ends])
    wanted = torch.stack([F.cross_entropy(logits[i, 3:end - 1], ids[i, 4:end], reduction="sum")
                          for i, end in enumerate(ends)])
    each = F.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none")  # (4, T - 1)
    unshifted = F.cross_entropy(logits.mT, ids, reduction="none") * mask
    sums, means = values("ending_nll", m.ending_nll(logits, ids, mask), 2)
    same("sums", sums, wanted, "4", {
        "nothing is shifted: the logits of position t - 1 predict token t": unshifted.sum(1),
        "the mask is not shifted with the tokens: the ending's first token must count":
            (each * mask[:, :-1]).sum(1),
        "the context and the padding are counted; mask them": each.sum(1)})
    same("means", means, wanted / mask.sum(1), "4", {
        "they are divided by all T - 1 positions; count the ending's tokens": wanted / 8})
    sums, means = torch.tensor([5.0, 3.0, 9.0, 4.0]), torch.tensor([1.0, 2.0, 0.5, 3.0])
    same("answers(sums, means)", m.answers(sums, means), [1, 2], mistakes={
        "the largest loss is chosen; the most likely ending has the smallest": [2, 3]})
