"""Sums to learn: problems that are made rather than found, and the right answers to them.

Everything follows from download.task: the same problems on every machine. A problem, whichever way
round its operands stand, is for training or for testing, never for both. generated.py makes a
corpus of them, task_accuracy.py counts how many a model gets right.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from reprogpt.config import TaskConfig
from reprogpt.errors import ConfigError

END = "\n"
VERSION = 1
"""Part of the identity of what is generated: raise it when the same params give other text."""


@dataclass(frozen=True)
class Problem:
    """``a op b`` and what to write after the equals sign."""

    a: int
    b: int
    operator: str
    prompt: str
    """As far as it is given, the equals sign included."""
    answer: str
    """Steps in brackets first, if there are any; without the line break."""

    @property
    def key(self) -> str:
        """The same for problems that differ only in the order in which nothing changes."""
        pair = sorted((self.a, self.b)) if self.operator in "+*" else [self.a, self.b]
        return f"{pair[0]}{self.operator}{pair[1]}"


def addition(cfg: TaskConfig, a: int, b: int) -> Problem:
    """``012+345=0357``, all with their leading zeros; with ``reverse`` the answer is ``7530``.

    Reversed, each digit follows from two digits and the carry that was just decided. Plain, the
    first digit already depends on every carry to come.
    """
    answer = f"{a + b:0{cfg.digits + 1}d}"
    return Problem(a, b, "+", f"{a:0{cfg.digits}d}+{b:0{cfg.digits}d}=",
                   answer[::-1] if cfg.reverse else answer)


def calculator(cfg: TaskConfig, a: int, b: int, operator: str) -> Problem:
    """``-12*7=-84``; division is Python's ``//``, rounded down. ``reverse`` writes the answer's
    digits from the last, its sign at the end; ``scratchpad`` puts the steps before it."""
    result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[operator]
    answer = str(result)[::-1] if cfg.reverse else str(result)
    steps = f"[{','.join(scratchpad(abs(a), abs(b), unsigned(a, b, operator)))}]"
    return Problem(a, b, operator, f"{a}{operator}{b}=", (steps if cfg.scratchpad else "") + answer)


def unsigned(a: int, b: int, operator: str) -> str:
    """The operation that is left to do on |a| and |b|: of + and -, the signs decide which."""
    if operator not in "+-":
        return operator
    same_sign = (a < 0) == ((b < 0) != (operator == "-"))
    return "+" if same_sign else "-"


def scratchpad(x: int, y: int, operator: str) -> Iterator[str]:
    """How one works it out on paper, x and y >= 0; each step is a sum small enough to know.

    +, -: column by column from the last, with what was carried or borrowed (from the larger).
    *: x times each digit of y from the last. /: each digit of x brought down to the remainder.
    """
    if operator in "+-":
        if operator == "-" and x < y:
            x, y = y, x
        carry = 0
        for column in range(max(len(str(x)), len(str(y)))):
            p, q = x // 10**column % 10, y // 10**column % 10
            total = p + q + carry if operator == "+" else p - q - carry
            yield f"{p}{operator}{q}{operator}{carry}={total}"
            carry = int(total > 9 or total < 0)
    elif operator == "*":
        for digit in reversed(str(y)):
            yield f"{x}*{digit}={x * int(digit)}"
    else:
        rest = 0
        for digit in str(x):
            rest = rest * 10 + int(digit)
            yield f"{rest}/{y}={rest // y}"
            rest %= y


def problems(task: str, cfg: TaskConfig) -> Iterator[Problem]:
    """``cfg.examples`` problems, no two alike. Raises ConfigError when there are not so many.

    Each draw first picks how many digits the operands have at most, 1 to ``digits``, so that the
    short ones, of which there are few, are not lost among the long ones.
    """
    draw, idle = random.Random(f"{VERSION} {task} {cfg.seed}"), 0
    seen: set[str] = set()
    while len(seen) < cfg.examples:
        below = 10 ** draw.randint(1, cfg.digits)
        if task == "addition":
            problem = addition(cfg, draw.randrange(below), draw.randrange(below))
        else:
            a, b = draw.randint(1 - below, below - 1), draw.randint(1 - below, below - 1)
            problem = calculator(cfg, a, b or 1, draw.choice("+-*/"))
        idle += 1
        if problem.prompt not in seen:
            seen.add(problem.prompt)
            idle = 0
            yield problem
        elif idle > 10_000:
            raise ConfigError(f"params.yaml: download.task.examples={cfg.examples} is more than "
                              f"there are problems of {cfg.digits} digits; try {len(seen) // 2}")


def held_out(problem: Problem, cfg: TaskConfig) -> bool:
    """Whether a problem is for testing: decided by itself, not by what else was drawn."""
    digest = hashlib.sha256(f"{cfg.seed}:{problem.key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < cfg.held_out * 2**64


def longest(task: str, cfg: TaskConfig) -> int:
    """Characters of a document of this task: those of its longest problem and the line break."""
    nines = 10**cfg.digits - 1
    if task == "addition":
        extremes = [addition(cfg, nines, nines)]
    else:  # of the quotients with steps, the longest divide by some 9..9 or 50..0
        divisors = [y for d in range(1, cfg.digits + 1) for y in (10**d - 1, 10**d // 2)]
        extremes = [calculator(cfg, x, -y, operator)
                    for x in (nines, -nines) for y in divisors for operator in "+-*/"]
    return max(len(p.prompt + p.answer) for p in extremes) + len(END)


def parse(prompt: str) -> tuple[int, int, str]:
    """a, b and the operator of a prompt such as ``-12*7=``. Raises ValueError for another text."""
    body = prompt.removesuffix("=")
    place = next((i for i, c in enumerate(body) if i and c in "+-*/"), None)
    if place is None:
        raise ValueError(f"{prompt!r} is no problem")
    return int(body[:place]), int(body[place + 1:]), body[place]


def carries(a: int, b: int) -> int:
    """How often something is carried when a and b >= 0 are added."""
    count = carry = 0
    while a or b or carry:
        carry = int(a % 10 + b % 10 + carry > 9)
        count += carry
        a, b = a // 10, b // 10
    return count
