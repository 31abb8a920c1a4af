"""Interactive prompts at a terminal; tokens are printed as they are sampled."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from reprogpt.config import SampleConfig
from reprogpt.errors import ConfigError, printable
from reprogpt.formats.huggingface import load_model
from reprogpt.generation.generate import stream
from reprogpt.generation.samples import encode_prompt, text_of
from reprogpt.model.gpt import GPT
from reprogpt.model.kernels.packed_linear import packed
from reprogpt.runtime.device import pick_device
from reprogpt.tokens.tokenizers import Tokenizer, load_tokenizer

TEXT = "\n\t"
"""Control characters of ordinary text; a terminal must not obey any other that a model writes."""
HELP = (r"A prompt and Enter samples a continuation (\n in it is a line break). Commands: /help "
        "prints this line, Ctrl-C stops the sample (or, at the prompt, ends), Ctrl-D ends.")


def stream_text(model: GPT, tokenizer: Tokenizer, prompt: str, cfg: SampleConfig,
                seed: int) -> Iterator[str]:
    """The continuation of a prompt in parts, as it is sampled; parts are whole characters."""
    ids: list[int] = []
    shown = ""
    row = encode_prompt(prompt, tokenizer, "prompt")
    steps = stream(model, [row], cfg.max_new_tokens, seeds=[seed],
                   temperature=cfg.temperature, top_k=cfg.top_k, top_p=cfg.top_p,
                   repetition_penalty=cfg.repetition_penalty, stop=tokenizer.eot)
    for (token,) in steps:
        assert token is not None, "with one sequence, the stream ends when it stops"
        ids.append(token)
        text = text_of(ids, tokenizer).rstrip("\ufffd")  # bytes of an incomplete character
        if text.startswith(shown):
            yield text[len(shown):]
            shown = text
    yield text_of(ids, tokenizer)[len(shown):]


def converse(model_dir: Path, cfg: SampleConfig, seed: int, device: str,
             source: TextIO | None = None, out: TextIO | None = None) -> None:
    """Reads prompts from ``source``, a line each, and prints a sample of each, until the end of
    input (Ctrl-D) or Ctrl-C at the prompt. Every sample has the next seed. Raises ValueError when
    ``model_dir`` holds no model."""
    source, out = source or sys.stdin, out or sys.stdout
    model, _ = load_model(model_dir, pick_device(device))
    tokenizer = load_tokenizer(model_dir)
    print(f"{model_dir}: {model.num_parameters():,} parameters. {HELP}", file=out)
    model = packed(model)  # after num_parameters: packed weights are not parameters
    while True:
        print("\n> ", end="", file=out, flush=True)
        try:
            line = source.readline()
        except KeyboardInterrupt:
            line = ""
        if not line:
            print(file=out)
            return
        if line.strip() == "/help":
            print(HELP, file=out)
            continue
        prompt = line.rstrip("\n").replace("\\n", "\n")
        try:
            print(printable(prompt, TEXT), end="", file=out, flush=True)
            for part in stream_text(model, tokenizer, prompt, cfg, seed):
                print(printable(part, TEXT), end="", file=out, flush=True)
        except KeyboardInterrupt:
            pass
        except ConfigError as error:  # a character not in the vocabulary: go on with the next
            print(f"\n{printable(str(error))}", end="", file=out)
        print(file=out)
        seed += 1
