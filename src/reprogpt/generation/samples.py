"""Samples of a model: prompts from the params in, a Markdown page out."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from reprogpt.config import SampleConfig
from reprogpt.errors import ConfigError, printable
from reprogpt.generation.generate import generate
from reprogpt.model.gpt import GPT
from reprogpt.storage.files import TEXT_ENCODING
from reprogpt.storage.paths import text_file
from reprogpt.tokens.tokenizers import Tokenizer

T = TypeVar("T")
CACHED_TOKENS = 1 << 15
"""Positions in the key-value cache of one batch: 2.4 GB for GPT-2 (124M), 74 kB a position."""


def read_prompts(cfg: SampleConfig) -> list[str]:
    """``cfg.prompts`` and the lines of ``cfg.prompts_file``. Raises ConfigError."""
    prompts = list(cfg.prompts)
    if cfg.prompts_file is not None:
        file = text_file("sample.prompts_file", cfg.prompts_file)
        try:
            text = file.read_text(encoding=TEXT_ENCODING)
        except (OSError, ValueError) as error:  # not UTF-8, or not a file name
            raise ConfigError(f"params.yaml: sample.prompts_file={cfg.prompts_file!r} must be a "
                              f"UTF-8 text file with a prompt on each line: {error}") from None
        prompts += [line for line in text.splitlines() if line.strip()]
    return prompts


def encode_prompt(prompt: str, tokenizer: Tokenizer, key: str) -> list[int]:
    """Token ids of a prompt, at least one: an empty prompt is <|endoftext|>, or a line break where
    the tokenizer has none. Raises ConfigError naming ``key`` for characters not in the vocabulary.
    """
    try:
        ids: list[int] = tokenizer.encode(prompt).tolist()
        if not ids:
            ids = [tokenizer.eot] if tokenizer.eot is not None else tokenizer.encode("\n").tolist()
    except ValueError as error:
        raise ConfigError(f"{key}: {prompt!r}: {error}") from None
    if not ids:
        raise ConfigError(f"{key}: {prompt!r} must contain at least one character of the training "
                          "text; add one")
    return ids


def encode_prompts(cfg: SampleConfig, tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of each of :func:`read_prompts`. Raises ConfigError."""
    prompts = read_prompts(cfg)
    keys = ["params.yaml: sample.prompts"] * len(cfg.prompts)
    keys += [f"params.yaml: sample.prompts_file={cfg.prompts_file!r}"] * (len(prompts) - len(keys))
    return [encode_prompt(p, tokenizer, key) for p, key in zip(prompts, keys, strict=True)]


def write(model: GPT, tokenizer: Tokenizer, cfg: SampleConfig, seed: int) -> list[list[str]]:
    """``cfg.num_samples`` continuations of each prompt, without the prompt.

    Sample k is drawn with seed + k, and does not depend on other prompts and samples.
    """
    prompts = encode_prompts(cfg, tokenizer)
    asked = [(prompt, seed + k) for prompt in prompts for k in range(cfg.num_samples)]
    longest = min(model.cfg.block_size, max(map(len, prompts)) + cfg.max_new_tokens)
    texts: list[str] = []
    for batch in batched(asked, max(1, CACHED_TOKENS // longest)):
        rows = generate(model, [prompt for prompt, _ in batch], cfg.max_new_tokens,
                        seeds=[seed for _, seed in batch], temperature=cfg.temperature,
                        top_k=cfg.top_k, top_p=cfg.top_p, stop=tokenizer.eot,
                        repetition_penalty=cfg.repetition_penalty)
        texts += [text_of(row, tokenizer) for row in rows]
    return [list(of_prompt) for of_prompt in batched(texts, cfg.num_samples)]


def batched(items: Sequence[T], size: int) -> Iterator[tuple[T, ...]]:
    """Tuples of ``size`` items, the last of what is left (itertools has it from Python 3.12)."""
    left = iter(items)
    while batch := tuple(islice(left, size)):
        yield batch


def text_of(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Generated tokens as text, up to <|endoftext|>."""
    kept = list(ids)
    if tokenizer.eot in kept:
        kept = kept[:kept.index(tokenizer.eot)]
    return tokenizer.decode(np.array(kept, dtype=np.int64))


def page(title: str, cfg: SampleConfig, seed: int, samples: Sequence[Sequence[str]]) -> str:
    """A Markdown page of samples: the settings, then a section for each prompt."""
    settings = [f"temperature {cfg.temperature:g}" if cfg.temperature else "greedy"]
    settings += [f"{name} {value:g}" for name, value in
                 (("top-k", cfg.top_k), ("top-p", cfg.top_p)) if value is not None]
    if cfg.repetition_penalty != 1.0:
        settings.append(f"repetition penalty {cfg.repetition_penalty:g}")
    settings.append(f"at most {cfg.max_new_tokens} tokens")
    parts = [f"# {title}", ", ".join(settings).capitalize() + "."]
    for prompt, texts in zip(read_prompts(cfg), samples, strict=True):
        line = printable(" ".join(prompt.split()))
        line = line if len(line) <= 60 else line[:57] + "..."
        parts.append(f"## {_code(line) if line else '(no prompt)'}")
        parts += blocks(prompt, texts, seed)
    return "\n\n".join(parts) + "\n"


def blocks(prompt: str, texts: Sequence[str], seed: int) -> list[str]:
    """Markdown paragraphs: each sample of a prompt as a code block, under its seed. Control
    characters are spelled out, or `cat metrics/samples.md` would obey a model."""
    parts = []
    for k, text in enumerate(texts):
        whole = printable((prompt + text).rstrip(), keep="\n\t")
        fence = "`" * max(3, _longest_backticks(whole) + 1)
        parts += [f"Sample {k + 1} of {len(texts)}, seed {seed + k}:",
                  f"{fence}text\n{whole}\n{fence}"]
    return parts


def _code(line: str) -> str:
    """A line as Markdown inline code, whatever backticks it contains."""
    ticks = "`" * (_longest_backticks(line) + 1)
    space = " " if "`" in line else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def _longest_backticks(text: str) -> int:
    """Length of the longest run of backticks, which a Markdown fence must exceed."""
    return max(map(len, re.findall("`+", text)), default=0)
