"""Exact-match accuracy of generated answers to the held-out arithmetic problems."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from reprogpt.data.arithmetic import END, carries, parse
from reprogpt.evaluation.validation import Stream
from reprogpt.generation.generate import generate
from reprogpt.model.gpt import GPT
from reprogpt.tokens.tokenizers import Tokenizer

BATCH = 512
"""Problems in a batch."""

GROUPS: dict[str, dict[str, Callable[[int, int, str], str]]] = {
    "addition": {
        "digits": lambda a, b, _: str(max(len(str(a)), len(str(b)))),
        "carries": lambda a, b, _: str(carries(a, b)),
    },
    "calculator": {"operator": lambda a, b, operator: operator},
}
"""What accuracy is also broken down by: corpus -> name -> (a, b, operator) -> group."""


def accuracy(corpus: str, model: GPT, tokenizer: Tokenizer, stream: Stream) -> dict[str, Any]:
    """``accuracy`` of greedy decoding over the ``problems`` of a split, and that of GROUPS.

    An answer is correct when it equals the corpus's, its scratchpad steps included.
    """
    text = tokenizer.decode(stream.read(0, stream.n_tokens))
    lines = [line for line in text.split(END) if line]
    correct = []
    groups: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for line, generated in zip(lines, answers(model, tokenizer, lines), strict=True):
        prompt, answer = split(line)
        correct.append(generated == answer)
        for name, group in GROUPS[corpus].items():
            groups[name][group(*parse(prompt))].append(correct[-1])
    return {"accuracy": _mean(correct), "problems": len(correct),
            **{name: {key: _mean(found) for key, found in sorted(group.items())}
               for name, group in groups.items()}}


def answers(model: GPT, tokenizer: Tokenizer, lines: list[str]) -> list[str]:
    """What the model generates after each line's equals sign, up to the line break."""
    end = int(tokenizer.encode(END)[0])
    longest = max((len(split(line)[1]) for line in lines), default=0)
    generated: list[str] = []
    for start in range(0, len(lines), BATCH):
        prompts = [tokenizer.encode(split(line)[0]).tolist() for line in lines[start:start + BATCH]]
        rows = generate(model, prompts, longest + 1, temperature=0.0, stop=end)
        generated += [tokenizer.decode(row).partition(END)[0] for row in rows]
    return generated


def split(line: str) -> tuple[str, str]:
    """Prompt and answer of a problem, split after the first equals sign: ``12+3=``, ``15``."""
    given, equals, answer = line.partition("=")
    return given + equals, answer


def _mean(correct: list[bool]) -> float:
    return round(float(np.mean(correct)), 4)
