"""Two runs' answers to HellaSwag, question by question: what one knows and the other does not.

Two figures a point apart may be luck. On the questions that both were asked, only those which one
answers right and the other wrong say anything; McNemar's test (1947) asks how often a fair coin
would fall as unevenly.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FIGURES = ("acc", "acc_norm", "lm_eval_acc", "lm_eval_acc_norm")
_KEYS = ("index", "label", "nll", "lm_eval_nll", *(f"pred_{name}" for name in FIGURES))


def read_answers(file: Path) -> dict[int, dict[str, Any]]:
    """The records of a hellaswag.jsonl by the question's index. Raises ValueError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        answers = dict(_record(line, number) for number, line in enumerate(lines, 1))
        if not answers:
            raise ValueError("it has no question (is evaluate.hellaswag_examples 0?)")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{file}: must be a hellaswag.jsonl of the stage evaluate: {reason}; "
                         "run that stage, or name another file") from None
    return answers


def _record(line: str, number: int) -> tuple[int, dict[str, Any]]:
    """A question's index, and all that is known of the answer to it."""
    try:
        record = json.loads(line)
    except ValueError:
        raise ValueError(f"line {number} is not JSON") from None
    if not isinstance(record, dict):
        raise ValueError(f"line {number} is not a record")
    lacking = [key for key in _KEYS if key not in record]
    if lacking:
        raise ValueError(f"line {number} has no {lacking[0]}")
    if type(record["index"]) is not int:
        raise ValueError(f"line {number} has index {record['index']!r}, which is no whole number")
    return record["index"], record


def compare(a: dict[int, dict[str, Any]], b: dict[int, dict[str, Any]]) -> Iterator[str]:
    """Lines of text: by figure, the questions both, one or none got right, and the odds of luck.

    Raises ValueError when no question was asked of both.
    """
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise ValueError(f"none of A's {len(a)} questions is among B's {len(b)}; compare runs with "
                         "the same evaluate.hellaswag_examples")
    yield f"{len(shared)} questions in both; {len(a)} in A, {len(b)} in B"
    yield f"{'figure':18}{'both':>6}{'A only':>8}{'B only':>8}{'none':>6}{'by luck':>9}"
    for name in FIGURES:
        right = [tuple(run[i][f"pred_{name}"] == run[i]["label"] for run in (a, b))
                 for i in shared]
        both, only_a, only_b, none = (right.count(kind) for kind in (
            (True, True), (True, False), (False, True), (False, False)))
        yield (f"{name:18}{both:6}{only_a:8}{only_b:8}{none:6}"
               f"{luck(only_a, only_b):9.2g}")


def differing(a: dict[int, dict[str, Any]], b: dict[int, dict[str, Any]], figure: str
              ) -> Iterator[str]:
    """A line for each shared question whose prediction by ``figure`` differs, with its nlls."""
    key = f"pred_{figure}"
    sums = "lm_eval_nll" if figure.startswith("lm_eval") else "nll"
    for i in sorted(a.keys() & b.keys()):
        if a[i][key] != b[i][key]:
            yield (f"question {i}, label {a[i]['label']}: A {a[i][key]} of {a[i][sums]}, "
                   f"B {b[i][key]} of {b[i][sums]}")


def luck(wins: int, losses: int) -> float:
    """The exact two-sided p of McNemar's test: how often ``wins + losses`` throws of a fair coin
    fall at least as unevenly."""
    n, least = wins + losses, min(wins, losses)
    tail = sum(math.comb(n, k) for k in range(least + 1))
    return min(1.0, 2 * tail / 2**n)
