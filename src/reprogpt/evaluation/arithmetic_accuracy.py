"""How many held-out problems a model answers exactly, and which ones it finds hard."""

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
"""Problems answered at a time."""


def accuracy(task: str, model: GPT, tokenizer: Tokenizer, stream: Stream) -> dict[str, Any]:
    """Exact match over the problems of a split, greedily answered.

    ``accuracy``, ``problems``, and the accuracy of each group: for `addition` by the number of
    digits of the larger operand and by carries, for `calculator` by operator. With a scratchpad the
    steps count too: an answer is right when all that was written is.
    """
    text = tokenizer.decode(stream.read(0, stream.n_tokens))
    lines = [line for line in text.split(END) if line]
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    hits = []
    for line, written in zip(lines, answers(model, tokenizer, lines), strict=True):
        prompt, answer = split(line)
        hits.append(written == answer)
        for name, group in GROUPS[task].items():
            right[name][group(*parse(prompt))].append(hits[-1])
    groups = {name: {key: round(float(np.mean(found)), 4) for key, found in sorted(of.items())}
              for name, of in right.items()}
    return {"accuracy": round(float(np.mean(hits)), 4), "problems": len(hits), **groups}


def answers(model: GPT, tokenizer: Tokenizer, lines: list[str]) -> list[str]:
    """What the model writes after each line's equals sign, up to the line break."""
    end = int(tokenizer.encode(END)[0])
    longest = max((len(split(line)[1]) for line in lines), default=0)
    written: list[str] = []
    for start in range(0, len(lines), BATCH):
        prompts = [tokenizer.encode(split(line)[0]).tolist() for line in lines[start:start + BATCH]]
        rows = generate(model, prompts, longest + 1, temperature=0.0, stop=end)
        written += [tokenizer.decode(row).partition(END)[0] for row in rows]
    return written


def split(line: str) -> tuple[str, str]:
    """``12+3=15`` -> (``12+3=``, ``15``): the first equals sign ends the prompt."""
    given, equals, answer = line.partition("=")
    return given + equals, answer


Group = Callable[[int, int, str], str]
GROUPS: dict[str, dict[str, Group]] = {
    "addition": {
        "digits": lambda a, b, _: str(max(len(str(a)), len(str(b)))),
        "carries": lambda a, b, _: str(carries(a, b)),
    },
    "calculator": {"operator": lambda a, b, operator: operator},
}
