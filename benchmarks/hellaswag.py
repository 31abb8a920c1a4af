"""Speed of scoring HellaSwag at 124M: prefix trees against one example at a time.

    python benchmarks/hellaswag.py [--examples 100] [--model DIR] [--device cuda] [--no-loop]
        [--bfloat16-only] [--json FILE]

The loop is build-nanogpt's: the four rows of an example as one batch, logits of all positions,
cross-entropy, summed over the ending. Times are CPU seconds, which a busy machine affects less, and
wall-clock seconds on a GPU. Without --model the weights are random, which does not affect the time.
``--examples 0`` scores all 10,042; reading and encoding them is timed separately. bfloat16 is left
out on processors that only emulate it; ``--bfloat16-only`` measures nothing else.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "src")]

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.contenders import GPT2_124M
from benchmarks.machine import heading, write
from reprogpt.data.hellaswag_file import fetch_hellaswag
from reprogpt.evaluation.hellaswag import Prompt, Question, read_questions, score_prompts
from reprogpt.formats.huggingface import load_model
from reprogpt.model.gpt import GPT
from reprogpt.model.registry import build_model
from reprogpt.runtime.device import computes_bfloat16, pick_device
from reprogpt.runtime.distributed import Process
from reprogpt.tokens.tokenizers import gpt2_tokenizer


@torch.no_grad()
def one_at_a_time(model: GPT, prompts: Sequence[Prompt], device: torch.device) -> np.ndarray:
    """Summed nll of each ending by build-nanogpt's loop, (prompts, 4)."""
    sums = []
    for prompt in prompts:
        rows = [prompt.context + ending for ending in prompt.endings]
        width = max(map(len, rows))
        tokens = torch.zeros(4, width, dtype=torch.int64)
        mask = torch.zeros(4, width)
        for i, row in enumerate(rows):
            tokens[i, :len(row)] = torch.tensor(row)
            mask[i, len(prompt.context):len(row)] = 1
        tokens, mask = tokens.to(device), mask.to(device)
        logits = F.linear(model(tokens), model.head_weight)[..., :model.vocab_size]
        shifted = logits[:, :-1].contiguous().flatten(0, 1)
        losses = F.cross_entropy(shifted, tokens[:, 1:].flatten(), reduction="none")
        sums.append((losses.view(4, -1) * mask[:, 1:]).sum(1))
    return torch.stack(sums).cpu().double().numpy()


def timed(work: Callable[[], np.ndarray], now: Callable[[], float]) -> tuple[np.ndarray, float]:
    """The result of ``work``, and the seconds of the faster of two runs."""
    seconds = []
    for _ in range(2):
        start = now()
        result = work()
        seconds.append(now() - start)
    return result, min(seconds)


def predictions(sums: np.ndarray, prompts: Sequence[Prompt]) -> np.ndarray:
    """Predicted endings by acc and by acc_norm, (2, prompts)."""
    return np.stack([sums.argmin(1), (sums / [p.lengths for p in prompts]).argmin(1)])


def measure(model: GPT, questions: Sequence[Question], device: torch.device, loop: bool,
            bfloat16_only: bool = False) -> list[dict[str, Any]]:
    """Prints and returns a row for each prompt and scorer; the first scorer is the baseline."""
    process = Process(0, 1, device)
    now = time.perf_counter if device.type == "cuda" else time.process_time
    scorers: dict[str, Callable[[Sequence[Prompt]], np.ndarray]] = {}
    if loop:
        scorers["one at a time, float32"] = lambda prompts: one_at_a_time(model, prompts, device)
    scorers["tree, float32"] = lambda prompts: score_prompts(model, prompts, process)
    if computes_bfloat16(device):
        low = build_model(model.cfg, model.vocab_size)
        low.load_state_dict(model.state_dict())
        low = low.bfloat16().to(device).eval()
        scorers["tree, bfloat16"] = lambda prompts: score_prompts(low, prompts, process)
    if bfloat16_only:
        scorers = {name: scorer for name, scorer in scorers.items() if "bfloat16" in name}
        if not scorers:
            print("left out: this device only emulates bfloat16")
    print(f"{'prompt':8} {'scorer':22} {'seconds':>8} {'examples / s':>13} {'ratio':>6}  "
          "predictions changed (acc, acc_norm)")
    found: list[dict[str, Any]] = []
    for name in ("plain", "lm_eval"):
        prompts = [getattr(q, name) for q in questions]
        base, expected = 0.0, None
        for label, scorer in scorers.items():
            sums, seconds = timed(lambda: scorer(prompts), now)  # noqa: B023
            chosen = predictions(sums, prompts)
            if expected is None:
                base, expected = seconds, chosen
            acc, acc_norm = (chosen != expected).sum(1)
            found.append({"prompt": name, "scorer": label, "examples": len(prompts),
                          "seconds": seconds, "ratio": base / seconds,
                          "acc_changed": int(acc), "acc_norm_changed": int(acc_norm)})
            print(f"{name:8} {label:22} {seconds:8.2f} {len(prompts) / seconds:13.2f} "
                  f"{base / seconds:6.2f}  {acc}, {acc_norm} of {len(prompts)}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-loop", action="store_true", help="without the loop, which is slow")
    parser.add_argument("--bfloat16-only", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    data = Path("data/hellaswag")
    if not (data / "hellaswag_val.jsonl").exists():
        fetch_hellaswag(data)
    if options.model:
        model, _ = load_model(options.model)
    else:
        model = build_model(GPT2_124M, 50257).eval()
        model.init_weights(torch.Generator().manual_seed(0))
    print(heading(device))
    start = time.perf_counter()
    questions = read_questions(data / "hellaswag_val.jsonl", gpt2_tokenizer(),
                               options.examples or None)
    print(f"{len(questions)} questions read and encoded in {time.perf_counter() - start:.1f} s")
    rows = measure(model.to(device), questions, device, not options.no_loop, options.bfloat16_only)
    write(options.json, rows, device)


if __name__ == "__main__":
    main()
