"""Interactive prompts at a terminal; tokens are printed as they are sampled."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from reprogpt.config import SampleConfig, TaskConfig
from reprogpt.data.arithmetic import END, Problem, result, written_by_hand
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

TASK_HELP = "A problem such as 12+34 is put into the form that the model was trained on. "


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


def stream_answer(model: GPT, tokenizer: Tokenizer, problem: Problem, task: TaskConfig,
                  cfg: SampleConfig, seed: int) -> Iterator[str]:
    """The problem and the model's answer in parts, as the model writes them, to the line break;
    then a line with its result as a person writes it, and the right one where it is wrong."""
    room = model.cfg.block_size - len(tokenizer.encode(problem.prompt))
    cfg, answer = cfg.model_copy(update={"max_new_tokens": max(1, room)}), ""
    yield problem.prompt
    for part in stream_text(model, tokenizer, problem.prompt, cfg, seed):
        written, end, _ = part.partition(END)
        answer += written
        yield written
        if end:
            break
    found, right = result(answer, task), result(problem.answer, task)
    verdict = "" if found == right else f" (wrong: {right})"
    yield f"\n{problem.a}{problem.operator}{problem.b} = {'?' if found is None else found}{verdict}"


def converse(model_dir: Path, cfg: SampleConfig, seed: int, device: str,
             source: TextIO | None = None, out: TextIO | None = None,
             task: tuple[str, TaskConfig] | None = None) -> None:
    """Reads prompts from ``source``, a line each, and prints a sample of each, until the end of
    input (Ctrl-D) or Ctrl-C at the prompt. Every sample has the next seed. ``task``: the corpus
    and section task of a model of arithmetic, which is given problems. Raises ValueError when
    ``model_dir`` holds no model."""
    source, out = source or sys.stdin, out or sys.stdout
    model, _ = load_model(model_dir, pick_device(device))
    tokenizer = load_tokenizer(model_dir)
    text = (TASK_HELP if task else "") + HELP
    print(f"{model_dir}: {model.num_parameters():,} parameters. {text}", file=out)
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
            print(text, file=out)
            continue
        prompt = line.rstrip("\n").replace("\\n", "\n")
        try:
            if task and (problem := written_by_hand(prompt, *task)):
                parts = stream_answer(model, tokenizer, problem, task[1], cfg, seed)
            else:
                parts = itertools.chain([prompt], stream_text(model, tokenizer, prompt, cfg, seed))
            for part in parts:
                print(printable(part, TEXT), end="", file=out, flush=True)
        except KeyboardInterrupt:
            pass
        except ConfigError as error:  # an unknown character or problem: go on with the next
            print(f"\n{printable(str(error))}", end="", file=out)
        print(file=out)
        seed += 1
