"""Progress of a long job: a bar on a terminal; elsewhere, as in a CI log, a line now and then."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 10.0
"""Seconds between two lines of a job whose standard error is no terminal."""


class _Lines:
    """A file for tqdm: what it would draw over the last state becomes a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """tqdm calls it; every line is written at once."""


def progress(items: Iterable[Any] | None = None, desc: str = "", total: float | None = None,
             **options: Any) -> "tqdm[Any]":
    """A tqdm bar. Without a terminal: a line every LINE_SECONDS, none for a job that takes less.
    ``options``: those of tqdm."""
    if sys.stderr.isatty():
        return tqdm(items, desc, total, **{"dynamic_ncols": True, **options})
    return tqdm(items, desc, total, **{
        "file": _Lines(), "leave": False, "miniters": 1, "mininterval": LINE_SECONDS,
        "bar_format": "{desc}: {n_fmt}/{total_fmt}{unit}, {rate_fmt}, {remaining} left",
        **options, "delay": 1e-9})  # a delay of 0 would print the state before the first step
