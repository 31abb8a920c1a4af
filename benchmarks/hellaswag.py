"""HellaSwag at 124M on this machine: the tree scorer against one example at a time.

    python benchmarks/hellaswag.py [--examples 100] [--model DIR] [--json FILE]

bfloat16 is left out where the processor only emulates it.

The loop is build-nanogpt's: the four rows of an example as one batch, logits of all positions,
cross-entropy, the ending's share of it. CPU seconds, because they say the same on a busy machine.
Without --model the weights are random: the time is the same, the predictions are noise.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.machine import heading, write
from reprogpt.architectures import build_model
from reprogpt.config import ModelConfig
from reprogpt.corpus.hellaswag_source import fetch_hellaswag
from reprogpt.hellaswag import Prompt, Question, read_questions, score
from reprogpt.hf import load_model
from reprogpt.model import GPT
from reprogpt.runtime import Process, computes_bfloat16
from reprogpt.tokenizers import gpt2_tokenizer

GPT2_124M = ModelConfig(architecture="gpt", n_layer=12, n_head=12, n_embd=768, block_size=1024,
                        dropout=0.0, bias=True, init_from=None)
ALONE = Process(0, 1, torch.device("cpu"))


@torch.no_grad()
def one_at_a_time(model: GPT, prompts: Sequence[Prompt]) -> np.ndarray:
    """(prompts, 4): the sums of nll by the plain loop."""
    sums = []
    for prompt in prompts:
        rows = [prompt.context + ending for ending in prompt.endings]
        width = max(map(len, rows))
        tokens = torch.zeros(4, width, dtype=torch.int64)
        mask = torch.zeros(4, width)
        for i, row in enumerate(rows):
            tokens[i, :len(row)] = torch.tensor(row)
            mask[i, len(prompt.context):len(row)] = 1
        logits = F.linear(model(tokens), model.head_weight)[..., :model.vocab_size]
        shifted = logits[:, :-1].contiguous().flatten(0, 1)
        losses = F.cross_entropy(shifted, tokens[:, 1:].flatten(), reduction="none")
        sums.append((losses.view(4, -1) * mask[:, 1:]).sum(1))
    return torch.stack(sums).double().numpy()


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """The result, and the CPU seconds of the quicker of two goes."""
    seconds = []
    for _ in range(2):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def predictions(sums: np.ndarray, prompts: Sequence[Prompt]) -> np.ndarray:
    """(2, prompts): the endings chosen by acc and by acc_norm."""
    return np.stack([sums.argmin(1), (sums / [p.lengths for p in prompts]).argmin(1)])


def measure(model: GPT, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Prints a row for each prompt and scorer, and returns them."""
    scorers = {"tree, float32": model}
    if computes_bfloat16(ALONE.device):
        low = build_model(model.cfg, model.vocab_size)
        low.load_state_dict(model.state_dict())
        scorers["tree, bfloat16"] = low.bfloat16().eval()
    print(f"{'prompt':8} {'scorer':22} {'examples / CPU s':>17} {'ratio':>6}  "
          "predictions changed (acc, acc_norm)")
    found = []
    for name in ("plain", "lm_eval"):
        prompts = [getattr(q, name) for q in questions]
        reference, base = timed(lambda: one_at_a_time(model, prompts))  # noqa: B023
        rows = [("one at a time, float32", reference, base)]
        for label, scorer in scorers.items():
            rows.append((label, *timed(lambda: score(scorer, prompts, ALONE)[0])))  # noqa: B023
        for label, sums, seconds in rows:
            chosen, expected = (predictions(x, prompts) for x in (sums, reference))
            acc, acc_norm = (chosen != expected).sum(1)
            found.append({"prompt": name, "scorer": label, "examples": len(prompts),
                          "cpu_seconds": seconds, "ratio": base / seconds,
                          "acc_changed": int(acc), "acc_norm_changed": int(acc_norm)})
            print(f"{name:8} {label:22} {len(prompts) / seconds:17.2f} {base / seconds:6.2f}"
                  f"  {acc}, {acc_norm} of {len(prompts)}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = Path("data/hellaswag")
    if not (data / "hellaswag_val.jsonl").exists():
        fetch_hellaswag(data)
    if options.model:
        model, _ = load_model(options.model)
    else:
        model = build_model(GPT2_124M, 50257).eval()
        model.init_weights(torch.Generator().manual_seed(0))
    questions = read_questions(data / "hellaswag_val.jsonl", gpt2_tokenizer(), options.examples)
    print(heading())
    write(options.json, measure(model, questions))


if __name__ == "__main__":
    main()
