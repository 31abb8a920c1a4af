"""Sampling speed at 124M: this project, nanoGPT and transformers.

    python benchmarks/sampling.py [--nanogpt DIR] [--tokens 100] [--sequences 4] [--device cuda]

All generate the same number of tokens from the same prompt with the same random weights, top-k 50,
in float32. Times are the fastest of ``--rounds`` interleaved runs. ``--nanogpt`` is a checkout of
karpathy/nanoGPT, whose generate recomputes the whole context for every token.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "src")]

import torch

from benchmarks.contenders import GPT2_124M
from benchmarks.machine import heading, write
from benchmarks.peers import nanogpt_module
from reprogpt.formats import huggingface as hf
from reprogpt.generation.generate import generate
from reprogpt.model.gpt import GPT
from reprogpt.model.kernels.packed_linear import packed
from reprogpt.model.registry import build_model
from reprogpt.runtime.device import pick_device, synchronize

PROMPT = [15496, 11, 314, 1101, 257, 3303, 2746, 11]  # "Hello, I'm a language model,"
TOP_K = 50


def by_transformers(model: GPT, rows: int, tokens: int) -> Callable[[], object]:
    from transformers import GPT2LMHeadModel

    with tempfile.TemporaryDirectory() as folder:
        hf.save_model(Path(folder) / "gpt", model, GPT2_124M, None)
        other = GPT2LMHeadModel.from_pretrained(Path(folder) / "gpt").eval()
    other.to(model.head_weight.device)
    prompt = torch.tensor([PROMPT] * rows, device=other.device)
    return lambda: other.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=True,
                                  top_k=TOP_K, min_new_tokens=tokens, max_new_tokens=tokens,
                                  pad_token_id=50256)


def by_nanogpt(folder: Path, model: GPT, rows: int, tokens: int) -> Callable[[], object]:
    theirs = nanogpt_module(folder)
    other = theirs.GPT(theirs.GPTConfig(vocab_size=50304, bias=True)).eval()
    other.to(model.head_weight.device)
    state = {f"transformer.{k}": v for k, v in model.state_dict().items()}
    other.load_state_dict(state | {"lm_head.weight": model.wte.weight}, strict=False)
    prompt = torch.tensor([PROMPT] * rows, device=model.head_weight.device)

    def work() -> object:
        with torch.no_grad():
            return other.generate(prompt, tokens, top_k=TOP_K)

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows, tokens = options.sequences, options.tokens
    model = build_model(GPT2_124M, 50257).eval()
    model.init_weights(torch.Generator().manual_seed(0))
    device = pick_device(options.device)
    model.to(device)

    def ours(m: GPT) -> Callable[[], object]:
        return lambda: generate(m, [PROMPT] * rows, tokens, seeds=range(rows), top_k=TOP_K)

    contenders = {"reprogpt": ours(packed(model)),
                  "transformers generate": by_transformers(model, rows, tokens)}
    if device.type == "cpu":
        contenders["reprogpt, not packed"] = ours(model)
    if options.nanogpt:
        contenders["nanoGPT"] = by_nanogpt(options.nanogpt, model, rows, tokens)
    seconds = dict.fromkeys(contenders, float("inf"))
    for _ in range(options.rounds):
        for name, work in contenders.items():
            start = time.perf_counter()
            work()
            synchronize(device)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    print(heading(device))
    print(f"{rows} sequences, {tokens} new tokens each, {torch.get_num_threads()} threads")
    print(f"{'':24}{'tokens/s':>10}{'reprogpt is faster by':>24}")
    for name, taken in seconds.items():
        print(f"{name:24}{rows * tokens / taken:10.1f}{taken / seconds['reprogpt']:24.2f}")
    write(options.json, {"sequences": rows, "new_tokens": tokens, "seconds": seconds}, device)


if __name__ == "__main__":
    main()
