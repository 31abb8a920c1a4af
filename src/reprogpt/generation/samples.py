"""What the model writes, as a page to read: prompts in, Markdown out."""

from collections.abc import Sequence

import numpy as np

from reprogpt.config import SampleConfig
from reprogpt.errors import ConfigError
from reprogpt.generation.generate import generate
from reprogpt.model.gpt import GPT
from reprogpt.storage.files import TEXT_ENCODING
from reprogpt.storage.paths import local_path
from reprogpt.tokens.tokenizers import Tokenizer


def read_prompts(cfg: SampleConfig) -> list[str]:
    """The prompts of the params, and those of ``prompts_file``. Raises ConfigError."""
    prompts = list(cfg.prompts)
    if cfg.prompts_file is not None:
        try:
            text = local_path(cfg.prompts_file).read_text(encoding=TEXT_ENCODING)
        except (OSError, ValueError) as error:  # not UTF-8, or no name of a file
            raise ConfigError(f"params.yaml: sample.prompts_file={cfg.prompts_file!r} must be a "
                              f"UTF-8 text file with a prompt on each line: {error}") from None
        prompts += [line for line in text.splitlines() if line.strip()]
    return prompts


def encode_prompt(prompt: str, tokenizer: Tokenizer,
                  key: str = "params.yaml: sample.prompts") -> list[int]:
    """A prompt's token ids: never none. An empty prompt is the start of a document, which for
    tokenizers without <|endoftext|> is a line's. Raises ConfigError for unknown characters,
    naming ``key``, where the prompt stands."""
    try:
        ids: list[int] = tokenizer.encode(prompt).tolist()
        if not ids:
            ids = [tokenizer.eot] if tokenizer.eot is not None else tokenizer.encode("\n").tolist()
    except ValueError as error:
        raise ConfigError(f"{key}: {prompt!r}: {error}") from None
    if not ids:
        raise ConfigError(f"{key}: {prompt!r} must hold at least one "
                          "character of the training text; write one")
    return ids


def encode_prompts(cfg: SampleConfig, tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of each of :func:`read_prompts`. Raises ConfigError."""
    keys = ["params.yaml: sample.prompts"] * len(cfg.prompts)
    prompts = read_prompts(cfg)
    keys += [f"params.yaml: sample.prompts_file={cfg.prompts_file!r}"] * (len(prompts) - len(keys))
    return [encode_prompt(p, tokenizer, key) for p, key in zip(prompts, keys, strict=True)]


def write(model: GPT, tokenizer: Tokenizer, cfg: SampleConfig, seed: int) -> list[list[str]]:
    """``num_samples`` continuations of each prompt, without the prompt.

    Sample k is drawn with seed + k whatever the other prompts and samples are.
    """
    prompts = encode_prompts(cfg, tokenizer)
    rows = [p for p in prompts for _ in range(cfg.num_samples)]
    seeds = [seed + k for _ in prompts for k in range(cfg.num_samples)]
    written = generate(model, rows, cfg.max_new_tokens, seeds=seeds,
                       temperature=cfg.temperature, top_k=cfg.top_k, top_p=cfg.top_p,
                       repetition_penalty=cfg.repetition_penalty, stop=tokenizer.eot)
    texts = [text_of(row, tokenizer) for row in written]
    n = cfg.num_samples
    return [texts[i:i + n] for i in range(0, len(texts), n)]


def text_of(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of new tokens, up to <|endoftext|>."""
    kept = list(ids)
    if tokenizer.eot in kept:
        kept = kept[:kept.index(tokenizer.eot)]
    return tokenizer.decode(np.array(kept, dtype=np.int64))


def page(title: str, cfg: SampleConfig, seed: int, samples: Sequence[Sequence[str]]) -> str:
    """The samples as Markdown: each prompt a heading, each sample a block with its seed."""
    settings = [f"temperature {cfg.temperature:g}" if cfg.temperature else "greedy"]
    settings += [f"{name} {value:g}" for name, value in
                 (("top-k", cfg.top_k), ("top-p", cfg.top_p)) if value is not None]
    if cfg.repetition_penalty != 1.0:
        settings.append(f"repetition penalty {cfg.repetition_penalty:g}")
    settings.append(f"at most {cfg.max_new_tokens} tokens")
    parts = [f"# {title}", ", ".join(settings).capitalize() + "."]
    for prompt, texts in zip(read_prompts(cfg), samples, strict=True):
        parts.append(f"## {_inline(prompt)}")
        parts += blocks(prompt, texts, seed)
    return "\n\n".join(parts) + "\n"


def blocks(prompt: str, texts: Sequence[str], seed: int) -> list[str]:
    """The samples of one prompt, each with its seed and whole, as paragraphs of Markdown."""
    parts = []
    for k, text in enumerate(texts):
        whole = prompt + text
        fence = "`" * max(3, _longest_run(whole) + 1)
        parts += [f"Sample {k + 1} of {len(texts)}, seed {seed + k}:",
                  f"{fence}text\n{whole.rstrip()}\n{fence}"]
    return parts


def _inline(prompt: str) -> str:
    """A prompt as a heading: on one line, and not taken for markup."""
    line = " ".join(prompt.split())
    if not line:
        return "(no prompt)"
    shown = line if len(line) <= 60 else line[:57] + "..."
    ticks = "`" * (_longest_run(shown) + 1)
    space = " " if "`" in shown else ""
    return f"{ticks}{space}{shown}{space}{ticks}"


def _longest_run(text: str) -> int:
    """Length of the longest run of backticks, which a fence must exceed."""
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return longest
