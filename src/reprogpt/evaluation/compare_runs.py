"""Compares two runs' HellaSwag predictions question by question, with McNemar's test.

Only the questions that one run answers correctly and the other does not tell them apart.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reprogpt.evaluation.published import METRICS

_KEYS = {"index", "label", "nll", "lm_eval_nll", *(f"pred_{name}" for name in METRICS)}

Records = dict[int, dict[str, Any]]
"""Lines of a hellaswag.jsonl by the question's index."""


def parse_records(text: str) -> Records:
    """The records of a hellaswag.jsonl, which is a lone line break if nothing was asked."""
    return {line["index"]: line for line in map(json.loads, filter(None, text.splitlines()))}


def read_records(file: Path) -> Records:
    """Reads a hellaswag.jsonl. Raises OSError, and ValueError for one without questions."""
    try:
        records = parse_records(file.read_text(encoding="utf-8"))
        if records and all(type(index) is int and record.keys() >= _KEYS
                           for index, record in records.items()):
            return records
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    raise ValueError(f"{file}: must be a hellaswag.jsonl of the stage evaluate, with questions "
                     "(evaluate.hellaswag_examples); run that stage, or name another file")


def compare(a: Records, b: Records) -> Iterator[str]:
    """A table, line by line: for each metric, how many of the questions in both files both, one or
    neither of the runs answer correctly, and McNemar's p. Raises ValueError without such questions.
    """
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise ValueError(f"none of A's {len(a)} questions is among B's {len(b)}; compare runs with "
                         "the same evaluate.hellaswag_examples")
    yield f"{len(shared)} questions in both; {len(a)} in A, {len(b)} in B"
    yield f"{'metric':18}{'both':>6}{'A only':>8}{'B only':>8}{'neither':>9}{'p':>9}"
    for metric, groups, p in by_correctness(a, b):
        both, only_a, only_b, neither = map(len, groups)
        yield f"{metric:18}{both:6}{only_a:8}{only_b:8}{neither:9}{p:9.2g}"


def by_correctness(a: Records, b: Records) -> Iterator[tuple[str, tuple[set[int], ...], float]]:
    """For each metric: the shared questions that both runs, A only, B only and neither answer
    correctly, and McNemar's p."""
    shared = a.keys() & b.keys()
    for metric in METRICS if shared else ():
        by_a, by_b = ({i for i in shared if run[i][f"pred_{metric}"] == run[i]["label"]}
                      for run in (a, b))
        only_a, only_b = by_a - by_b, by_b - by_a
        yield (metric, (by_a & by_b, only_a, only_b, shared - by_a - by_b),
               mcnemar_p(len(only_a), len(only_b)))


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
