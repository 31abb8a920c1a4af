"""A model at the terminal: prompts in, tokens out as they are drawn."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from reprogpt.config import SampleConfig
from reprogpt.errors import ConfigError
from reprogpt.formats.huggingface import load_model
from reprogpt.generation.generate import stream
from reprogpt.generation.samples import encode_prompt, text_of
from reprogpt.model.gpt import GPT
from reprogpt.model.kernels.packed_linear import packed
from reprogpt.runtime.device import pick_device
from reprogpt.tokens.tokenizers import Tokenizer, load_tokenizer


def pieces(model: GPT, tokenizer: Tokenizer, prompt: str, cfg: SampleConfig,
           seed: int) -> Iterator[str]:
    """The continuation of a prompt, as it comes. A character of several tokens comes whole."""
    ids: list[int] = []
    shown = ""
    row = encode_prompt(prompt, tokenizer, "prompt")
    steps = stream(model, [row], cfg.max_new_tokens, seeds=[seed],
                   temperature=cfg.temperature, top_k=cfg.top_k, top_p=cfg.top_p,
                   repetition_penalty=cfg.repetition_penalty, stop=tokenizer.eot)
    for (token,) in steps:
        assert token is not None, "one sequence: the stream ends when it stops"
        ids.append(token)
        text = text_of(ids, tokenizer).rstrip("\ufffd")  # half a character: wait for the rest
        if text.startswith(shown):
            yield text[len(shown):]
            shown = text
    yield text_of(ids, tokenizer)[len(shown):]


def converse(model_dir: Path, cfg: SampleConfig, seed: int, device: str,
             source: TextIO | None = None, out: TextIO | None = None) -> None:
    """Reads prompts line by line until the end of input, or Ctrl-C in place of a prompt; each
    sample has the next seed.

    Raises ValueError when there is no model.
    """
    source, out = source or sys.stdin, out or sys.stdout
    model, _ = load_model(model_dir, pick_device(device))
    tokenizer = load_tokenizer(model_dir)
    print(f"{model_dir}: {model.num_parameters():,} parameters. A prompt and Enter; "
          "Ctrl-D ends, Ctrl-C stops a sample or ends.", file=out)
    model = packed(model)  # which has its weights in another form
    while True:
        print("\n> ", end="", file=out, flush=True)
        try:
            line = source.readline()
        except KeyboardInterrupt:  # no sample to stop: who asks again to stop means all of it
            line = ""
        if not line:
            print(file=out)
            return
        prompt = line.rstrip("\n").replace("\\n", "\n")
        try:
            print(prompt, end="", file=out, flush=True)
            for piece in pieces(model, tokenizer, prompt, cfg, seed):
                print(piece, end="", file=out, flush=True)
        except KeyboardInterrupt:
            pass
        except ConfigError as error:  # a character that the model never saw: ask again
            print(f"\n{error}", end="", file=out)
        print(file=out)
        seed += 1
