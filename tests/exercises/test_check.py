"""The exercises' judges: right solutions pass, typical wrong ones fail with the right message."""

import inspect
import re
import types
from pathlib import Path

import pytest

from exercises.check import JUDGES, verdict
from tests.conftest import ROOT, run

SOLUTIONS = Path(__file__).parent / "solutions"
NAMES = list(JUDGES)
# (exercise, what stands in the solution, what stands there instead, what the judge must say)
WRONG = [
    ("averaging", "x[b, :t + 1].mean(0)", "x[b].mean(0)", "average_loop.*attends to the future"),
    ("averaging", "x[b, :t + 1].mean(0)", "x[b, :t].mean(0)", "t leaves itself out"),
    ("averaging", "x[b, :t + 1].mean(0)", "x[:, t].mean(0)", "wrong axis: the batch"),
    ("averaging", "x[b, :t + 1].mean(0)", "x[b, :t + 1].mean()",
     r"average_loop\(x\) is \S+ at \[b=0, t=0, c=0\]; it must be"),
    ("averaging", "weights.sum(1, keepdim=True)", "x.size(1)", "average_product.*divided by T"),
    ("averaging", "    return weights @ x", "    weights @ x", "None; is a `return` missing"),
    ("averaging", "scores.softmax(1)", "scores.softmax(0)", "average_softmax.*wrong axis.*row"),
    ("bigram", ").mean()", ").sum()", "the sum over all positions"),
    ("bigram", ").mean()", ").mean(0)", r"has shape \(4, 1\); it must be \(\)"),
    ("bigram", "-log_p", "log_p", "the sign is wrong"),
    ("bigram", "table[idx].log", "table.T[idx].log", "reads the table's columns"),
    ("bigram", ".log_softmax(-1)", "", "log_softmax over the last axis is missing"),
    ("bigram", "table[out[-1]]", "table[start]", "the row of the token before it, not of start"),
    ("bigram", "torch.multinomial(p, 1, generator=generator)", "p.argmax()",
     "in 100% of the draws.*do not take the largest"),
    ("bigram", "1, generator=generator", "1", "draw from `generator`"),
    ("bigram", "range(n)", "range(n - 1)", r"shape \(4,\); it must be \(5,\)"),
    ("head", "scores.masked_fill(future, float(\"-inf\"))", "scores", "attends to the future"),
    ("head", "scores.masked_fill(future, float(\"-inf\")).softmax(-1)",
     "scores.softmax(-1).masked_fill(future, 0)", "masked with 0 after the softmax"),
    ("head", " / q.size(-1) ** 0.5", "", "not scaled"),
    ("head", "q.size(-1) ** 0.5", "x.size(-1) ** 0.5", "divided by sqrt.n_embd"),
    ("head", ".softmax(-1)", ".softmax(-2)", "softmax is over the wrong axis"),
    ("head", "tril() == 0", "tril(1) == 0", "future: position 0 changes with position 1"),
    ("head", "tril() == 0", "tril(-1) == 0", "position 0 does not see position 0"),
    ("head", "self.key = nn.Linear(n_embd, size, bias=False)",
     "self.key = nn.Linear(n_embd, size)", r"has the parameters .*key.bias"),
    ("head", "self.key(x), self.value(x)", "self.key(x), self.values(x)",
     r"AttributeError: 'Head' object has no attribute 'values' \(line 13 of exercises/head.py\)"),
    ("heads", ".transpose(1, 2).reshape(B, T, C)", ".reshape(B, T, C)", "positions and heads mix"),
    ("heads", "view(B, T, self.n_head, -1).transpose(1, 2)", "reshape(B, self.n_head, T, -1)",
     "mixes positions and heads"),
    ("heads", "q.size(-1) ** 0.5", "C ** 0.5", "divided by sqrt.n_embd"),
    ("heads", "scores.masked_fill(future, float(\"-inf\"))", "scores", "attends to the future"),
    ("addition", "answer[::-1]", "answer", "written backwards"),
    ("addition", "{a:0{digits}d}+{b:0{digits}d}", "{a}+{b}", "leading zeros"),
    ("addition", "(idx == equals)", "(targets == equals)", "equals sign is not"),
    ("addition", "ids[:, 1:]", "ids[:, :-1]", "targets: they are idx itself"),
    ("addition", "~is_answer, -1", "~is_answer, 0", "must be -1, not 0"),
    ("addition", ".masked_fill(~is_answer, -1)", "", "nothing is masked"),
    ("addition", "return idx, targets", "return targets", "it must return 2 values"),
    ("load_gpt2", ".removeprefix(\"transformer.\")", "", "h.0.attn.c_attn.bias is missing"),
    ("load_gpt2", "\"lm_head.weight\", ", "", "lm_head.weight is too much"),
    ("load_gpt2", "\"attn.c_proj.weight\", ", "", "attn.c_proj.weight .*square, so"),
    ("load_gpt2", "\"mlp.c_fc.weight\", ", "", r"h.0.mlp.c_fc.weight \(16, 64\) is not transposed"),
    ("init", "(2 * model.cfg.n_layer)", "model.cfg.n_layer", "c_proj.weight has.*residual stream"),
    ("init", "    std /= ", "    std = std or ", "deviation 0.02; they must be 0 and 0.007;"),
    ("init", "p.fill_(1.0)", "pass", "ln_1.weight is not set"),
    ("init", "std = 0.02", "std = 0.2", "wte.weight has mean .* deviation 0.2;"),
    ("schedule", "(step + 1)", "step", "warm-up starts at 0"),
    ("schedule", "(step - warmup_steps) / (max_steps - warmup_steps)", "step / max_steps",
     "cosine starts at step 0"),
    ("schedule", "return min_lr + 0.5", "return 0.5", "is 0.00054; it must be 0.0006"),
    ("schedule", "    if step >= max_steps:\n        return min_lr\n", "", "rises again after"),
    ("schedule", "0.5 * (1 + math.cos(math.pi * done))", "(1 - done)", "falls linearly"),
    ("decay_groups", "\"weight_decay\": 0.0", "\"weight_decay\": weight_decay",
     r"is a vector and must be in one, with 0.0"),
    ("decay_groups", "if p.dim() >= 2]", "if p.dim() > 2]", r"wte.weight \(64, 16\) is in 0"),
    ("decay_groups", "if p.dim() < 2]", "if p.dim() <= 2]", "in 2 groups"),
    ("accumulation", "reduction=\"sum\") / valid", "reduction=\"mean\") / 3", "means are averaged"),
    ("accumulation", "reduction=\"sum\") / valid", "reduction=\"mean\")", "means are added"),
    ("accumulation", " / valid", "", "not divided by the number of targets"),
    ("accumulation", "(targets != -1).sum()", "targets.numel()", "masked targets are counted"),
    ("accumulation", "loss.backward()", "model.zero_grad(), loss.backward()",
     "gradient: only the last micro-batch"),
    ("accumulation", "range(0, len(idx), micro_batch)", "range(0, len(idx) - 2, micro_batch)",
     "last micro-batch, of one row"),
    ("accumulation", "        loss.backward()\n", "", "no gradient; call backward"),
    ("accumulation", "range(0, len(idx), micro_batch)", "[0]", r"is .*; it must be"),
    ("ddp", "(step * world_size + rank)", "(step + rank)", "a step moves on by B rows"),
    ("ddp", " + rank)", ")", "every rank gets the same rows"),
    ("ddp", "part[1:]", "part[:-1]", "targets: they are idx itself"),
    ("sampling", "torch.full_like(logits, float(\"-inf\"))", "torch.zeros_like(logits)",
     "must be -inf"),
    ("sampling", "logits.topk(k)", "logits.topk(min(k + 1, 9))", "one too many"),
    ("sampling", "before >= p", "before + probability > p",
     "one too few is kept; the token that reaches p"),
    ("sampling", "torch.empty_like(logits).scatter(1, places, kept)", "kept", "come back sorted"),
    ("hellaswag", "* mask[:, 1:]", "* mask[:, :-1]", "the mask is not shifted"),
    ("hellaswag", "* mask[:, 1:]", "", "context and the padding are counted"),
    ("hellaswag", "/ mask.sum(1)", "/ mask[:, 1:].size(1)", "divided by all T - 1"),
    ("hellaswag", "sums.argmin().item(), means.argmin()", "sums.argmax().item(), means.argmax()",
     "the largest loss is chosen"),
    ("adamw", "p = p - lr * weight_decay * p", "grad = grad + weight_decay * p", "Adam with L2"),
    ("adamw", "m / (1 - beta1**step), v / (1 - beta2**step)", "m, v", "not corrected"),
    ("adamw", "(v_hat.sqrt() + eps)", "(v_hat + eps).sqrt()", "inside the square root"),
    ("adamw", "p = p - lr * weight_decay * p", "p = p - weight_decay * p", "not multiplied by lr"),
    ("adamw", "(1 - beta2) * grad**2", "(1 - beta2) * grad", "v after step 1 is|p after step 1 is"),
    ("bpe", "i += 2 if found else 1", "i += 1", r"merge\(\[1, 2, 3, 1, 2\]"),
    ("bpe", "        ids = merge(ids, pair, new)\n    return merges", "    return merges",
     "must return a dict"),
    ("bpe", "max(counts, key=counts.get)", "max(counts, key=lambda p: (counts[p], p))",
     "of several, the first"),
    ("bpe", "pair = min(known, key=merges.get)", "pair = known[0]", "learned first"),
    ("kv_cache", "if past is not None:", "if False:", "the past's k has shape"),
    ("kv_cache", "tril(S - T)", "tril()", "the mask does not know of the past"),
    ("kv_cache", "scores.masked_fill(~allowed, float(\"-inf\"))", "scores", "attend to the future"),
    ("kv_cache", "[past[0], k]", "[k, past[0]]", "wrong order"),
]


def module(name: str, text: str) -> types.ModuleType:
    """A learner's module with this text."""
    made = types.ModuleType(name)
    made.__file__ = f"exercises/{name}.py"
    exec(compile(text, made.__file__, "exec"), made.__dict__)
    return made


def solution(name: str) -> str:
    return (SOLUTIONS / f"{name}.py").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_is_right(name: str) -> None:
    assert verdict(name, module(name, solution(name))) is None


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG,
                         ids=[f"{i}-{wrong[0]}" for i, wrong in enumerate(WRONG)])
def test_a_wrong_solution_is_told_why(name: str, old: str, new: str, message: str) -> None:
    text = solution(name)
    assert old in text
    found = verdict(name, module(name, text.replace(old, new, 1)))
    assert found is not None
    assert re.search(message, found), found


def test_every_exercise_has_wrong_solutions() -> None:
    for name in NAMES:
        assert sum(wrong[0] == name for wrong in WRONG) >= 2, name


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_has_the_solutions_signature_and_a_task(name: str) -> None:
    """Holds also once a learner has filled it."""
    stub = module(name, (ROOT / f"exercises/{name}.py").read_text())
    solved = module(name, solution(name))
    assert re.search(r"Exercise \d+: .*\n\n.*Lecture [12]|lecture [12]", str(stub.__doc__), re.S)
    for key, value in vars(solved).items():
        if not callable(value) or getattr(value, "__module__", "") != name:
            continue
        assert getattr(stub, key).__doc__
        assert list(inspect.signature(getattr(stub, key)).parameters) == list(
            inspect.signature(value).parameters)


def test_the_page_lists_every_exercise_in_its_order() -> None:
    page = (ROOT / "exercises/README.md").read_text()
    rows = re.findall(r"(?m)^\| (\d+) \|.*?\[(\w+)\.py\]\(\2\.py\).*`make exercise N=(\d+)`", page)
    assert rows == [(str(n), name, str(n)) for n, name in enumerate(NAMES, 1)]
    example = re.search(r"(?m)^     3 head: (.*)$", page)
    unmasked = solution("head").replace('scores.masked_fill(future, float("-inf"))', "scores")
    assert example and verdict("head", module("head", unmasked)) == example[1]


@pytest.mark.slow
def test_the_exit_code_is_0_only_if_all_are_right(checkout: Path) -> None:
    def check(n: str) -> tuple[int, str]:
        done = run("python", "-m", "exercises.check", n, cwd=checkout)
        return done.returncode, done.stdout + done.stderr

    folder = checkout / "exercises"
    for name in NAMES:
        (folder / f"{name}.py").write_text(solution(name))
    code, said = check("all")
    assert (code, said.splitlines()[-1]) == (0, "16 of 16 are right"), said
    (folder / "heads.py").write_text("def f() -> None:\n    return )\n")
    (folder / "bigram.py").write_text("def bigram_loss(table, idx, targets):\n"
                                      "    raise NotImplementedError\n")
    code, said = check("all")
    assert (code, said.splitlines()[-1]) == (1, "14 of 16 are right")
    assert " 2 bigram: bigram_loss is not written yet; its docstring in exercises/b" in said
    assert re.search(r"(?m)^ 4 heads: SyntaxError: unmatched .*\(heads.py, line 2\)$", said)
    assert check("3") == (0, " 3 head: right\n")
    assert check("head") == (0, " 3 head: right\n")
    code, said = check("17")
    assert code == 2
    assert "N=17 must be a number from 1 to 16" in said
