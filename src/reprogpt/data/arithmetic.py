"""Generated arithmetic: problems with right answers, the corpora `addition` and `calculator`.

Everything follows from section download.task: the same problems on every machine. A problem and
the one with its operands swapped are both for training or both for testing.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from reprogpt.config import TaskConfig
from reprogpt.errors import ConfigError

END = "\n"
VERSION = 1
"""Part of the corpus's identity: raise it when the same params give other text."""


@dataclass(frozen=True)
class Problem:
    """``a operator b`` as a prompt, and the answer."""

    a: int
    b: int
    operator: str
    prompt: str
    """With the equals sign."""
    answer: str
    """With the steps before it in brackets, if there are any; without the line break."""

    @property
    def key(self) -> str:
        """The same for ``a op b`` and ``b op a`` if the operation is commutative."""
        pair = sorted((self.a, self.b)) if self.operator in "+*" else [self.a, self.b]
        return f"{pair[0]}{self.operator}{pair[1]}"


def pose(task: str, cfg: TaskConfig, a: int, b: int, operator: str) -> Problem:
    """The problem as a corpus writes it.

    `addition`: ``012+345=0357``, all with leading zeros. `calculator`: ``-12*7=-84``; division is
    Python's ``//``, rounded down; ``scratchpad`` puts the steps before the result. ``reverse``
    writes the result backwards: each digit then follows from two digits and the carry before it,
    while otherwise the first digit already depends on every carry.
    """
    steps = ""
    if task == "addition":
        prompt, answer = f"{a:0{cfg.digits}d}+{b:0{cfg.digits}d}=", f"{a + b:0{cfg.digits + 1}d}"
    else:
        found = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}
        prompt, answer = f"{a}{operator}{b}=", str(found[operator])
        if cfg.scratchpad:
            steps = f"[{','.join(scratchpad(a, b, operator))}]"
    return Problem(a, b, operator, prompt, steps + (answer[::-1] if cfg.reverse else answer))


def scratchpad(a: int, b: int, operator: str) -> Iterator[str]:
    """The steps of working out |a| and |b| on paper; each is a small sum.

    +, -: column by column from the last, with the carry or borrow (from the larger number); the
    signs decide which of the two. *: |a| times each digit of |b| from the last. /: each digit of
    |a| brought down to the remainder.
    """
    x, y = abs(a), abs(b)
    if operator in "+-":
        if (a < 0) != (b < 0):
            operator = "-" if operator == "+" else "+"
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
    """``cfg.examples`` different problems. Raises ConfigError when there are not so many.

    For each the largest number of digits is drawn first, from 1 to ``digits``: otherwise short
    operands, of which there are few, would hardly occur.
    """
    draw = random.Random(f"{VERSION} {task} {cfg.seed}")
    seen: set[str] = set()
    repeats = 0
    while len(seen) < cfg.examples:
        below = 10 ** draw.randint(1, cfg.digits)
        if task == "addition":
            problem = pose(task, cfg, draw.randrange(below), draw.randrange(below), "+")
        else:
            a, b = draw.randint(1 - below, below - 1), draw.randint(1 - below, below - 1)
            problem = pose(task, cfg, a, b or 1, draw.choice("+-*/"))
        if problem.prompt not in seen:
            seen.add(problem.prompt)
            repeats = 0
            yield problem
        elif (repeats := repeats + 1) > 10_000:
            raise ConfigError(f"params.yaml: download.task.examples={cfg.examples} is more than "
                              f"there are problems of {cfg.digits} digits; try {len(seen) // 2}")


def held_out(problem: Problem, cfg: TaskConfig) -> bool:
    """Whether a problem is for testing: a hash of the problem decides, not what else was drawn."""
    digest = hashlib.sha256(f"{cfg.seed}:{problem.key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < cfg.held_out * 2**64


def longest(task: str, cfg: TaskConfig) -> int:
    """Characters of the longest problem of a task, with its answer and line break."""
    nines = 10**cfg.digits - 1
    if task == "addition":
        operands, operators = [(nines, nines)], "+"
    else:  # among quotients with steps, those by 9..9 and 50..0 are the longest
        divisors = [y for d in range(1, cfg.digits + 1) for y in (10**d - 1, 10**d // 2)]
        operands, operators = [(x, -y) for x in (nines, -nines) for y in divisors], "+-*/"
    extremes = [pose(task, cfg, a, b, operator) for a, b in operands for operator in operators]
    return max(len(p.prompt + p.answer) for p in extremes) + len(END)


def parse(prompt: str) -> tuple[int, int, str]:
    """a, b and the operator of a prompt such as ``-12*7=``. Raises ValueError for other text."""
    found = re.fullmatch(r"(-?\d+)([-+*/])(-?\d+)=", prompt)
    if found is None:
        raise ValueError(f"{prompt!r} is no problem")
    return int(found[1]), int(found[3]), found[2]


def written_by_hand(text: str, task: str, cfg: TaskConfig) -> Problem | None:
    """A problem as a person writes it, ``12 + 34`` or ``7×-8=``, as the task poses it; None for
    other text. Raises ConfigError for a problem that the task has not."""
    text = "".join(text.translate(str.maketrans("×·÷−", "**/-")).split()).rstrip("=")
    try:
        a, b, operator = parse(f"{text}=")
    except ValueError:
        return None
    least = 0 if task == "addition" else -(10**cfg.digits - 1)
    if task == "addition" and operator != "+":
        raise ConfigError(f"{text}: must be a sum, all that corpus addition has; write "
                          f"{abs(a)}+{abs(b)}")
    if not least <= min(a, b) <= max(a, b) < 10**cfg.digits:
        raise ConfigError(f"{text}: numbers must be {least} to {10**cfg.digits - 1}, as in "
                          f"download.task.digits = {cfg.digits}; write smaller ones")
    if operator == "/" and not b:
        raise ConfigError(f"{text}: must not divide by 0; write another number")
    return pose(task, cfg, a, b, operator)


def result(answer: str, cfg: TaskConfig) -> int | None:
    """The number that an answer states after its steps; None if it states none."""
    digits = answer.rpartition("]")[2][::-1 if cfg.reverse else 1]
    return int(digits) if re.fullmatch(r"-?[0-9]+", digits) else None


def carries(a: int, b: int) -> int:
    """The number of carries when a and b >= 0 are added."""
    count = carry = 0
    while a or b or carry:
        carry = int(a % 10 + b % 10 + carry > 9)
        count += carry
        a, b = a // 10, b // 10
    return count
