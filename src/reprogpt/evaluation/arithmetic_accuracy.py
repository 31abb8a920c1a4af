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


def _digits(a: int, b: int, _: str) -> str:
    """Of the longer operand."""
    return str(len(str(max(abs(a), abs(b)))))


GROUPS: dict[str, dict[str, Callable[[int, int, str], str]]] = {
    "addition": {"digits": _digits, "carries": lambda a, b, _: str(carries(a, b))},
    "calculator": {"digits": _digits, "operator": lambda a, b, operator: operator},
}
"""What accuracy is also broken down by: corpus -> name -> (a, b, operator) -> group."""


def accuracy(corpus: str, model: GPT, tokenizer: Tokenizer, stream: Stream) -> dict[str, Any]:
    """``accuracy`` of greedy decoding over the ``problems`` of a split, that of GROUPS, and as the
    rows of a plot ``solved``, that by operator and digits.

    An answer is correct when it equals the corpus's, its scratchpad steps included.
    """
    ids = stream.read(0, stream.n_tokens)
    text = tokenizer.decode(ids[ids != tokenizer.eot] if tokenizer.eot is not None else ids)
    lines = [line for line in text.split(END) if line]
    problems = [parse(split(line)[0]) for line in lines]
    correct = [generated == split(line)[1] for line, generated in
               zip(lines, answers(model, tokenizer, lines), strict=True)]

    def by(group: Callable[[int, int, str], Any]) -> dict[Any, float]:
        found = defaultdict(list)
        for problem, right in zip(problems, correct, strict=True):
            found[group(*problem)].append(right)
        return {key: _mean(rights) for key, rights in sorted(found.items())}

    solved = by(lambda a, b, operator: ("+-*/".index(operator), _digits(a, b, operator)))
    return {"accuracy": _mean(correct), "problems": len(correct),
            **{name: by(group) for name, group in GROUPS[corpus].items()},
            "solved": [{"kind": f"{digits}-digit {'+-*/'[n]}", "solved": share}
                       for (n, digits), share in solved.items()]}


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
