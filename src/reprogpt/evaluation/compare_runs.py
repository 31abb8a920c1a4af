"""Compares two runs' HellaSwag predictions question by question, with McNemar's test.

Two accuracies that differ by a point may differ by chance. Only the questions that one run answers
correctly and the other does not tell the runs apart (McNemar, 1947).
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METRICS = ("acc", "acc_norm", "lm_eval_acc", "lm_eval_acc_norm")
_KEYS = ("index", "label", "nll", "lm_eval_nll", *(f"pred_{name}" for name in METRICS))

Records = dict[int, dict[str, Any]]
"""Lines of a hellaswag.jsonl by the question's index."""


def read_records(file: Path) -> Records:
    """Reads a hellaswag.jsonl. Raises ValueError naming the file, the line and what is wrong."""
    try:
        records = dict(_record(line, number) for number, line in
                       enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if line)
        if not records:
            raise ValueError("it has no question (is evaluate.hellaswag_examples 0?)")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{file}: must be a hellaswag.jsonl of the stage evaluate: {reason}; "
                         "run that stage, or name another file") from None
    return records


def _record(line: str, number: int) -> tuple[int, dict[str, Any]]:
    """A line's question index, and its values."""
    try:
        record = json.loads(line)
        return int(record["index"]), {key: record[key] for key in _KEYS}
    except KeyError as error:
        raise ValueError(f"line {number} has no {error.args[0]}") from None
    except (ValueError, TypeError):
        raise ValueError(f"line {number} is not a JSON object with an index") from None


def compare(a: Records, b: Records) -> Iterator[str]:
    """A table, line by line: for each metric, how many of the questions in both files both, one or
    neither of the runs answer correctly, and McNemar's p.

    Raises ValueError when no question is in both files.
    """
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise ValueError(f"none of A's {len(a)} questions is among B's {len(b)}; compare runs with "
                         "the same evaluate.hellaswag_examples")
    yield f"{len(shared)} questions in both; {len(a)} in A, {len(b)} in B"
    yield f"{'metric':18}{'both':>6}{'A only':>8}{'B only':>8}{'neither':>9}{'p':>9}"
    for name in METRICS:
        correct = [tuple(run[i][f"pred_{name}"] == run[i]["label"] for run in (a, b))
                   for i in shared]
        both, only_a, only_b, neither = (correct.count(kind) for kind in (
            (True, True), (True, False), (False, True), (False, False)))
        yield (f"{name:18}{both:6}{only_a:8}{only_b:8}{neither:9}"
               f"{mcnemar_p(only_a, only_b):9.2g}")


def differences(a: Records, b: Records, metric: str) -> Iterator[str]:
    """A line for each shared question that the runs predict differently by ``metric``."""
    key = f"pred_{metric}"
    nll = "lm_eval_nll" if metric.startswith("lm_eval") else "nll"
    for i in sorted(a.keys() & b.keys()):
        if a[i][key] != b[i][key]:
            yield (f"question {i}, label {a[i]['label']}: A {a[i][key]} of {a[i][nll]}, "
                   f"B {b[i][key]} of {b[i][nll]}")


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Two-sided p of McNemar's exact test: the probability that ``only_a + only_b`` tosses of a
    fair coin split at least as unevenly."""
    n, least = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(least + 1))
    return min(1.0, 2 * tail / 2**n)
